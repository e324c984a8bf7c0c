// One token of the gated delta rule, for its forward and backward passes.
// Included once per target, after kernels/lanes-inl.h.

#if defined(QUANTFIT_MATH_DELTA_NET_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_MATH_DELTA_NET_INL_H_
#undef QUANTFIT_MATH_DELTA_NET_INL_H_
#else
#define QUANTFIT_MATH_DELTA_NET_INL_H_
#endif

#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/math_kernels.h"
#include "kernels/math/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// Decays of one token, one per key dimension.
HWY_INLINE void decays(const DeltaNetShape& shape, const float* g, float* decay) {
  const std::size_t n = shape.key_dim;
  for (std::size_t i = 0; i < n; i += 16) {
    const F log_decay = shape.decay_per_key ? load_first(g + i, n - i) : set(*g);
    store(exp(log_decay), decay + i);
  }
}

// S~ = decay S; e = beta (v - S~^T k); S = S~ + k e^T. `state` is S before, and S after; `decayed`, where it
// is another array, gets S~.

// S~ = decay S; u = v - S~^T k; S = S~ + k (beta u)^T: one token. `after` may be `before`.
HWY_INLINE void delta_step(const DeltaNetShape& shape, const float* k, const float* v, const float* decay,
                           float beta, const float* before, float* after, float* residual) {
  const std::size_t width = padded_width(shape.value_dim);
  for (std::size_t j = 0; j < width; j += 16) {
    F read = zero();
    for (std::size_t i = 0; i < shape.key_dim; ++i) {
      const F decayed = set(decay[i]) * load(before + i * width + j);
      store(decayed, after + i * width + j);
      read = fma(set(k[i]), decayed, read);
    }
    const F u = load_first(v + j, shape.value_dim - j) - read;
    store(u, residual + j);
    const F e = set(beta) * u;
    for (std::size_t i = 0; i < shape.key_dim; ++i) {
      float* at = after + i * width + j;
      store(fma(set(k[i]), e, load(at)), at);
    }
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_MATH_DELTA_NET_INL_H_

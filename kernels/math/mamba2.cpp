// The state space recurrence of mamba2, one head over one sequence.
//
// Lanes are dimensions of the head: row n of the state holds S[*][n], padded to a multiple of sixteen.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

HWY_INLINE std::size_t padded_width(std::size_t n) {
  return (n + 15) / 16 * 16;
}

void mamba2(const Mamba2Shape& shape, const Mamba2Inputs& in, TokenRows<float> out, float* scratch) {
  const std::size_t width = padded_width(shape.head_dim);
  float* state = scratch;
  std::fill(state, state + shape.state_dim * width, 0.0F);
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    const float delta = *in.delta.row(t);
    const F decay = exp(set(delta * shape.a));
    const float* b = in.b.row(t);
    const float* c = in.c.row(t);
    for (std::size_t p = 0; p < width; p += 16) {
      const std::size_t count = shape.head_dim - p;
      const F x = load_first(in.x.row(t) + p, count);
      const F step = set(delta) * x;
      F y = set(shape.d) * x;
      for (std::size_t n = 0; n < shape.state_dim; ++n) {
        float* at = state + n * width + p;
        const F s = fma(set(b[n]), step, decay * load(at));
        store(s, at);
        y = fma(set(c[n]), s, y);
      }
      store_first(y, out.row(t) + p, count);
    }
  }
}

}  // namespace

void fill_mamba2(MathKernels& table) {
  table.mamba2 = mamba2;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

// Gradients of the gated delta rule, backward through time.
//
// States are kept every kBlock tokens and computed again inside a block: dividing by the decay would be
// unstable. With R = dL/dS of the token that follows, S~ the decayed state, u = v - S~^T k, e = beta u, c the
// scale:
//   R += c q do^T, dq = c S do, de = R^T k, dk = R e, dv = h = beta de, dbeta = <de, u>,
//   dk -= S~ h, R -= k h^T, dg = <R, S~> (per key dimension, or their sum), R = decay R.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/delta_net-inl.h"
#include "kernels/math/recurrence_layout.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

using recurrence_layout::kBlock;

// One token; `before` is the state of the token before, `state` its own.
HWY_INLINE void token_backward(const DeltaNetShape& shape, const DeltaNetInputs& in, std::size_t t,
                               const float* before, const float* state, const float* decay,
                               const float* residual, const float* dout, const DeltaNetGradients& gradients,
                               float* r, float* h) {
  const std::size_t width = padded_width(shape.value_dim);
  const float* q = in.q.row(t);
  const float* k = in.k.row(t);
  const F beta = set(*in.beta.row(t));
  float* dq = gradients.q.row(t);
  float* dk = gradients.k.row(t);
  float* dg = gradients.g.row(t);
  std::fill(h, h + width, 0.0F);
  for (std::size_t i = 0; i < shape.key_dim; ++i) {
    const F scaled_q = set(shape.scale * q[i]);
    const F key = set(k[i]);
    F along_q = zero();
    F along_k = zero();
    for (std::size_t j = 0; j < width; j += 16) {
      float* at = r + i * width + j;
      const F gradient = load(dout + j);
      const F row = fma(scaled_q, gradient, load(at));
      store(row, at);
      along_q = fma(load(state + i * width + j), gradient, along_q);
      along_k = fma(row, beta * load(residual + j), along_k);
      store(fma(key, row, load(h + j)), h + j);
    }
    dq[i] = shape.scale * sum(along_q);
    dk[i] = sum(along_k);
  }
  // h holds de.
  F along_beta = zero();
  for (std::size_t j = 0; j < width; j += 16) {
    const F de = load(h + j);
    along_beta = fma(de, load(residual + j), along_beta);
    store(beta * de, h + j);
    store_first(beta * de, gradients.v.row(t) + j, shape.value_dim - j);
  }
  *gradients.beta.row(t) = sum(along_beta);
  float total = 0.0F;
  for (std::size_t i = 0; i < shape.key_dim; ++i) {
    const F key = set(k[i]);
    const F shrink = set(decay[i]);
    F along_k = zero();
    F along_g = zero();
    for (std::size_t j = 0; j < width; j += 16) {
      float* at = r + i * width + j;
      const F decayed = shrink * load(before + i * width + j);
      along_k = fma(decayed, load(h + j), along_k);
      const F row = fnma(key, load(h + j), load(at));
      along_g = fma(row, decayed, along_g);
      store(shrink * row, at);
    }
    dk[i] = dk[i] - sum(along_k);
    const float of_key = sum(along_g);
    if (shape.decay_per_key) dg[i] = of_key;
    total += of_key;
  }
  if (!shape.decay_per_key) *dg = total;
}

void delta_net_backward(const DeltaNetShape& shape, const DeltaNetInputs& in, TokenRows<const float> dout,
                        const DeltaNetGradients& gradients, float* scratch) {
  const std::size_t width = padded_width(shape.value_dim);
  const std::size_t keys = padded_width(shape.key_dim);
  const std::size_t size = shape.key_dim * width;
  const std::size_t blocks = (shape.tokens + kBlock - 1) / kBlock;
  float* starts = scratch;                      // the state before each block
  float* states = starts + blocks * size;       // before the block, and after each of its tokens
  float* decay = states + (kBlock + 1) * size;  // per token of the block
  float* residual = decay + kBlock * keys;
  float* gradient = residual + kBlock * width;
  float* h = gradient + width;
  float* r = h + width;

  std::fill(states, states + size, 0.0F);
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    if (t % kBlock == 0) std::memcpy(starts + t / kBlock * size, states, size * sizeof(float));
    decays(shape, in.g.row(t), decay);
    delta_step(shape, in.k.row(t), in.v.row(t), decay, *in.beta.row(t), states, states, residual);
  }
  std::fill(r, r + size, 0.0F);
  for (std::size_t block = blocks; block-- > 0;) {
    const std::size_t first = block * kBlock;
    const std::size_t count = std::min(kBlock, shape.tokens - first);
    std::memcpy(states, starts + block * size, size * sizeof(float));
    for (std::size_t s = 0; s < count; ++s) {
      decays(shape, in.g.row(first + s), decay + s * keys);
      delta_step(shape, in.k.row(first + s), in.v.row(first + s), decay + s * keys, *in.beta.row(first + s),
                 states + s * size, states + (s + 1) * size, residual + s * width);
    }
    for (std::size_t s = count; s-- > 0;) {
      for (std::size_t j = 0; j < width; j += 16)
        store(load_first(dout.row(first + s) + j, shape.value_dim - j), gradient + j);
      token_backward(shape, in, first + s, states + s * size, states + (s + 1) * size, decay + s * keys,
                     residual + s * width, gradient, gradients, r, h);
    }
  }
}

}  // namespace

void fill_delta_net_backward(MathKernels& table) {
  table.delta_net_backward = delta_net_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

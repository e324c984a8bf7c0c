// Gradients of the recurrence of mamba2, backward through time, with states kept every kBlock tokens.
//
// With R = dL/dS of the token that follows, a the decay:
//   R += dy C^T, dC += S^T dy, dx = delta R B + D dy, dB += delta R^T x, ddelta = <R, x B^T> + A a <R, S
//   before>, R = a R.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/recurrence_layout.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

using recurrence_layout::kBlock;

// The state after token t; `after` may be `before`.
HWY_INLINE void step(const Mamba2Shape& shape, const Mamba2Inputs& in, std::size_t t, const float* before,
                     float* after) {
  const std::size_t width = padded_width(shape.head_dim);
  const float delta = *in.delta.row(t);
  const F decay = exp(set(delta * shape.a));
  const float* b = in.b.row(t);
  for (std::size_t p = 0; p < width; p += 16) {
    const F x = set(delta) * load_first(in.x.row(t) + p, shape.head_dim - p);
    for (std::size_t n = 0; n < shape.state_dim; ++n)
      store(fma(set(b[n]), x, decay * load(before + n * width + p)), after + n * width + p);
  }
}

// x and dy: padded copies of the token's rows; dx: padded.
HWY_INLINE void token_backward(const Mamba2Shape& shape, const Mamba2Inputs& in, std::size_t t,
                               const float* before, const float* state, const float* x, const float* dy,
                               const Mamba2Gradients& gradients, float* r, float* dx) {
  const std::size_t width = padded_width(shape.head_dim);
  const float delta = *in.delta.row(t);
  const F decay = exp(set(delta * shape.a));
  const float* b = in.b.row(t);
  const float* c = in.c.row(t);
  float* db = gradients.b.row(t);
  float* dc = gradients.c.row(t);
  std::fill(dx, dx + width, 0.0F);
  float of_input = 0.0F;
  float of_decay = 0.0F;
  for (std::size_t n = 0; n < shape.state_dim; ++n) {
    F along_c = zero();
    F along_b = zero();
    F along_decay = zero();
    for (std::size_t p = 0; p < width; p += 16) {
      float* at = r + n * width + p;
      const F gradient = load(dy + p);
      const F row = fma(gradient, set(c[n]), load(at));
      along_c = fma(load(state + n * width + p), gradient, along_c);
      along_b = fma(row, load(x + p), along_b);
      along_decay = fma(row, load(before + n * width + p), along_decay);
      store(fma(row, set(b[n]), load(dx + p)), dx + p);
      store(decay * row, at);
    }
    const float input = sum(along_b);
    dc[n] += sum(along_c);
    db[n] += delta * input;
    of_input = std::fma(input, b[n], of_input);
    of_decay += sum(along_decay);
  }
  *gradients.delta.row(t) = of_input + shape.a * first_lane(decay) * of_decay;
  for (std::size_t p = 0; p < width; p += 16)
    store_first(fma(set(delta), load(dx + p), set(shape.d) * load(dy + p)), gradients.x.row(t) + p,
                shape.head_dim - p);
}

void mamba2_backward(const Mamba2Shape& shape, const Mamba2Inputs& in, TokenRows<const float> dout,
                     const Mamba2Gradients& gradients, float* scratch) {
  const std::size_t width = padded_width(shape.head_dim);
  const std::size_t size = shape.state_dim * width;
  const std::size_t blocks = (shape.tokens + kBlock - 1) / kBlock;
  float* starts = scratch;
  float* states = starts + blocks * size;
  float* r = states + (kBlock + 1) * size;
  float* x = r + size;
  float* dy = x + width;
  float* dx = dy + width;

  std::fill(states, states + size, 0.0F);
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    if (t % kBlock == 0) std::memcpy(starts + t / kBlock * size, states, size * sizeof(float));
    step(shape, in, t, states, states);
  }
  std::fill(r, r + size, 0.0F);
  for (std::size_t block = blocks; block-- > 0;) {
    const std::size_t first = block * kBlock;
    const std::size_t count = std::min(kBlock, shape.tokens - first);
    std::memcpy(states, starts + block * size, size * sizeof(float));
    for (std::size_t s = 0; s < count; ++s)
      step(shape, in, first + s, states + s * size, states + (s + 1) * size);
    for (std::size_t s = count; s-- > 0;) {
      for (std::size_t p = 0; p < width; p += 16) {
        store(load_first(in.x.row(first + s) + p, shape.head_dim - p), x + p);
        store(load_first(dout.row(first + s) + p, shape.head_dim - p), dy + p);
      }
      token_backward(shape, in, first + s, states + s * size, states + (s + 1) * size, x, dy, gradients, r,
                     dx);
    }
  }
}

}  // namespace

void fill_mamba2_backward(MathKernels& table) {
  table.mamba2_backward = mamba2_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

// The gated delta rule of one head over one sequence (gated delta net, KDA).
//
// Lanes are value dimensions: row i of the state holds S[i][*], padded to a multiple of sixteen.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/delta_net-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

void delta_net(const DeltaNetShape& shape, const DeltaNetInputs& in, TokenRows<float> out, float* scratch) {
  const std::size_t width = padded_width(shape.value_dim);
  float* state = scratch;
  float* decay = state + shape.key_dim * width;
  float* residual = decay + padded_width(shape.key_dim);
  std::fill(state, state + shape.key_dim * width, 0.0F);
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    const float* q = in.q.row(t);
    decays(shape, in.g.row(t), decay);
    delta_step(shape, in.k.row(t), in.v.row(t), decay, *in.beta.row(t), state, state, residual);
    for (std::size_t j = 0; j < width; j += 16) {
      F read = zero();
      for (std::size_t i = 0; i < shape.key_dim; ++i)
        read = fma(set(q[i]), load(state + i * width + j), read);
      store_first(set(shape.scale) * read, out.row(t) + j, shape.value_dim - j);
    }
  }
}

}  // namespace

void fill_delta_net(MathKernels& table) {
  table.delta_net = delta_net;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

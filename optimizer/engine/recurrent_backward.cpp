// Gradients of mixers that carry a state along the sequence: delta nets, state spaces, short convolutions.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optimizer/engine/layer_backward.h"

namespace quantfit::engine {

void LayerBackward::convolve_backward(const Batch& batch, std::size_t kernel,
                                      std::span<const TensorInfo* const> taps, MatrixView<const float> dy,
                                      MatrixView<float> dx) {
  struct Task {
    const Batch::Window* window;
    const float* taps;
    std::size_t first, width;
  };
  std::vector<Task> tasks;
  for (const Batch::Window& window : batch.windows) {
    std::size_t begin = 0;
    for (const TensorInfo* tensor : taps) {
      const float* sliced = parameters_.taps(tensor, kernel, kChannels);
      const std::size_t own = tensor->elements() / kernel;
      for (std::size_t c = 0; c < own; c += kChannels)
        tasks.push_back({&window, sliced + c * kernel, begin + c, std::min(kChannels, own - c)});
      begin += own;
    }
  }
  workers_->for_each(tasks.size(), [&](std::size_t i, float*) {
    const Task& task = tasks[i];
    const std::size_t row = task.window->first;
    kernels_->convolve_backward(task.window->length, task.width, kernel, task.taps,
                                {dy.row(row) + task.first, dy.stride}, {dx.row(row) + task.first, dx.stride});
  });
}

Result<void> LayerBackward::gated_delta_backward(const Batch& batch, MatrixView<const float> input,
                                                 MatrixView<float> dinput) {
  const GatedDeltaGraph& d = layer_->gated_delta;
  const std::size_t rows = batch.rows();
  const std::size_t dim = d.head_dim;
  const std::size_t keys_width = std::size_t{d.key_heads} * dim;
  const std::size_t inner = std::size_t{d.value_heads} * dim;
  const std::size_t per_key = d.value_heads / d.key_heads;
  const MatrixView<float> activated = buffers_[Buffer::DeltaActivated];
  const MatrixView<float> convolved = buffers_[Buffer::DeltaConvolved];
  const MatrixView<float> keys = buffers_[Buffer::DeltaKeys];
  const MatrixView<float> z = buffers_[Buffer::DeltaGate];
  const MatrixView<float> raw = buffers_[Buffer::DeltaRaw];
  const MatrixView<float> beta = buffers_[Buffer::DeltaBeta];
  const MatrixView<float> decay = buffers_[Buffer::DeltaDecay];
  const MatrixView<float> normed = buffers_[Buffer::DeltaNormed];
  const MatrixView<float> dqkv = gradients_[Buffer::DeltaInput];
  const MatrixView<float> dconvolved = gradients_[Buffer::DeltaConvolved];
  const MatrixView<float> dactivated = gradients_[Buffer::DeltaActivated];
  const MatrixView<float> dkeys = gradients_[Buffer::DeltaKeys];
  const MatrixView<float> dhead_keys = gradients_[Buffer::DeltaHeadKeys];
  const MatrixView<float> dz = gradients_[Buffer::DeltaGate];
  const MatrixView<float> draw = gradients_[Buffer::DeltaRaw];
  const MatrixView<float> dbeta = gradients_[Buffer::DeltaBeta];
  const MatrixView<float> ddecay = gradients_[Buffer::DeltaDecay];
  const MatrixView<float> dheads = gradients_[Buffer::DeltaHeads];
  const MatrixView<float> dnormed = gradients_[Buffer::DeltaNormed];
  const MatrixView<float> dgated = gradients_[Buffer::DeltaGated];

  QF_TRY(multiply_backward(d.output, InputGroup::MixerOutput, constant(buffers_[Buffer::DeltaGated]),
                           gradients_[Buffer::MixerOutput], dgated, false));
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->gate_backward[index(kernels::Activation::Silu)](z.row(t), normed.row(t), dgated.row(t), inner,
                                                                dz.row(t), dnormed.row(t));
  });
  norm_backward(d.norm, d.value_heads, constant(buffers_[Buffer::DeltaHeads]), constant(dnormed), dheads,
                false);

  // Queries and keys of a key head are those of several value heads: every head's gradient for itself first.
  const auto key_head = [&](std::size_t h) { return d.grouped ? h / per_key : h % d.key_heads; };
  workers_->for_each(batch.windows.size() * d.value_heads, [&](std::size_t i, float* scratch) {
    const Batch::Window& window = batch.windows[i / d.value_heads];
    const std::size_t h = i % d.value_heads;
    kernels::DeltaNetShape shape;
    shape.tokens = window.length;
    shape.key_dim = shape.value_dim = dim;
    shape.scale = 1 / std::sqrt(static_cast<float>(dim));
    const std::size_t row = window.first;
    const kernels::DeltaNetInputs in{{keys.row(row) + key_head(h) * dim, keys.stride},
                                     {keys.row(row) + keys_width + key_head(h) * dim, keys.stride},
                                     {activated.row(row) + 2 * keys_width + h * dim, activated.stride},
                                     {decay.row(row) + h, decay.stride},
                                     {beta.row(row) + h, beta.stride}};
    const kernels::DeltaNetGradients out{{dhead_keys.row(row) + h * dim, dhead_keys.stride},
                                         {dhead_keys.row(row) + inner + h * dim, dhead_keys.stride},
                                         {dactivated.row(row) + 2 * keys_width + h * dim, dactivated.stride},
                                         {ddecay.row(row) + h, ddecay.stride},
                                         {dbeta.row(row) + h, dbeta.stride}};
    kernels_->delta_net_backward(shape, in, {dheads.row(row) + h * dim, dheads.stride}, out, scratch);
  });
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");

  const float* a = parameters_.values(d.a);
  const float* dt = parameters_.values(d.dt_bias);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float* scratch) {
    for (std::size_t t = first; t < first + count; ++t) {
      std::fill(dkeys.row(t), dkeys.row(t) + dkeys.columns, 0.0F);
      for (std::size_t h = 0; h < d.value_heads; ++h) {
        float* dq = dkeys.row(t) + key_head(h) * dim;
        float* dk = dq + keys_width;
        kernels_->add(dq, dhead_keys.row(t) + h * dim, dim, dq);
        kernels_->add(dk, dhead_keys.row(t) + inner + h * dim, dim, dk);
      }
      float* y = scratch;
      float* r = scratch + 2 * keys_width;
      const kernels::NormShape shape{2 * std::size_t{d.key_heads}, dim, dim, 0, d.epsilon};
      kernels_->l2_norm(shape, activated.row(t), y, r);
      kernels_->l2_norm_backward(shape, activated.row(t), r, dkeys.row(t), dactivated.row(t));
      kernels_->activate_backward[index(kernels::Activation::Silu)](convolved.row(t), dactivated.row(t),
                                                                    convolved.columns, dconvolved.row(t));
      // decay = a softplus(alpha + dt), beta = sigmoid(raw).
      float* alpha = scratch;
      kernels_->multiply(ddecay.row(t), a, d.value_heads, ddecay.row(t));
      for (std::size_t h = 0; h < d.value_heads; ++h) {
        const std::size_t at =
            d.beta_alpha ? h / per_key * 2 * per_key + h % per_key + per_key : d.value_heads + h;
        alpha[h] = raw.row(t)[at] + dt[h];
      }
      kernels_->activate_backward[index(kernels::Activation::Softplus)](alpha, ddecay.row(t), d.value_heads,
                                                                        ddecay.row(t));
      for (std::size_t h = 0; h < d.value_heads; ++h) {
        std::size_t beta_at = h, alpha_at = d.value_heads + h;
        if (d.beta_alpha) {
          beta_at = h / per_key * 2 * per_key + h % per_key;
          alpha_at = beta_at + per_key;
        }
        const float b = beta.row(t)[h];
        draw.row(t)[beta_at] = dbeta.row(t)[h] * (b * (1 - b));
        draw.row(t)[alpha_at] = ddecay.row(t)[h];
      }
    }
  });
  convolve_backward(batch, d.kernel, std::span(&d.convolution, 1), constant(dconvolved), dqkv);
  QF_TRY(multiply_backward(d.qkv, InputGroup::Mixer, input, dqkv, dinput, true));
  QF_TRY(multiply_backward(d.z, InputGroup::Mixer, input, dz, dinput, true));
  if (d.beta_alpha) return multiply_backward(d.beta_alpha, InputGroup::Mixer, input, draw, dinput, true);
  QF_TRY(multiply_backward(d.beta, InputGroup::Mixer, input, draw, dinput, true));
  return multiply_backward(d.alpha, InputGroup::Mixer, input, columns_of(draw, d.value_heads, d.value_heads),
                           dinput, true);
}

Result<void> LayerBackward::key_delta_backward(const Batch& batch, MatrixView<const float> input,
                                               MatrixView<float> dinput) {
  const KeyDeltaGraph& d = layer_->key_delta;
  const std::size_t rows = batch.rows();
  const std::size_t dim = d.head_dim;
  const std::size_t inner = std::size_t{d.heads} * dim;
  const MatrixView<float> activated = buffers_[Buffer::DeltaActivated];
  const MatrixView<float> convolved = buffers_[Buffer::DeltaConvolved];
  const MatrixView<float> keys = buffers_[Buffer::DeltaKeys];
  const MatrixView<float> low = buffers_[Buffer::DeltaLow];
  const MatrixView<float> z = buffers_[Buffer::DeltaGate];
  const MatrixView<float> raw = buffers_[Buffer::DeltaRaw];
  const MatrixView<float> beta = buffers_[Buffer::DeltaBeta];
  const MatrixView<float> decay = buffers_[Buffer::DeltaDecay];
  const MatrixView<float> normed = buffers_[Buffer::DeltaNormed];
  const MatrixView<float> dqkv = gradients_[Buffer::DeltaInput];
  const MatrixView<float> dconvolved = gradients_[Buffer::DeltaConvolved];
  const MatrixView<float> dactivated = gradients_[Buffer::DeltaActivated];
  const MatrixView<float> dkeys = gradients_[Buffer::DeltaKeys];
  const MatrixView<float> dlow = gradients_[Buffer::DeltaLow];
  const MatrixView<float> dz = gradients_[Buffer::DeltaGate];
  const MatrixView<float> draw = gradients_[Buffer::DeltaRaw];
  const MatrixView<float> dbeta = gradients_[Buffer::DeltaBeta];
  const MatrixView<float> ddecay = gradients_[Buffer::DeltaDecay];
  const MatrixView<float> dheads = gradients_[Buffer::DeltaHeads];
  const MatrixView<float> dnormed = gradients_[Buffer::DeltaNormed];
  const MatrixView<float> dgated = gradients_[Buffer::DeltaGated];

  QF_TRY(multiply_backward(d.output, InputGroup::MixerOutput, constant(buffers_[Buffer::DeltaGated]),
                           gradients_[Buffer::MixerOutput], dgated, false));
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->gate_backward[index(kernels::Activation::Sigmoid)](z.row(t), normed.row(t), dgated.row(t),
                                                                   inner, dz.row(t), dnormed.row(t));
  });
  norm_backward(d.norm, d.heads, constant(buffers_[Buffer::DeltaHeads]), constant(dnormed), dheads, false);
  workers_->for_each(batch.windows.size() * d.heads, [&](std::size_t i, float* scratch) {
    const Batch::Window& window = batch.windows[i / d.heads];
    const std::size_t h = i % d.heads;
    kernels::DeltaNetShape shape;
    shape.tokens = window.length;
    shape.key_dim = shape.value_dim = dim;
    shape.decay_per_key = true;
    shape.scale = 1 / std::sqrt(static_cast<float>(dim));
    const std::size_t row = window.first;
    const kernels::DeltaNetInputs in{{keys.row(row) + h * dim, keys.stride},
                                     {keys.row(row) + inner + h * dim, keys.stride},
                                     {activated.row(row) + 2 * inner + h * dim, activated.stride},
                                     {decay.row(row) + h * dim, decay.stride},
                                     {beta.row(row) + h, beta.stride}};
    const kernels::DeltaNetGradients out{{dkeys.row(row) + h * dim, dkeys.stride},
                                         {dkeys.row(row) + inner + h * dim, dkeys.stride},
                                         {dactivated.row(row) + 2 * inner + h * dim, dactivated.stride},
                                         {ddecay.row(row) + h * dim, ddecay.stride},
                                         {dbeta.row(row) + h, dbeta.stride}};
    kernels_->delta_net_backward(shape, in, {dheads.row(row) + h * dim, dheads.stride}, out, scratch);
  });
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");

  const float* a = parameters_.values(d.a);
  const float* dt = parameters_.values(d.dt_bias);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float* scratch) {
    for (std::size_t t = first; t < first + count; ++t) {
      float* y = scratch;
      float* r = scratch + 2 * inner;
      const kernels::NormShape shape{2 * std::size_t{d.heads}, dim, dim, 0, d.epsilon};
      kernels_->l2_norm(shape, activated.row(t), y, r);
      kernels_->l2_norm_backward(shape, activated.row(t), r, dkeys.row(t), dactivated.row(t));
      kernels_->activate_backward[index(kernels::Activation::Silu)](convolved.row(t), dactivated.row(t),
                                                                    convolved.columns, dconvolved.row(t));
      // decay = a softplus(raw + dt), a per head; beta = sigmoid(raw).
      float* alpha = scratch;
      kernels_->add(raw.row(t), dt, inner, alpha);
      for (std::size_t h = 0; h < d.heads; ++h)
        kernels_->scale(ddecay.row(t) + h * dim, a[h], dim, ddecay.row(t) + h * dim);
      kernels_->activate_backward[index(kernels::Activation::Softplus)](alpha, ddecay.row(t), inner,
                                                                        draw.row(t));
      for (std::size_t h = 0; h < d.heads; ++h) {
        const float b = beta.row(t)[h];
        draw.row(t)[inner + h] = dbeta.row(t)[h] * (b * (1 - b));
      }
    }
  });
  const TensorInfo* const taps[] = {d.convolution_q, d.convolution_k, d.convolution_v};
  convolve_backward(batch, d.kernel, taps, constant(dconvolved), dqkv);

  const MatrixView<float> low_decay = columns_of(low, 0, d.f_a.rows);
  const MatrixView<float> low_gate = columns_of(low, d.f_a.rows, d.g_a.rows);
  const MatrixView<float> dlow_decay = columns_of(dlow, 0, d.f_a.rows);
  const MatrixView<float> dlow_gate = columns_of(dlow, d.f_a.rows, d.g_a.rows);
  const GradientTask low_products[] = {
      {&d.f_b, 0, 0, constant(low_decay), columns_of(draw, 0, inner), dlow_decay, InputGroup::DeltaLowDecay,
       false},
      {&d.g_b, 0, 0, constant(low_gate), dz, dlow_gate, InputGroup::DeltaLowGate, false}};
  QF_TRY(products_backward(low_products));
  QF_TRY(multiply_backward(d.q, InputGroup::Mixer, input, columns_of(dqkv, 0, inner), dinput, true));
  QF_TRY(multiply_backward(d.k, InputGroup::Mixer, input, columns_of(dqkv, inner, inner), dinput, true));
  QF_TRY(multiply_backward(d.v, InputGroup::Mixer, input, columns_of(dqkv, 2 * inner, inner), dinput, true));
  QF_TRY(multiply_backward(d.f_a, InputGroup::Mixer, input, dlow_decay, dinput, true));
  QF_TRY(multiply_backward(d.g_a, InputGroup::Mixer, input, dlow_gate, dinput, true));
  return multiply_backward(d.beta, InputGroup::Mixer, input, columns_of(draw, inner, d.heads), dinput, true);
}

Result<void> LayerBackward::mamba2_backward(const Batch& batch, MatrixView<const float> input,
                                            MatrixView<float> dinput, InputGroup out_group) {
  const Mamba2Graph& m = layer_->mamba2;
  const std::size_t rows = batch.rows();
  const std::size_t inner = std::size_t{m.heads} * m.head_dim;
  const std::size_t state_width = std::size_t{m.groups} * m.state;
  const std::size_t channels = inner + 2 * state_width;
  const MatrixView<float> in = buffers_[Buffer::MambaInput];
  const MatrixView<float> convolved = buffers_[Buffer::MambaConvolved];
  const MatrixView<float> activated = buffers_[Buffer::MambaActivated];
  const MatrixView<float> delta = buffers_[Buffer::MambaDelta];
  const MatrixView<float> heads = buffers_[Buffer::MambaHeads];
  const MatrixView<float> din = gradients_[Buffer::MambaInput];
  const MatrixView<float> dconvolved = gradients_[Buffer::MambaConvolved];
  const MatrixView<float> dactivated = gradients_[Buffer::MambaActivated];
  const MatrixView<float> ddelta = gradients_[Buffer::MambaDelta];
  const MatrixView<float> dheads = gradients_[Buffer::MambaHeads];
  const MatrixView<float> dgated = gradients_[Buffer::MambaGated];

  const MatrixView<float> dout =
      gradients_[out_group == InputGroup::SecondMixerOutput ? Buffer::SecondMixerOutput
                                                            : Buffer::MixerOutput];
  const Buffer result = m.norm ? Buffer::MambaNormed : Buffer::MambaGated;
  QF_TRY(multiply_backward(m.output, out_group, constant(buffers_[result]), dout, gradients_[result], false));
  if (m.norm) {
    norm_backward(m.norm, m.groups, constant(buffers_[Buffer::MambaGated]),
                  constant(gradients_[Buffer::MambaNormed]), dgated, false);
  }
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->gate_backward[index(kernels::Activation::Silu)](in.row(t), heads.row(t), dgated.row(t), inner,
                                                                din.row(t), dheads.row(t));
      // B and C of a group are added to, head by head.
      std::fill(dactivated.row(t) + inner, dactivated.row(t) + channels, 0.0F);
    }
  });
  const float* a = parameters_.values(m.a);
  const float* skip = parameters_.values(m.d);
  const std::size_t per_group = m.heads / m.groups;
  workers_->for_each(batch.windows.size() * m.groups, [&](std::size_t i, float* scratch) {
    const Batch::Window& window = batch.windows[i / m.groups];
    const std::size_t group = i % m.groups;
    const std::size_t row = window.first;
    for (std::size_t h = group * per_group; h < (group + 1) * per_group; ++h) {
      kernels::Mamba2Shape shape;
      shape.tokens = window.length;
      shape.head_dim = m.head_dim;
      shape.state_dim = m.state;
      shape.a = a[h];
      shape.d = skip[h];
      const std::size_t x_at = h * m.head_dim;
      const std::size_t b_at = inner + group * m.state;
      const std::size_t c_at = b_at + state_width;
      const kernels::Mamba2Inputs inputs{{activated.row(row) + x_at, activated.stride},
                                         {activated.row(row) + b_at, activated.stride},
                                         {activated.row(row) + c_at, activated.stride},
                                         {delta.row(row) + h, delta.stride}};
      const kernels::Mamba2Gradients out{{dactivated.row(row) + x_at, dactivated.stride},
                                         {dactivated.row(row) + b_at, dactivated.stride},
                                         {dactivated.row(row) + c_at, dactivated.stride},
                                         {ddelta.row(row) + h, ddelta.stride}};
      kernels_->mamba2_backward(shape, inputs, {dheads.row(row) + x_at, dheads.stride}, out, scratch);
    }
  });
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  const float* dt = parameters_.values(m.dt_bias);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float* scratch) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->activate_backward[index(kernels::Activation::Silu)](convolved.row(t), dactivated.row(t),
                                                                    channels, dconvolved.row(t));
      kernels_->add(in.row(t) + inner + channels, dt, m.heads, scratch);
      kernels_->activate_backward[index(kernels::Activation::Softplus)](scratch, ddelta.row(t), m.heads,
                                                                        din.row(t) + inner + channels);
    }
  });
  convolve_backward(batch, m.kernel, std::span(&m.convolution, 1), constant(dconvolved),
                    columns_of(din, inner, channels));
  return multiply_backward(m.input, InputGroup::Mixer, input, din, dinput, true);
}

Result<void> LayerBackward::short_convolution_backward(const Batch& batch, MatrixView<const float> input,
                                                       MatrixView<float> dinput) {
  const ShortConvolutionGraph& s = layer_->short_convolution;
  const std::size_t width = graph_->width;
  const MatrixView<float> in = buffers_[Buffer::ShortInput];
  const MatrixView<float> convolved = buffers_[Buffer::ShortConvolved];
  const MatrixView<float> din = gradients_[Buffer::ShortInput];
  const MatrixView<float> dproduct = gradients_[Buffer::ShortProduct];
  const MatrixView<float> dconvolved = gradients_[Buffer::ShortConvolved];
  const MatrixView<float> dgated = gradients_[Buffer::ShortGated];
  QF_TRY(multiply_backward(s.output, InputGroup::MixerOutput, constant(buffers_[Buffer::ShortGated]),
                           gradients_[Buffer::MixerOutput], dgated, false));
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->multiply(dgated.row(t), convolved.row(t), width, din.row(t) + width);
      kernels_->multiply(dgated.row(t), in.row(t) + width, width, dconvolved.row(t));
    }
  });
  convolve_backward(batch, s.kernel, std::span(&s.convolution, 1), constant(dconvolved), dproduct);
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->multiply(dproduct.row(t), in.row(t) + 2 * width, width, din.row(t));
      kernels_->multiply(dproduct.row(t), in.row(t), width, din.row(t) + 2 * width);
    }
  });
  return multiply_backward(s.input, InputGroup::Mixer, input, din, dinput, true);
}

}  // namespace quantfit::engine

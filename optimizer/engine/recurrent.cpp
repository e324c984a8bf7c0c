// Mixers that carry a state along the sequence: delta nets, state spaces, short convolutions.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optimizer/engine/layer.h"

namespace quantfit::engine {
namespace {

using kernels::TokenRows;

}  // namespace

// `taps`: tensors whose channels follow one another.
void LayerRunner::convolve(const Batch& batch, std::size_t channels, std::size_t kernel,
                           std::span<const TensorInfo* const> taps, const TensorInfo* bias,
                           MatrixView<const float> x, MatrixView<float> y) {
  struct Task {
    const Batch::Window* window;
    const float* taps;
    std::size_t first, width;
  };
  const float* offset = parameters_.values(bias);
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
  (void)channels;
  workers_->for_each(tasks.size(), [&](std::size_t i, float*) {
    const Task& task = tasks[i];
    const std::size_t row = task.window->first;
    kernels_->convolve(task.window->length, task.width, kernel, task.taps,
                       offset == nullptr ? nullptr : offset + task.first, {x.row(row) + task.first, x.stride},
                       {y.row(row) + task.first, y.stride});
  });
}

Result<void> LayerRunner::gated_delta(const Batch& batch, MatrixView<const float> input) {
  const GatedDeltaGraph& d = layer_->gated_delta;
  const std::size_t rows = batch.rows();
  const std::size_t dim = d.head_dim;
  const std::size_t keys_width = std::size_t{d.key_heads} * dim;
  const std::size_t per_key = d.value_heads / d.key_heads;
  const MatrixView<float> qkv = buffers_[Buffer::DeltaInput];
  const MatrixView<float> convolved = buffers_[Buffer::DeltaConvolved];
  const MatrixView<float> activated = buffers_[Buffer::DeltaActivated];
  const MatrixView<float> keys = buffers_[Buffer::DeltaKeys];
  const MatrixView<float> z = buffers_[Buffer::DeltaGate];
  const MatrixView<float> raw = buffers_[Buffer::DeltaRaw];
  const MatrixView<float> beta = buffers_[Buffer::DeltaBeta];
  const MatrixView<float> decay = buffers_[Buffer::DeltaDecay];
  const MatrixView<float> heads = buffers_[Buffer::DeltaHeads];
  const MatrixView<float> normed = buffers_[Buffer::DeltaNormed];
  const MatrixView<float> gated = buffers_[Buffer::DeltaGated];

  std::vector<ProductTask> tasks{{&d.qkv, 0, 0, input, qkv, InputGroup::Mixer},
                                 {&d.z, 0, 0, input, z, InputGroup::Mixer}};
  if (d.beta_alpha) {
    tasks.push_back({&d.beta_alpha, 0, 0, input, raw, InputGroup::Mixer});
  } else {
    tasks.push_back({&d.beta, 0, 0, input, columns_of(raw, 0, d.value_heads), InputGroup::Mixer});
    tasks.push_back(
        {&d.alpha, 0, 0, input, columns_of(raw, d.value_heads, d.value_heads), InputGroup::Mixer});
  }
  QF_TRY(products(tasks));
  convolve(batch, d.qkv.rows, d.kernel, std::span(&d.convolution, 1), nullptr, constant(qkv), convolved);

  const float* a = parameters_.values(d.a);
  const float* dt = parameters_.values(d.dt_bias);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->activate[index(kernels::Activation::Silu)](convolved.row(t), convolved.columns,
                                                           activated.row(t));
      const kernels::NormShape shape{2 * std::size_t{d.key_heads}, dim, dim, 0, d.epsilon};
      kernels_->l2_norm(shape, activated.row(t), keys.row(t), nullptr);
      for (std::size_t h = 0; h < d.value_heads; ++h) {
        std::size_t beta_at = h, alpha_at = d.value_heads + h;
        if (d.beta_alpha) {
          beta_at = h / per_key * 2 * per_key + h % per_key;
          alpha_at = beta_at + per_key;
        }
        beta.row(t)[h] = raw.row(t)[beta_at];
        decay.row(t)[h] = raw.row(t)[alpha_at];
      }
      kernels_->activate[index(kernels::Activation::Sigmoid)](beta.row(t), d.value_heads, beta.row(t));
      kernels_->add(decay.row(t), dt, d.value_heads, decay.row(t));
      kernels_->activate[index(kernels::Activation::Softplus)](decay.row(t), d.value_heads, decay.row(t));
      kernels_->multiply(decay.row(t), a, d.value_heads, decay.row(t));
    }
  });

  workers_->for_each(batch.windows.size() * d.value_heads, [&](std::size_t i, float* scratch) {
    const Batch::Window& window = batch.windows[i / d.value_heads];
    const std::size_t h = i % d.value_heads;
    const std::size_t key_head = d.grouped ? h / per_key : h % d.key_heads;
    kernels::DeltaNetShape shape;
    shape.tokens = window.length;
    shape.key_dim = shape.value_dim = dim;
    shape.scale = 1 / std::sqrt(static_cast<float>(dim));
    const std::size_t row = window.first;
    const kernels::DeltaNetInputs in{{keys.row(row) + key_head * dim, keys.stride},
                                     {keys.row(row) + keys_width + key_head * dim, keys.stride},
                                     {activated.row(row) + 2 * keys_width + h * dim, activated.stride},
                                     {decay.row(row) + h, decay.stride},
                                     {beta.row(row) + h, beta.stride}};
    kernels_->delta_net(shape, in, {heads.row(row) + h * dim, heads.stride}, scratch);
  });
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");

  copy_columns(constant(heads), 0, heads.columns, normed, 0);
  norm_heads(d.norm, d.value_heads, normed);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->gate[index(kernels::Activation::Silu)](z.row(t), normed.row(t), gated.columns, gated.row(t));
  });
  return multiply(d.output, InputGroup::MixerOutput, constant(gated), buffers_[Buffer::MixerOutput]);
}

Result<void> LayerRunner::key_delta(const Batch& batch, MatrixView<const float> input) {
  const KeyDeltaGraph& d = layer_->key_delta;
  const std::size_t rows = batch.rows();
  const std::size_t dim = d.head_dim;
  const std::size_t inner = std::size_t{d.heads} * dim;
  const MatrixView<float> qkv = buffers_[Buffer::DeltaInput];
  const MatrixView<float> convolved = buffers_[Buffer::DeltaConvolved];
  const MatrixView<float> activated = buffers_[Buffer::DeltaActivated];
  const MatrixView<float> keys = buffers_[Buffer::DeltaKeys];
  const MatrixView<float> low = buffers_[Buffer::DeltaLow];
  const MatrixView<float> z = buffers_[Buffer::DeltaGate];
  const MatrixView<float> raw = buffers_[Buffer::DeltaRaw];
  const MatrixView<float> beta = buffers_[Buffer::DeltaBeta];
  const MatrixView<float> decay = buffers_[Buffer::DeltaDecay];
  const MatrixView<float> heads = buffers_[Buffer::DeltaHeads];
  const MatrixView<float> normed = buffers_[Buffer::DeltaNormed];
  const MatrixView<float> gated = buffers_[Buffer::DeltaGated];

  const MatrixView<float> low_decay = columns_of(low, 0, d.f_a.rows);
  const MatrixView<float> low_gate = columns_of(low, d.f_a.rows, d.g_a.rows);
  const ProductTask first_products[] = {
      {&d.q, 0, 0, input, columns_of(qkv, 0, inner), InputGroup::Mixer},
      {&d.k, 0, 0, input, columns_of(qkv, inner, inner), InputGroup::Mixer},
      {&d.v, 0, 0, input, columns_of(qkv, 2 * inner, inner), InputGroup::Mixer},
      {&d.f_a, 0, 0, input, low_decay, InputGroup::Mixer},
      {&d.g_a, 0, 0, input, low_gate, InputGroup::Mixer},
      {&d.beta, 0, 0, input, columns_of(raw, inner, d.heads), InputGroup::Mixer}};
  QF_TRY(products(first_products));
  const ProductTask second_products[] = {
      {&d.f_b, 0, 0, constant(low_decay), columns_of(raw, 0, inner), InputGroup::DeltaLowDecay},
      {&d.g_b, 0, 0, constant(low_gate), z, InputGroup::DeltaLowGate}};
  QF_TRY(products(second_products));
  const TensorInfo* const taps[] = {d.convolution_q, d.convolution_k, d.convolution_v};
  convolve(batch, 3 * inner, d.kernel, taps, nullptr, constant(qkv), convolved);

  const float* a = parameters_.values(d.a);
  const float* dt = parameters_.values(d.dt_bias);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->activate[index(kernels::Activation::Silu)](convolved.row(t), convolved.columns,
                                                           activated.row(t));
      const kernels::NormShape shape{2 * std::size_t{d.heads}, dim, dim, 0, d.epsilon};
      kernels_->l2_norm(shape, activated.row(t), keys.row(t), nullptr);
      kernels_->activate[index(kernels::Activation::Sigmoid)](raw.row(t) + inner, d.heads, beta.row(t));
      kernels_->add(raw.row(t), dt, inner, decay.row(t));
      kernels_->activate[index(kernels::Activation::Softplus)](decay.row(t), inner, decay.row(t));
      for (std::size_t h = 0; h < d.heads; ++h)
        kernels_->scale(decay.row(t) + h * dim, a[h], dim, decay.row(t) + h * dim);
    }
  });
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
    kernels_->delta_net(shape, in, {heads.row(row) + h * dim, heads.stride}, scratch);
  });
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");

  copy_columns(constant(heads), 0, heads.columns, normed, 0);
  norm_heads(d.norm, d.heads, normed);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->gate[index(kernels::Activation::Sigmoid)](z.row(t), normed.row(t), inner, gated.row(t));
  });
  return multiply(d.output, InputGroup::MixerOutput, constant(gated), buffers_[Buffer::MixerOutput]);
}

Result<void> LayerRunner::mamba2(const Batch& batch, MatrixView<const float> input, MatrixView<float> out,
                                 InputGroup out_group) {
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
  const MatrixView<float> gated = buffers_[Buffer::MambaGated];
  QF_TRY(multiply(m.input, InputGroup::Mixer, input, in));
  convolve(batch, channels, m.kernel, std::span(&m.convolution, 1), m.convolution_bias,
           columns_of(constant(in), inner, channels), convolved);
  const float* dt = parameters_.values(m.dt_bias);
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->activate[index(kernels::Activation::Silu)](convolved.row(t), channels, activated.row(t));
      kernels_->add(in.row(t) + inner + channels, dt, m.heads, delta.row(t));
      kernels_->activate[index(kernels::Activation::Softplus)](delta.row(t), m.heads, delta.row(t));
    }
  });
  const float* a = parameters_.values(m.a);
  const float* skip = parameters_.values(m.d);
  workers_->for_each(batch.windows.size() * m.heads, [&](std::size_t i, float* scratch) {
    const Batch::Window& window = batch.windows[i / m.heads];
    const std::size_t h = i % m.heads;
    const std::size_t group = h / (m.heads / m.groups);
    kernels::Mamba2Shape shape;
    shape.tokens = window.length;
    shape.head_dim = m.head_dim;
    shape.state_dim = m.state;
    shape.a = a[h];
    shape.d = skip[h];
    const std::size_t row = window.first;
    const kernels::Mamba2Inputs inputs{
        {activated.row(row) + h * m.head_dim, activated.stride},
        {activated.row(row) + inner + group * m.state, activated.stride},
        {activated.row(row) + inner + state_width + group * m.state, activated.stride},
        {delta.row(row) + h, delta.stride}};
    kernels_->mamba2(shape, inputs, {heads.row(row) + h * m.head_dim, heads.stride}, scratch);
  });
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->gate[index(kernels::Activation::Silu)](in.row(t), heads.row(t), inner, gated.row(t));
  });
  MatrixView<const float> result = constant(gated);
  if (m.norm) {
    const MatrixView<float> normed = buffers_[Buffer::MambaNormed];
    copy_columns(result, 0, inner, normed, 0);
    norm_heads(m.norm, m.groups, normed);
    result = constant(normed);
  }
  return multiply(m.output, out_group, result, out);
}

Result<void> LayerRunner::short_convolution(const Batch& batch, MatrixView<const float> input) {
  const ShortConvolutionGraph& s = layer_->short_convolution;
  const std::size_t width = graph_->width;
  const MatrixView<float> in = buffers_[Buffer::ShortInput];
  const MatrixView<float> gated_in = buffers_[Buffer::ShortProduct];
  const MatrixView<float> convolved = buffers_[Buffer::ShortConvolved];
  const MatrixView<float> gated = buffers_[Buffer::ShortGated];
  QF_TRY(multiply(s.input, InputGroup::Mixer, input, in));
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->multiply(in.row(t), in.row(t) + 2 * width, width, gated_in.row(t));
  });
  convolve(batch, width, s.kernel, std::span(&s.convolution, 1), nullptr, constant(gated_in), convolved);
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->multiply(in.row(t) + width, convolved.row(t), width, gated.row(t));
  });
  return multiply(s.output, InputGroup::MixerOutput, constant(gated), buffers_[Buffer::MixerOutput]);
}

}  // namespace quantfit::engine

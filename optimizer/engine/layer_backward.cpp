#include "optimizer/engine/layer_backward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace quantfit::engine {
namespace {

// Rows whose gradients of a norm's weights are summed in binary32, counted from the start of a window.
constexpr std::size_t kParameterRows = 64;

}  // namespace

std::size_t LayerBackward::scratch_floats(const ModelGraph& graph, std::size_t longest) {
  std::size_t most = std::max(LayerRunner::scratch_floats(graph, longest),
                              kernels::product_scratch(kernels::kProductTokens, kernels::kProductColumns));
  std::size_t columns = graph.width;
  for (const LayerGraph& layer : graph.layers) {
    for (const BufferSpec& spec : gradient_buffers_of(graph, layer))
      columns = std::max(columns, spec.columns);
    if (layer.mixer == Mixer::Attention || layer.mixer == Mixer::AttentionAndMamba2) {
      const AttentionGraph& a = layer.attention;
      kernels::AttentionShape shape;
      shape.tokens = longest;
      shape.heads = a.heads, shape.kv_heads = a.kv_heads;
      shape.key_dim = a.key_dim, shape.value_dim = a.value_dim;
      most = std::max(most, kernels::attention_backward_scratch(shape));
    }
    if (layer.mixer == Mixer::LatentAttention) {
      kernels::AttentionShape shape = latent_shape(layer.latent);
      shape.tokens = longest;
      most = std::max(most, kernels::attention_backward_scratch(shape));
    }
    const auto delta = [&](std::size_t dim, bool per_key) {
      most = std::max(most,
                      kernels::delta_net_backward_scratch(
                          {.tokens = longest, .key_dim = dim, .value_dim = dim, .decay_per_key = per_key}));
    };
    if (layer.mixer == Mixer::GatedDelta) delta(layer.gated_delta.head_dim, false);
    if (layer.mixer == Mixer::KeyDelta) delta(layer.key_delta.head_dim, true);
    if (layer.mixer == Mixer::Mamba2 || layer.mixer == Mixer::AttentionAndMamba2) {
      most = std::max(
          most, kernels::mamba2_backward_scratch(
                    {.tokens = longest, .head_dim = layer.mamba2.head_dim, .state_dim = layer.mamba2.state}));
    }
  }
  // A norm's output, its gradient, and two numbers per vector.
  return std::max(most, 4 * (columns + 16));
}

std::vector<BufferSpec> LayerBackward::gradient_buffers_of(const ModelGraph& graph, const LayerGraph& layer) {
  std::vector<BufferSpec> out = buffers_of(graph, layer);
  const auto need = [&](Buffer buffer, std::string_view name, std::size_t columns) {
    for (BufferSpec& spec : out) {
      if (spec.buffer != buffer) continue;
      spec.columns = std::max(spec.columns, columns);
      return;
    }
    if (columns != 0) out.push_back({buffer, name, columns, 1});
  };
  const std::size_t width = graph.width;
  need(Buffer::MixerInput, "normed input", width);
  if (layer.ffn || layer.experts) {
    need(Buffer::FfnInput, "ffn input", width);
    need(Buffer::FfnNormed, "ffn branch", width);
  }
  if (layer.mixer_norm) need(Buffer::SeparateInput, "mixer input", width);
  if (layer.mixer == Mixer::Attention || layer.mixer == Mixer::AttentionAndMamba2) {
    const AttentionGraph& a = layer.attention;
    need(Buffer::Values, "values", std::size_t{a.kv_heads} * a.value_dim);
    if (a.q_norm) need(Buffer::RawQueries, "raw queries", std::size_t{a.heads} * a.key_dim);
    if (!a.kv_layer && (a.k_norm || a.value_norm)) {
      need(Buffer::RawKeys, "raw keys or values",
           std::size_t{a.kv_heads} * std::max(a.k_norm ? a.key_dim : 0, a.value_norm ? a.value_dim : 0));
    }
  }
  if (layer.mixer == Mixer::LatentAttention && !layer.latent.kv_b)
    need(Buffer::Values, "latent values", layer.latent.latent);
  if (layer.mixer == Mixer::GatedDelta) {
    need(Buffer::DeltaHeadKeys, "queries and keys of every head",
         2 * std::size_t{layer.gated_delta.value_heads} * layer.gated_delta.head_dim);
  }
  if (layer.experts) need(Buffer::ExpertSource, "expert source", width);
  if (layer.layer_embedding.gate) {
    need(Buffer::StreamBefore, "stream before the per-layer embedding", width);
    need(Buffer::LayerEmbeddingRaw, "raw per-layer embedding", graph.layer_embedding_width);
  }
  return out;
}

void LayerBackward::begin_backward(const LayerGraph* layer, BackwardObserver* observer) {
  if (layer != nullptr) {
    begin(*layer, nullptr);
    gradient_specs_ = gradient_buffers_of(*graph_, *layer);
  } else {
    layer_index_ = static_cast<std::uint32_t>(graph_->layers.size());
  }
  back_observer_ = observer;
  wants_parameters_ = observer != nullptr && observer->wants_parameters();
  parameter_gradients_.clear();
}

Result<void> LayerBackward::tell_parameters() {
  std::vector<const TensorInfo*> tensors;
  for (const auto& [tensor, gradient] : parameter_gradients_) tensors.push_back(tensor);
  std::ranges::sort(tensors, {}, [](const TensorInfo* tensor) { return tensor->name; });
  for (const TensorInfo* tensor : tensors)
    QF_TRY(back_observer_->parameter(layer_index_, *tensor, parameter_gradients_[tensor]));
  parameter_gradients_.clear();
  return outcome::success();
}

void LayerBackward::run_backward_tiles(std::span<const GradientTask> tasks) {
  struct Tile {
    const GradientTask* task;
    std::size_t first_row, rows, first_column, columns;
  };
  std::vector<Tile> tiles;
  // As in run_tiles: small jobs are cut finer; how they are cut changes no sum.
  std::size_t work = 0;
  for (const GradientTask& task : tasks) work += task.dx.rows * task.dx.columns;
  const std::size_t share = work / (workers_->threads() * 4) + 1;
  std::size_t columns_most = kernels::kProductColumns;
  std::size_t rows_most = kernels::kProductTokens;
  if (columns_most * rows_most > share) columns_most = kernels::kProductBlock;
  while (rows_most > 64 && columns_most * rows_most > share) rows_most /= 2;
  for (const GradientTask& task : tasks) {
    for (std::size_t c = 0; c < task.dx.columns; c += columns_most) {
      for (std::size_t r = 0; r < task.dx.rows; r += rows_most) {
        tiles.push_back({&task, r, std::min(rows_most, task.dx.rows - r), c,
                         std::min(columns_most, task.dx.columns - c)});
      }
    }
  }
  workers_->for_each(tiles.size(), [&](std::size_t i, float* scratch) {
    const Tile& tile = tiles[i];
    const GradientTask& task = *tile.task;
    const kernels::WeightRows w = weights_->rows(*task.matrix, task.index, task.first, task.dy.columns);
    const MatrixView<const float> dy{task.dy.row(tile.first_row), tile.rows, task.dy.columns, task.dy.stride};
    const MatrixView<float> dx{task.dx.row(tile.first_row) + tile.first_column, tile.rows, tile.columns,
                               task.dx.stride};
    kernels_->product_backward(dy, w, tile.first_column, dx, task.add, scratch);
  });
}

Result<void> LayerBackward::products_backward(std::span<const GradientTask> tasks) {
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  for (const GradientTask& task : tasks) {
    if (task.matrix->scale == nullptr) continue;
    const TensorInfo* tensor = task.matrix->scale;
    const float* scale = parameters_.values(tensor);
    scale_rows(task.dy, scale[tensor->elements() == 1 ? 0 : task.index]);
  }
  if (back_observer_ != nullptr) {
    for (const GradientTask& task : tasks) {
      if (task.dy.rows == 0) continue;
      QF_TRY(back_observer_->gradient(
          {layer_index_, task.matrix, task.index, static_cast<std::uint32_t>(task.first),
           static_cast<std::uint32_t>(task.group), task.x, constant(task.dy), first_token_, task.tokens}));
    }
  }
  run_backward_tiles(tasks);
  return outcome::success();
}

Result<void> LayerBackward::multiply_backward(const Matrix& matrix, InputGroup group,
                                              MatrixView<const float> x, MatrixView<float> dy,
                                              MatrixView<float> dx, bool add) {
  const GradientTask task{&matrix, 0, 0, x, columns_of(dy, 0, matrix.rows), dx, group, add};
  return products_backward({&task, 1});
}

Result<void> LayerBackward::project_backward(std::span<const Projection> projections, InputGroup group,
                                             MatrixView<const float> x, MatrixView<float> dy,
                                             MatrixView<float> dx) {
  for (const Projection& p : projections)
    QF_TRY(multiply_backward(p.matrix, group, x, columns_of(dy, p.offset, p.matrix.rows), dx, true));
  return outcome::success();
}

void LayerBackward::norm_backward(const Norm& norm, std::size_t heads, MatrixView<const float> x,
                                  MatrixView<const float> dy, MatrixView<float> dx, bool add) {
  // Norms outside the layers are decoded with them: few, and small.
  const float* weight = parameters_.values(norm.weight);
  const float* bias = parameters_.values(norm.bias);
  const kernels::NormShape shape{heads, norm.size, norm.size, norm.weight_rows > 1 ? norm.size : 0,
                                 norm.epsilon};
  const std::size_t n = heads * norm.size;
  const auto one_row = [&](std::size_t t, float* scratch, float* dweight, float* dbias) {
    float* y = scratch;
    float* own = y + n;
    float* r = own + n;
    float* mean = r + heads;
    if (norm.kind == NormKind::Rms)
      kernels_->rms_norm(shape, x.row(t), weight, bias, y, r);
    else
      kernels_->layer_norm(shape, x.row(t), weight, bias, y, mean, r);
    float* out = add ? own : dx.row(t);
    if (norm.kind == NormKind::Rms)
      kernels_->rms_norm_backward(shape, x.row(t), weight, r, dy.row(t), out, dweight, dbias);
    else
      kernels_->layer_norm_backward(shape, x.row(t), weight, mean, r, dy.row(t), out, dweight, dbias);
    if (add) kernels_->add(dx.row(t), own, n, dx.row(t));
  };
  if (!wants_parameters_ || norm.weight == nullptr) {
    workers_->for_rows(x.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float* scratch) {
      for (std::size_t t = first; t < first + rows; ++t) one_row(t, scratch, nullptr, nullptr);
    });
    return;
  }
  // With gradients of the norm's own weights: pieces of windows, added up in the order of tokens.
  struct Piece {
    std::size_t first, rows;
  };
  std::vector<Piece> pieces;
  for (std::size_t w = 0; w < window_starts_.size(); ++w) {
    const std::size_t end = w + 1 < window_starts_.size() ? window_starts_[w + 1] : x.rows;
    for (std::size_t t = window_starts_[w]; t < end; t += kParameterRows)
      pieces.push_back({t, std::min(kParameterRows, end - t)});
  }
  const std::size_t size = std::size_t{norm.size} * norm.weight_rows;
  std::vector<float> partial(pieces.size() * 2 * size, 0.0F);
  workers_->for_each(pieces.size(), [&](std::size_t i, float* scratch) {
    float* dweight = partial.data() + i * 2 * size;
    for (std::size_t t = pieces[i].first; t < pieces[i].first + pieces[i].rows; ++t)
      one_row(t, scratch, dweight, norm.bias == nullptr ? nullptr : dweight + size);
  });
  const auto collect = [&](const TensorInfo* tensor, std::size_t offset) {
    if (tensor == nullptr) return;
    std::vector<double>& sum = parameter_gradients_[tensor];
    sum.resize(size, 0.0);
    for (std::size_t i = 0; i < pieces.size(); ++i)
      for (std::size_t c = 0; c < size; ++c) sum[c] += partial[i * 2 * size + offset + c];
  };
  collect(norm.weight, 0);
  collect(norm.bias, size);
}

void LayerBackward::add_rows(MatrixView<const float> from, float factor, MatrixView<float> to) {
  workers_->for_rows(from.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
    for (std::size_t t = first; t < first + rows; ++t) {
      if (factor == 1)
        kernels_->add(to.row(t), from.row(t), from.columns, to.row(t));
      else
        kernels_->add_scaled(from.row(t), factor, from.columns, to.row(t));
    }
  });
}

void LayerBackward::scale_rows(MatrixView<float> x, float factor) {
  if (factor == 1) return;
  workers_->for_rows(x.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
    for (std::size_t t = first; t < first + rows; ++t) kernels_->scale(x.row(t), factor, x.columns, x.row(t));
  });
}

void LayerBackward::clear_rows(MatrixView<float> x) {
  workers_->for_rows(x.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
    for (std::size_t t = first; t < first + rows; ++t) std::fill(x.row(t), x.row(t) + x.columns, 0.0F);
  });
}

Result<void> LayerBackward::output_backward(std::uint64_t first_token, MatrixView<const float> normed,
                                            MatrixView<float> dlogits, MatrixView<float> dnormed) {
  first_token_ = first_token;
  return multiply_backward(graph_->output, InputGroup::Output, normed, dlogits, dnormed, false);
}

void LayerBackward::output_norm_backward(const Batch& batch, MatrixView<const float> x,
                                         MatrixView<const float> dnormed, MatrixView<float> gradient) {
  start_batch(batch);
  norm_backward(graph_->output_norm, 1, x, dnormed, gradient, false);
}

void LayerBackward::start_batch(const Batch& batch) {
  first_token_ = batch.first_token;
  window_starts_.clear();
  for (const Batch::Window& window : batch.windows) window_starts_.push_back(window.first);
}

Result<void> LayerBackward::embedding_backward(const Batch& batch, MatrixView<float> gradient) {
  start_batch(batch);
  if (graph_->embedding_norm) {
    // The norm's input: the same embeddings without it.
    std::vector<float> raw(gradient.rows * gradient.columns);
    const MatrixView<float> x{raw.data(), gradient.rows, gradient.columns, gradient.columns};
    QF_TRY(look_up(batch, x));
    norm_backward(graph_->embedding_norm, 1, constant(x), constant(gradient), gradient, false);
  }
  scale_rows(gradient, graph_->embedding_scale);
  return outcome::success();
}

Result<void> LayerBackward::backward(const Batch& batch, MatrixView<const float> input,
                                     MatrixView<float> gradient, CarriedGradients& carried) {
  const LayerGraph& layer = *layer_;
  start_batch(batch);
  gradients_.arrange(gradient_specs_, batch.rows());
  const bool has_ffn = layer.ffn || layer.experts;
  const auto forward_view = [&](Buffer buffer) { return constant(buffers_[buffer]); };

  if (layer.output_scale != nullptr) scale_rows(gradient, *parameters_.values(layer.output_scale));

  // What the ffn added to the stream, and its gradient.
  MatrixView<const float> branch{};
  if (has_ffn) {
    branch = forward_view(layer.ffn && layer.experts ? Buffer::FfnSum
                          : layer.ffn                ? Buffer::FfnOutput
                          : layer.experts.post_norm  ? Buffer::ExpertNormed
                                                     : Buffer::ExpertSum);
  }
  if (layer.layer_embedding.gate) {
    // The stream before the per-layer embedding, as forward() made it.
    const MatrixView<float> before = gradients_[Buffer::StreamBefore];
    const MatrixView<const float> base = has_ffn ? forward_view(Buffer::Middle) : input;
    copy_columns(base, 0, base.columns, before, 0);
    if (has_ffn)
      add_rows(layer.post_ffn_norm ? forward_view(Buffer::FfnNormed) : branch, layer.residual_scale, before);
    else if (layer.mixer != Mixer::None)
      add_rows(forward_view(layer.post_attn_norm ? Buffer::MixerNormed : Buffer::MixerOutput),
               layer.residual_scale, before);
    QF_TRY(layer_embedding_backward(batch, constant(before), gradient, carried));
  }

  const MatrixView<float> dnormed = gradients_[Buffer::MixerInput];
  const MatrixView<const float> normed = layer.attn_norm ? forward_view(Buffer::MixerInput) : input;
  clear_rows(dnormed);
  // The gradient of the mixer's branch, to which the ffn's input may add.
  MatrixView<const float> dmiddle = constant(gradient);
  if (has_ffn) {
    const MatrixView<float> middle = gradients_[Buffer::Middle];
    const MatrixView<float> dbranch = gradients_[Buffer::FfnNormed];
    const MatrixView<float> dffn_input = gradients_[Buffer::FfnInput];
    copy_columns(constant(gradient), 0, gradient.columns, middle, 0);
    copy_columns(constant(gradient), 0, gradient.columns, dbranch, 0);
    scale_rows(dbranch, layer.residual_scale);
    clear_rows(gradient);
    clear_rows(dffn_input);
    if (layer.post_ffn_norm) norm_backward(layer.post_ffn_norm, 1, branch, constant(dbranch), dbranch, false);
    if (layer.ffn && layer.experts) scale_rows(dbranch, layer.dense_sum_scale);
    const bool from_layer_input = layer.parallel || layer.mixer == Mixer::None;
    const MatrixView<const float> ffn_input = layer.ffn_norm     ? forward_view(Buffer::FfnInput)
                                              : from_layer_input ? normed
                                                                 : forward_view(Buffer::Middle);
    if (layer.ffn) {
      MatrixView<float> dout = gradients_[Buffer::FfnOutput];
      copy_columns(constant(dbranch), 0, dbranch.columns, dout, 0);
      if (layer.dual_ffn)
        norm_backward(layer.experts.dense_post_norm, 1, forward_view(Buffer::FfnOutput), constant(dout), dout,
                      false);
      QF_TRY(ffn_backward(layer.ffn, InputGroup::Ffn, InputGroup::FfnHidden, ffn_input, Buffer::GateUp,
                          Buffer::Hidden, dout, dffn_input));
    }
    if (layer.experts) {
      QF_TRY(experts_backward(batch, input, forward_view(Buffer::Middle), ffn_input, dbranch, gradient,
                              middle, dffn_input));
    }
    if (layer.ffn_norm) {
      if (layer.parallel)
        norm_backward(layer.ffn_norm, 1, input, constant(dffn_input), gradient, true);
      else
        norm_backward(layer.ffn_norm, 1, forward_view(Buffer::Middle), constant(dffn_input), middle, true);
    } else {
      add_rows(constant(dffn_input), 1, from_layer_input ? dnormed : middle);
    }
    dmiddle = constant(middle);
  }

  if (layer.mixer != Mixer::None) {
    const MatrixView<float> dmixed = gradients_[Buffer::MixerOutput];
    copy_columns(dmiddle, 0, dmiddle.columns, dmixed, 0);
    scale_rows(dmixed, layer.residual_scale);
    if (layer.post_attn_norm)
      norm_backward(layer.post_attn_norm, 1, forward_view(Buffer::MixerOutput), constant(dmixed), dmixed,
                    false);
    if (has_ffn) add_rows(dmiddle, 1, gradient);
    if (layer.mixer_norm) {
      const MatrixView<float> dinput = gradients_[Buffer::SeparateInput];
      clear_rows(dinput);
      QF_TRY(mixer_backward(batch, forward_view(Buffer::FfnInput), dinput, carried));
      norm_backward(layer.mixer_norm, 1, input, constant(dinput), gradient, true);
    } else {
      QF_TRY(mixer_backward(batch, normed, dnormed, carried));
    }
  } else if (has_ffn) {
    add_rows(dmiddle, 1, gradient);
  }
  if (layer.attn_norm)
    norm_backward(layer.attn_norm, 1, input, constant(dnormed), gradient, true);
  else
    add_rows(constant(dnormed), 1, gradient);
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  return outcome::success();
}

Result<void> LayerBackward::mixer_backward(const Batch& batch, MatrixView<const float> input,
                                           MatrixView<float> dinput, CarriedGradients& carried) {
  switch (layer_->mixer) {
    case Mixer::Attention:
      return attention_backward(batch, input, dinput, carried);
    case Mixer::LatentAttention:
      return latent_backward(batch, input, dinput);
    case Mixer::GatedDelta:
      return gated_delta_backward(batch, input, dinput);
    case Mixer::KeyDelta:
      return key_delta_backward(batch, input, dinput);
    case Mixer::Mamba2:
      return mamba2_backward(batch, input, dinput, InputGroup::MixerOutput);
    case Mixer::ShortConvolution:
      return short_convolution_backward(batch, input, dinput);
    case Mixer::AttentionAndMamba2: {
      // Both read the same input and are added: the same gradient goes to both.
      const MatrixView<float> second = gradients_[Buffer::SecondMixerOutput];
      const MatrixView<float> dout = gradients_[Buffer::MixerOutput];
      copy_columns(constant(dout), 0, dout.columns, second, 0);
      QF_TRY(attention_backward(batch, input, dinput, carried));
      return mamba2_backward(batch, input, dinput, InputGroup::SecondMixerOutput);
    }
    case Mixer::None:
      break;
  }
  return outcome::success();
}

void LayerBackward::activate_backward(const FfnGraph& graph, MatrixView<const float> gate_up,
                                      MatrixView<const float> dhidden, MatrixView<float> dgate_up) {
  const std::size_t n = graph.width;
  const kernels::Xielu xielu = xielu_of(graph);
  const std::size_t kind = activation_index(graph);
  workers_->for_rows(dhidden.rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      const float* g = gate_up.row(t);
      const float* u = g + n;
      const float* dh = dhidden.row(t);
      float* dg = dgate_up.row(t);
      float* du = dg + n;
      if (!graph.gated) {
        if (graph.activation == Activation::Xielu)
          kernels_->xielu_backward(xielu, g, dh, n, dg);
        else
          kernels_->activate_backward[kind](g, dh, n, dg);
      } else if (graph.activation == Activation::ClampedSwiglu) {
        kernels_->swiglu_oai_backward(g, u, dh, n, dg, du);
      } else if (graph.limit > 0) {
        kernels_->swiglu_clamped_backward(g, u, dh, graph.limit, n, dg, du);
      } else {
        kernels_->gate_backward[kind](g, u, dh, n, dg, du);
      }
    }
  });
}

Result<void> LayerBackward::ffn_backward(const FfnGraph& graph, InputGroup input_group,
                                         InputGroup hidden_group, MatrixView<const float> input,
                                         Buffer gate_up, Buffer hidden, MatrixView<float> dout,
                                         MatrixView<float> dinput) {
  QF_TRY(multiply_backward(graph.down, hidden_group, constant(buffers_[hidden]), dout, gradients_[hidden],
                           false));
  activate_backward(graph, constant(buffers_[gate_up]), constant(gradients_[hidden]), gradients_[gate_up]);
  return project_backward(graph.gate_up, input_group, input, gradients_[gate_up], dinput);
}

// after = before + post_norm(proj(gelu(gate before) * mix)),
// mix = (norm(shrink * P e) * ... + grow * table[token]) / sqrt 2, e the token's embedding.
Result<void> LayerBackward::layer_embedding_backward(const Batch& batch, MatrixView<const float> before,
                                                     MatrixView<float> gradient, CarriedGradients& carried) {
  const LayerEmbeddingGraph& e = layer_->layer_embedding;
  const std::size_t n = graph_->layer_embedding_width;
  const MatrixView<float> dout = gradients_[Buffer::LayerOutput];
  norm_backward(e.post_norm, 1, constant(buffers_[Buffer::LayerOutput]), constant(gradient), dout, false);
  const MatrixView<float> dgated = gradients_[Buffer::LayerGated];
  QF_TRY(multiply_backward(e.projection, InputGroup::LayerGated, constant(buffers_[Buffer::LayerGated]), dout,
                           dgated, false));
  const MatrixView<float> gate = buffers_[Buffer::LayerGate];
  const MatrixView<float> mix = buffers_[Buffer::LayerEmbedding];
  const MatrixView<float> dgate = gradients_[Buffer::LayerGate];
  const MatrixView<float> dmix = gradients_[Buffer::LayerEmbedding];
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->gate_backward[static_cast<std::size_t>(kernels::Activation::GeluTanh)](
          gate.row(t), mix.row(t), dgated.row(t), n, dgate.row(t), dmix.row(t));
      kernels_->scale(dmix.row(t), 0.70710678118654752F, n, dmix.row(t));
    }
  });
  QF_TRY(multiply_backward(e.gate, InputGroup::LayerGate, before, dgate, gradient, true));

  // The table's rows; dtable borrows the room of the gated values' gradient.
  const std::size_t first_row = n * layer_->index;
  const float grow = std::sqrt(static_cast<float>(n));
  const MatrixView<float> dtable = dgated;
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) kernels_->scale(dmix.row(t), grow, n, dtable.row(t));
  });
  if (back_observer_ != nullptr) {
    QF_TRY(back_observer_->lookup({graph_->layer_embedding, static_cast<std::uint32_t>(first_row),
                                   first_token_, batch.tokens, constant(dtable)}));
  }
  // The projection, whose outputs forward() has normed in place: once more.
  const Matrix& projection = graph_->layer_embedding_projection;
  const MatrixView<const float> embedded = constant(buffers_[Buffer::Embedded]);
  const MatrixView<float> raw = gradients_[Buffer::LayerEmbeddingRaw];
  product(projection, 0, first_row, embedded, raw);
  add_bias(projection, 0, first_row, raw);
  const float shrink = 1 / std::sqrt(static_cast<float>(graph_->width));
  scale_rows(raw, shrink);
  norm_backward(graph_->layer_embedding_norm, 1, constant(raw), constant(dmix), dmix, false);
  scale_rows(dmix, shrink);
  QF_ASSIGN(const MatrixView<float> dembedded,
            carried.embedding.read_mutable(batch.first_token, batch.rows(), carried_buffer_));
  const GradientTask task{&projection, 0, first_row, embedded, dmix, dembedded, InputGroup::LayerEmbedding};
  QF_TRY(products_backward({&task, 1}));
  return carried.embedding.write(batch.first_token, constant(dembedded));
}

}  // namespace quantfit::engine

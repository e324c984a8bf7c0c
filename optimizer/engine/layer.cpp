#include "optimizer/engine/layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace quantfit::engine {

RopeTable make_rope_table(const RopeSpec& spec, const float* factors, std::size_t positions) {
  RopeTable out;
  out.pairs = spec.dims / 2;
  out.cosine.resize(positions * out.pairs);
  out.sine.resize(positions * out.pairs);
  const float step = std::pow(static_cast<float>(spec.base), -2.0F / static_cast<float>(spec.dims));
  for (std::size_t p = 0; p < positions; ++p) {
    float angle = static_cast<float>(p);
    for (std::size_t i = 0; i < out.pairs; ++i) {
      const float extrapolated = factors == nullptr ? angle : angle / factors[i];
      float theta = spec.frequency_scale * extrapolated;
      if (spec.extrapolation != 0) {
        const float position =
            (static_cast<float>(i) - spec.ramp_low) / std::max(0.001F, spec.ramp_high - spec.ramp_low);
        const float ramp = (1 - std::min(1.0F, std::max(0.0F, position))) * spec.extrapolation;
        theta = theta * (1 - ramp) + extrapolated * ramp;
      }
      out.cosine[p * out.pairs + i] = std::cos(theta) * spec.magnitude;
      out.sine[p * out.pairs + i] = std::sin(theta) * spec.magnitude;
      angle *= step;
    }
  }
  return out;
}

LayerRunner::LayerRunner(const ModelGraph& graph, const Weights& weights, const kernels::MathKernels& kernels,
                         Workers& workers, const CancellationToken& cancel)
    : graph_(&graph),
      weights_(&weights),
      kernels_(&kernels),
      workers_(&workers),
      cancel_(&cancel),
      globals_(weights),
      parameters_(weights) {}

void LayerRunner::prepare(std::size_t longest) {
  ropes_.clear();
  // The field's reference rounds a session's context up to a multiple of 256 before it chooses the factors.
  const std::size_t context = (longest + 255) / 256 * 256;
  for (const RopeSpec& spec : graph_->ropes) {
    const bool use_long = spec.factors_long != nullptr && context > spec.long_context;
    ropes_.push_back(
        make_rope_table(spec, globals_.values(use_long ? spec.factors_long : spec.factors), longest));
  }
}

std::size_t LayerRunner::scratch_floats(const ModelGraph& graph, std::size_t longest) {
  std::size_t most = kernels::product_scratch(kernels::kProductTokens, kernels::kProductOutputs);
  for (const LayerGraph& layer : graph.layers) {
    kernels::AttentionShape shape;
    shape.tokens = longest;
    if (layer.mixer == Mixer::Attention || layer.mixer == Mixer::AttentionAndMamba2) {
      shape.heads = layer.attention.heads, shape.kv_heads = layer.attention.kv_heads;
      shape.key_dim = layer.attention.key_dim, shape.value_dim = layer.attention.value_dim;
      shape.window = layer.attention.window;
      most = std::max(most, kernels::attention_scratch(shape));
    } else if (layer.mixer == Mixer::LatentAttention) {
      const LatentGraph& a = layer.latent;
      shape.heads = a.heads, shape.kv_heads = a.kv_b ? a.heads : 1;
      shape.key_dim = std::size_t{a.kv_b ? a.nope_dims : a.latent} + a.rope_dims;
      shape.value_dim = a.kv_b ? a.value_dim : a.latent;
      most = std::max(most, kernels::attention_scratch(shape));
    } else if (layer.mixer == Mixer::GatedDelta) {
      const std::size_t dim = layer.gated_delta.head_dim;
      most =
          std::max(most, kernels::delta_net_scratch({.tokens = longest, .key_dim = dim, .value_dim = dim}));
    } else if (layer.mixer == Mixer::KeyDelta) {
      const std::size_t dim = layer.key_delta.head_dim;
      most =
          std::max(most, kernels::delta_net_scratch(
                             {.tokens = longest, .key_dim = dim, .value_dim = dim, .decay_per_key = true}));
    }
    if (layer.mixer == Mixer::Mamba2 || layer.mixer == Mixer::AttentionAndMamba2) {
      most = std::max(
          most, kernels::mamba2_scratch(
                    {.tokens = longest, .head_dim = layer.mamba2.head_dim, .state_dim = layer.mamba2.state}));
    }
  }
  return most;
}

void LayerRunner::begin(const LayerGraph& layer, ForwardObserver* observer) {
  layer_ = &layer;
  layer_index_ = layer.index;
  observer_ = observer;
  parameters_.clear();
  specs_ = buffers_of(*graph_, layer);
}

void LayerRunner::run_tiles(std::span<const ProductTask> tasks) {
  struct Tile {
    const ProductTask* task;
    std::size_t first_row, rows, first_output, outputs;
  };
  std::vector<Tile> tiles;
  // Small jobs are cut finer, so that every thread has work; how they are cut changes no sum.
  std::size_t work = 0;
  for (const ProductTask& task : tasks) work += task.x.rows * task.y.columns;
  const std::size_t share = work / (workers_->threads() * 4) + 1;
  std::size_t outputs_most = kernels::kProductOutputs;
  std::size_t rows_most = kernels::kProductTokens;
  while (outputs_most > 48 && outputs_most * rows_most > share) outputs_most -= 48;
  while (rows_most > 64 && outputs_most * rows_most > share) rows_most /= 2;
  for (const ProductTask& task : tasks) {
    for (std::size_t o = 0; o < task.y.columns; o += outputs_most) {
      for (std::size_t r = 0; r < task.x.rows; r += rows_most) {
        tiles.push_back(
            {&task, r, std::min(rows_most, task.x.rows - r), o, std::min(outputs_most, task.y.columns - o)});
      }
    }
  }
  workers_->for_each(tiles.size(), [&](std::size_t i, float* scratch) {
    const Tile& tile = tiles[i];
    const ProductTask& task = *tile.task;
    const kernels::WeightRows w =
        weights_->rows(*task.matrix, task.index, task.first + tile.first_output, tile.outputs);
    const MatrixView<const float> x{task.x.row(tile.first_row), tile.rows, task.x.columns, task.x.stride};
    const MatrixView<float> y{task.y.row(tile.first_row) + tile.first_output, tile.rows, tile.outputs,
                              task.y.stride};
    kernels_->product(x, w, y, false, scratch);
  });
}

void LayerRunner::product(const Matrix& matrix, std::uint32_t index, std::size_t first,
                          MatrixView<const float> x, MatrixView<float> y) {
  const ProductTask task{&matrix, index, first, x, y, InputGroup::Output};
  run_tiles({&task, 1});
  if (matrix.scale != nullptr) {
    const float* scale = globals_.values(matrix.scale);
    const float factor = scale[matrix.scale->elements() == 1 ? 0 : index];
    workers_->for_rows(y.rows, kRowPiece, [&](std::size_t begin, std::size_t count, float*) {
      for (std::size_t t = begin; t < begin + count; ++t)
        kernels_->scale(y.row(t), factor, y.columns, y.row(t));
    });
  }
}

void LayerRunner::add_bias(const Matrix& matrix, std::uint32_t index, std::size_t first,
                           MatrixView<float> y) {
  if (matrix.bias == nullptr) return;
  const float* bias = globals_.values(matrix.bias) + std::size_t{index} * matrix.rows + first;
  workers_->for_rows(y.rows, kRowPiece, [&](std::size_t begin, std::size_t count, float*) {
    for (std::size_t t = begin; t < begin + count; ++t) kernels_->add(y.row(t), bias, y.columns, y.row(t));
  });
}

Result<void> LayerRunner::products(std::span<const ProductTask> tasks) {
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  run_tiles(tasks);
  for (const ProductTask& task : tasks) {
    if (task.matrix->scale == nullptr) continue;
    const float* scale = parameters_.values(task.matrix->scale);
    const float factor = scale[task.matrix->scale->elements() == 1 ? 0 : task.index];
    workers_->for_rows(task.y.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
      for (std::size_t t = first; t < first + rows; ++t)
        kernels_->scale(task.y.row(t), factor, task.y.columns, task.y.row(t));
    });
  }
  if (observer_ != nullptr) {
    for (const ProductTask& task : tasks) {
      if (!task.observed || task.x.rows == 0) continue;
      const MatrixView<const float> output{task.y.data, task.y.rows, task.y.columns, task.y.stride};
      QF_TRY(observer_->product(
          {layer_index_, task.matrix, task.index, static_cast<std::uint32_t>(task.group), task.x, output}));
    }
  }
  for (const ProductTask& task : tasks) {
    if (task.matrix->bias == nullptr) continue;
    const float* bias =
        parameters_.values(task.matrix->bias) + std::size_t{task.index} * task.matrix->rows + task.first;
    workers_->for_rows(task.y.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
      for (std::size_t t = first; t < first + rows; ++t)
        kernels_->add(task.y.row(t), bias, task.y.columns, task.y.row(t));
    });
  }
  return outcome::success();
}

Result<void> LayerRunner::project(std::span<const Projection> projections, InputGroup group,
                                  MatrixView<const float> x, MatrixView<float> y) {
  std::vector<ProductTask> tasks;
  for (const Projection& p : projections)
    tasks.push_back({&p.matrix, 0, 0, x, columns_of(y, p.offset, p.matrix.rows), group});
  return products(tasks);
}

Result<void> LayerRunner::multiply(const Matrix& matrix, InputGroup group, MatrixView<const float> x,
                                   MatrixView<float> y) {
  const ProductTask task{&matrix, 0, 0, x, columns_of(y, 0, matrix.rows), group};
  return products({&task, 1});
}

void LayerRunner::norm_rows(const Norm& norm, MatrixView<const float> x, MatrixView<float> y) {
  const float* weight = parameters_.values(norm.weight);
  const float* bias = parameters_.values(norm.bias);
  workers_->for_rows(x.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
    for (std::size_t t = first; t < first + rows; ++t) {
      const kernels::NormShape shape{1, norm.size, norm.size, 0, norm.epsilon};
      if (norm.kind == NormKind::Rms)
        kernels_->rms_norm(shape, x.row(t), weight, bias, y.row(t), nullptr);
      else
        kernels_->layer_norm(shape, x.row(t), weight, bias, y.row(t), nullptr, nullptr);
    }
  });
}

void LayerRunner::norm_heads(const Norm& norm, std::size_t heads, MatrixView<float> x) {
  const float* weight = parameters_.values(norm.weight);
  const float* bias = parameters_.values(norm.bias);
  const kernels::NormShape shape{heads, norm.size, norm.size, norm.weight_rows > 1 ? norm.size : 0,
                                 norm.epsilon};
  workers_->for_rows(x.rows, kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
    for (std::size_t t = first; t < first + rows; ++t) {
      if (norm.kind == NormKind::Rms)
        kernels_->rms_norm(shape, x.row(t), weight, bias, x.row(t), nullptr);
      else
        kernels_->layer_norm(shape, x.row(t), weight, bias, x.row(t), nullptr, nullptr);
    }
  });
}

void LayerRunner::copy_columns(MatrixView<const float> from, std::size_t first, std::size_t columns,
                               MatrixView<float> to, std::size_t to_first) {
  workers_->for_rows(from.rows, kRowPiece, [&](std::size_t begin, std::size_t rows, float*) {
    for (std::size_t t = begin; t < begin + rows; ++t)
      std::memcpy(to.row(t) + to_first, from.row(t) + first, columns * sizeof(float));
  });
}

Result<void> LayerRunner::embed(const Batch& batch, MatrixView<float> out) {
  QF_TRY(look_up(batch, out));
  if (graph_->embedding_norm) norm_rows(graph_->embedding_norm, constant(out), out);
  return outcome::success();
}

Result<void> LayerRunner::look_up(const Batch& batch, MatrixView<float> out) {
  const TensorInfo& table = *graph_->embedding;
  std::atomic<std::size_t> bad{batch.rows()};
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t rows, float*) {
    for (std::size_t t = first; t < first + rows; ++t) {
      float* row = out.row(t);
      weights_->decode(table, static_cast<std::uint64_t>(batch.tokens[t]), row);
      if (!std::all_of(row, row + out.columns, [](float v) { return std::isfinite(v); })) {
        std::size_t seen = bad.load();
        while (t < seen && !bad.compare_exchange_weak(seen, t)) {
        }
      }
      if (graph_->embedding_scale != 1) kernels_->scale(row, graph_->embedding_scale, out.columns, row);
    }
  });
  if (bad.load() < batch.rows()) {
    return fail(ErrorCode::Malformed, "{}: tensor '{}', row {}: a weight is not a finite number",
                weights_->model().shards()[table.shard].path.string(), table.name, batch.tokens[bad.load()]);
  }
  if (graph_->position_embedding != nullptr) {
    std::vector<float> row(graph_->width);
    for (const Batch::Window& window : batch.windows) {
      for (std::size_t p = 0; p < window.length; ++p) {
        weights_->decode(*graph_->position_embedding, p, row.data());
        float* to = out.row(window.first + p);
        kernels_->add(to, row.data(), row.size(), to);
      }
    }
  }
  return outcome::success();
}

Result<void> LayerRunner::forward(const Batch& batch, MatrixView<float> x) {
  const LayerGraph& layer = *layer_;
  const std::size_t rows = batch.rows();
  buffers_.arrange(specs_, rows);
  const MatrixView<const float> input{x.data, x.rows, x.columns, x.stride};

  MatrixView<const float> normed = input;
  if (layer.attn_norm) {
    norm_rows(layer.attn_norm, input, buffers_[Buffer::MixerInput]);
    normed = constant(buffers_[Buffer::MixerInput]);
  }
  MatrixView<const float> mixed{};
  if (layer.mixer != Mixer::None) {
    MatrixView<const float> mixer_input = normed;
    if (layer.mixer_norm) {
      norm_rows(layer.mixer_norm, input, buffers_[Buffer::FfnInput]);
      mixer_input = constant(buffers_[Buffer::FfnInput]);
    }
    QF_TRY(mixer(batch, mixer_input));
    mixed = constant(buffers_[Buffer::MixerOutput]);
    if (layer.post_attn_norm) {
      norm_rows(layer.post_attn_norm, mixed, buffers_[Buffer::MixerNormed]);
      mixed = constant(buffers_[Buffer::MixerNormed]);
    }
  }
  const bool has_ffn = layer.ffn || layer.experts;
  // y = a + residual_scale * b.
  const auto join = [&](MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> y) {
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        if (layer.residual_scale == 1) {
          kernels_->add(a.row(t), b.row(t), y.columns, y.row(t));
        } else {
          if (a.row(t) != y.row(t)) std::memcpy(y.row(t), a.row(t), y.columns * sizeof(float));
          kernels_->add_scaled(b.row(t), layer.residual_scale, y.columns, y.row(t));
        }
      }
    });
  };
  if (!has_ffn) {
    if (mixed.data != nullptr) join(input, mixed, x);
  } else {
    const MatrixView<float> middle = buffers_[Buffer::Middle];
    if (mixed.data == nullptr)
      copy_columns(input, 0, x.columns, middle, 0);
    else
      join(input, mixed, middle);
    // The ffn of a block with parallel branches reads the layer's input.
    MatrixView<const float> ffn_input =
        layer.parallel || layer.mixer == Mixer::None ? normed : constant(middle);
    if (layer.ffn_norm) {
      norm_rows(layer.ffn_norm, layer.parallel ? input : constant(middle), buffers_[Buffer::FfnInput]);
      ffn_input = constant(buffers_[Buffer::FfnInput]);
    }
    MatrixView<float> out{};
    if (layer.ffn) {
      out = buffers_[Buffer::FfnOutput];
      QF_TRY(ffn(layer.ffn, InputGroup::Ffn, InputGroup::FfnHidden, ffn_input, buffers_[Buffer::GateUp],
                 buffers_[Buffer::Hidden], out));
    }
    if (layer.experts) {
      if (layer.dual_ffn) {
        norm_rows(layer.experts.dense_post_norm, constant(out), buffers_[Buffer::DenseNormed]);
        out = buffers_[Buffer::DenseNormed];
      }
      QF_TRY(experts(batch, input, constant(middle), ffn_input));
      const MatrixView<float> sum =
          buffers_[layer.experts.post_norm ? Buffer::ExpertNormed : Buffer::ExpertSum];
      if (layer.ffn) {
        const MatrixView<float> both = buffers_[Buffer::FfnSum];
        workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
          for (std::size_t t = first; t < first + count; ++t) {
            kernels_->add(out.row(t), sum.row(t), both.columns, both.row(t));
            if (layer.dense_sum_scale != 1)
              kernels_->scale(both.row(t), layer.dense_sum_scale, both.columns, both.row(t));
          }
        });
        out = both;
      } else {
        out = sum;
      }
    }
    MatrixView<const float> branch = constant(out);
    if (layer.post_ffn_norm) {
      norm_rows(layer.post_ffn_norm, branch, buffers_[Buffer::FfnNormed]);
      branch = constant(buffers_[Buffer::FfnNormed]);
    }
    join(constant(middle), branch, x);
  }
  if (layer.layer_embedding.gate) QF_TRY(layer_embedding(batch, x));
  if (layer.output_scale != nullptr) {
    const float factor = *parameters_.values(layer.output_scale);
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t)
        kernels_->scale(x.row(t), factor, x.columns, x.row(t));
    });
  }
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  return outcome::success();
}

Result<void> LayerRunner::mixer(const Batch& batch, MatrixView<const float> input) {
  switch (layer_->mixer) {
    case Mixer::Attention:
      return attention(batch, input);
    case Mixer::LatentAttention:
      return latent(batch, input);
    case Mixer::GatedDelta:
      return gated_delta(batch, input);
    case Mixer::KeyDelta:
      return key_delta(batch, input);
    case Mixer::Mamba2:
      return mamba2(batch, input, buffers_[Buffer::MixerOutput], InputGroup::MixerOutput);
    case Mixer::ShortConvolution:
      return short_convolution(batch, input);
    case Mixer::AttentionAndMamba2: {
      QF_TRY(attention(batch, input));
      const MatrixView<float> second = buffers_[Buffer::SecondMixerOutput];
      QF_TRY(mamba2(batch, input, second, InputGroup::SecondMixerOutput));
      const MatrixView<float> out = buffers_[Buffer::MixerOutput];
      workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
        for (std::size_t t = first; t < first + count; ++t)
          kernels_->add(out.row(t), second.row(t), out.columns, out.row(t));
      });
      return outcome::success();
    }
    case Mixer::None:
      break;
  }
  return outcome::success();
}

kernels::Xielu LayerRunner::xielu_of(const FfnGraph& graph) {
  const auto softplus = [](double v) { return v > 20 ? v : std::log1p(std::exp(v)); };
  return {static_cast<float>(softplus(graph.xielu[1])),
          static_cast<float>(graph.xielu[2] + softplus(graph.xielu[0])), graph.xielu[2], graph.xielu[3]};
}

std::size_t LayerRunner::activation_index(const FfnGraph& graph) {
  using Kind = kernels::Activation;
  Kind kind = Kind::Silu;
  switch (graph.activation) {
    case Activation::Silu:
    case Activation::ClampedSwiglu:
    case Activation::Xielu:
      break;
    case Activation::Gelu:
      kind = Kind::GeluTanh;
      break;
    case Activation::Relu:
      kind = Kind::Relu;
      break;
    case Activation::ReluSquared:
      kind = Kind::ReluSquared;
      break;
  }
  return static_cast<std::size_t>(kind);
}

void LayerRunner::activate(const FfnGraph& graph, MatrixView<const float> gate_up, MatrixView<float> hidden) {
  const std::size_t n = graph.width;
  const kernels::Xielu xielu = xielu_of(graph);
  const std::size_t kind = activation_index(graph);
  workers_->for_rows(hidden.rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      const float* g = gate_up.row(t);
      const float* u = g + n;
      float* h = hidden.row(t);
      if (!graph.gated) {
        if (graph.activation == Activation::Xielu)
          kernels_->xielu(xielu, g, n, h);
        else
          kernels_->activate[kind](g, n, h);
      } else if (graph.activation == Activation::ClampedSwiglu) {
        kernels_->swiglu_oai(g, u, n, h);
      } else if (graph.limit > 0) {
        kernels_->swiglu_clamped(g, u, graph.limit, n, h);
      } else {
        kernels_->gate[kind](g, u, n, h);
      }
    }
  });
}

Result<void> LayerRunner::ffn(const FfnGraph& graph, InputGroup input_group, InputGroup hidden_group,
                              MatrixView<const float> input, MatrixView<float> gate_up,
                              MatrixView<float> hidden, MatrixView<float> out) {
  QF_TRY(project(graph.gate_up, input_group, input, gate_up));
  activate(graph, {gate_up.data, gate_up.rows, gate_up.columns, gate_up.stride}, hidden);
  return multiply(graph.down, hidden_group, {hidden.data, hidden.rows, hidden.columns, hidden.stride}, out);
}

Result<void> LayerRunner::layer_embedding(const Batch& batch, MatrixView<float> x) {
  const LayerEmbeddingGraph& e = layer_->layer_embedding;
  const std::size_t n = graph_->layer_embedding_width;
  const MatrixView<float> embedded = buffers_[Buffer::Embedded];
  const MatrixView<float> mix = buffers_[Buffer::LayerEmbedding];
  QF_TRY(embed(batch, embedded));
  const MatrixView<const float> embedded_in{embedded.data, embedded.rows, embedded.columns, embedded.stride};
  // This layer's rows of the projection; its input is the same in all layers, so it is shown once.
  const std::size_t first_row = n * layer_->index;
  product(graph_->layer_embedding_projection, 0, first_row, embedded_in, mix);
  if (observer_ != nullptr && layer_->index == 0) {
    QF_TRY(observer_->product({layer_index_,
                               &graph_->layer_embedding_projection,
                               0,
                               static_cast<std::uint32_t>(InputGroup::LayerEmbedding),
                               embedded_in,
                               {}}));
  }
  add_bias(graph_->layer_embedding_projection, 0, first_row, mix);
  const float* weight = globals_.values(graph_->layer_embedding_norm.weight);
  const kernels::NormShape shape{1, n, n, 0, graph_->layer_embedding_norm.epsilon};
  const float shrink = 1 / std::sqrt(static_cast<float>(graph_->width));
  const float grow = std::sqrt(static_cast<float>(n));
  const TensorInfo& table = *graph_->layer_embedding;
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    std::vector<float> token(table.ne[0]);
    for (std::size_t t = first; t < first + count; ++t) {
      float* row = mix.row(t);
      kernels_->scale(row, shrink, n, row);
      kernels_->rms_norm(shape, row, weight, nullptr, row, nullptr);
      weights_->decode(table, static_cast<std::uint64_t>(batch.tokens[t]), token.data());
      kernels_->add_scaled(token.data() + first_row, grow, n, row);
      kernels_->scale(row, 0.70710678118654752F, n, row);
    }
  });
  const MatrixView<const float> stream{x.data, x.rows, x.columns, x.stride};
  const MatrixView<float> gate = buffers_[Buffer::LayerGate];
  const MatrixView<float> gated = buffers_[Buffer::LayerGated];
  const MatrixView<float> out = buffers_[Buffer::LayerOutput];
  QF_TRY(multiply(e.gate, InputGroup::LayerGate, stream, gate));
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->gate[static_cast<std::size_t>(kernels::Activation::GeluTanh)](gate.row(t), mix.row(t), n,
                                                                              gated.row(t));
  });
  QF_TRY(multiply(e.projection, InputGroup::LayerGated, {gated.data, gated.rows, gated.columns, gated.stride},
                  out));
  const MatrixView<float> normed = buffers_[Buffer::LayerNormed];
  norm_rows(e.post_norm, {out.data, out.rows, out.columns, out.stride}, normed);
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->add(x.row(t), normed.row(t), x.columns, x.row(t));
  });
  return outcome::success();
}

}  // namespace quantfit::engine

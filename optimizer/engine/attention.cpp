// Mixers that are attention: plain, and over a latent.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optimizer/engine/layer.h"

namespace quantfit::engine {
namespace {

using kernels::TokenRows;

// Slope of head h of n (architectures.md, ALiBi).
std::vector<float> alibi_slopes(std::size_t heads, float bias) {
  std::size_t power = 1;
  while (2 * power <= heads) power *= 2;
  std::vector<float> out(heads);
  for (std::size_t h = 0; h < heads; ++h) {
    const double base =
        std::exp2(-static_cast<double>(bias) / static_cast<double>(power) * (h < power ? 1 : 0.5));
    out[h] = static_cast<float>(
        std::pow(base, h < power ? static_cast<double>(h + 1) : static_cast<double>(2 * (h - power) + 1)));
  }
  return out;
}

}  // namespace

void LayerRunner::rotate(const Batch& batch, Rope rope, std::uint32_t rope_index, std::size_t heads,
                         std::size_t head_stride, MatrixView<float> x, std::size_t offset) {
  if (rope == Rope::None) return;
  const RopeTable& table = ropes_[rope_index];
  kernels::RopeShape shape;
  shape.heads = heads;
  shape.head_stride = head_stride;
  shape.rotated = 2 * table.pairs;
  shape.layout = rope == Rope::Neox ? kernels::RopeLayout::Neox : kernels::RopeLayout::Interleaved;
  for (const Batch::Window& window : batch.windows) {
    workers_->for_rows(window.length, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      kernels::RopeShape piece = shape;
      piece.tokens = count;
      const TokenRows<const float> cosine{table.cosine.data() + first * table.pairs, table.pairs};
      const TokenRows<const float> sine{table.sine.data() + first * table.pairs, table.pairs};
      kernels_->rope(piece, cosine, sine, {x.row(window.first + first) + offset, x.stride});
    });
  }
}

void LayerRunner::scale_queries(const Batch& batch, float scale, float offset, std::uint32_t length,
                                MatrixView<float> queries) {
  if (scale == 0) return;
  for (const Batch::Window& window : batch.windows) {
    workers_->for_rows(window.length, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t p = first; p < first + count; ++p) {
        const float turns = std::floor((static_cast<float>(p) + offset) / static_cast<float>(length));
        const float tau = 1 + scale * std::log(1 + turns);
        float* row = queries.row(window.first + p);
        if (tau != 1) kernels_->scale(row, tau, queries.columns, row);
      }
    });
  }
}

void LayerRunner::round_kept(MatrixView<float> x) {
  if (weights_->arithmetic() == Arithmetic::Exact) return;
  workers_->for_rows(x.rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->round_to_half(x.row(t), x.columns, x.row(t));
  });
}

// Attention of every window, head by head and some queries at a time.
void LayerRunner::scores(const Batch& batch, const kernels::AttentionShape& shape, MatrixView<const float> q,
                         MatrixView<const float> k, MatrixView<const float> v, MatrixView<float> out) {
  struct Task {
    const Batch::Window* window;
    std::size_t head, first, count;
  };
  constexpr std::size_t kQueries = 4 * kernels::kAttentionQueries;
  std::vector<Task> tasks;
  for (const Batch::Window& window : batch.windows)
    for (std::size_t head = 0; head < shape.heads; ++head)
      for (std::size_t first = 0; first < window.length; first += kQueries)
        tasks.push_back({&window, head, first, std::min(kQueries, window.length - first)});
  const MatrixView<float> statistics = buffers_[Buffer::Statistics];
  workers_->for_each(tasks.size(), [&](std::size_t i, float* scratch) {
    const Task& task = tasks[i];
    const Batch::Window& window = *task.window;
    kernels::AttentionShape one = shape;
    one.tokens = window.length;
    const kernels::AttentionInputs in{
        {q.row(window.first), q.stride}, {k.row(window.first), k.stride}, {v.row(window.first), v.stride}};
    float* row_max = statistics.row(window.first);
    kernels_->attention(one, in, task.head, task.first, task.count, {out.row(window.first), out.stride},
                        {row_max, row_max + shape.heads * window.length}, scratch);
  });
}

kernels::AttentionShape LayerRunner::attention_shape(const AttentionGraph& a, std::vector<float>& slopes) {
  kernels::AttentionShape shape;
  shape.heads = a.heads;
  shape.kv_heads = a.kv_heads;
  shape.key_dim = a.key_dim;
  shape.value_dim = a.value_dim;
  shape.scale = a.scale;
  shape.softcap = a.softcap;
  shape.mask = kernels::MaskKind::Causal;
  if (a.window != 0) {
    shape.mask = a.window_shape == WindowShape::Chunked ? kernels::MaskKind::Chunked
                                                        : kernels::MaskKind::SlidingWindow;
    shape.window = a.window;
  }
  if (a.alibi_bias != 0) {
    slopes = alibi_slopes(a.heads, a.alibi_bias);
    shape.alibi_slopes = slopes.data();
  }
  shape.sinks = parameters_.values(a.sinks);
  return shape;
}

kernels::AttentionShape LayerRunner::latent_shape(const LatentGraph& a) {
  kernels::AttentionShape shape;
  shape.heads = a.heads;
  shape.scale = a.scale;
  shape.kv_heads = a.kv_b ? a.heads : 1;
  shape.key_dim = std::size_t{a.kv_b ? a.nope_dims : a.latent} + a.rope_dims;
  shape.value_dim = a.kv_b ? a.value_dim : a.latent;
  return shape;
}

Result<void> LayerRunner::attention(const Batch& batch, MatrixView<const float> input) {
  const AttentionGraph& a = layer_->attention;
  const std::size_t rows = batch.rows();
  const MatrixView<float> qkv = buffers_[Buffer::Qkv];
  const MatrixView<float> queries = buffers_[Buffer::Queries];
  const MatrixView<float> keys = buffers_[Buffer::Keys];
  QF_TRY(project(a.qkv, InputGroup::Mixer, input, qkv));
  const std::size_t products_end =
      a.kv_layer ? a.key_offset : (a.value_is_key ? a.value_offset : a.row_width);
  if (a.clamp > 0) {
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t)
        kernels_->clamp(qkv.row(t), -a.clamp, a.clamp, products_end, qkv.row(t));
    });
  }

  const std::size_t k_width = std::size_t{a.kv_heads} * a.key_dim;
  const std::size_t v_width = std::size_t{a.kv_heads} * a.value_dim;
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      for (std::size_t h = 0; h < a.heads; ++h) {
        std::memcpy(queries.row(t) + h * a.key_dim, qkv.row(t) + h * a.query_head_stride,
                    a.key_dim * sizeof(float));
      }
    }
  });
  MatrixView<float> own_values = columns_of(qkv, a.value_offset, v_width);
  if (!a.kv_layer) {
    copy_columns(constant(qkv), a.key_offset, k_width, keys, 0);
    if (a.value_is_key || a.value_norm) {
      own_values = buffers_[Buffer::Values];
      copy_columns(constant(qkv), a.value_is_key ? a.key_offset : a.value_offset, v_width, own_values, 0);
      if (a.value_norm) {
        norm_heads(Norm{.kind = NormKind::Rms, .epsilon = a.value_norm_epsilon, .size = a.value_dim},
                   a.kv_heads, own_values);
      }
    }
  }
  const auto norms = [&] {
    const bool whole = a.qk_norm == QkNorm::WholeRow;
    if (a.q_norm) norm_heads(a.q_norm, whole ? 1 : a.heads, queries);
    if (a.k_norm && !a.kv_layer) norm_heads(a.k_norm, whole ? 1 : a.kv_heads, keys);
  };
  if (a.qk_norm == QkNorm::PerHead || a.qk_norm == QkNorm::WholeRow) norms();
  rotate(batch, a.rope, a.rope_index, a.heads, a.key_dim, queries, 0);
  if (!a.kv_layer) rotate(batch, a.rope, a.rope_index, a.kv_heads, a.key_dim, keys, 0);
  if (a.qk_norm == QkNorm::PerHeadAfterRope) norms();
  scale_queries(batch, a.temperature_scale, a.temperature_offset, a.temperature_length, queries);
  if (!a.kv_layer) round_kept(keys), round_kept(own_values);

  MatrixView<const float> values = constant(own_values);
  MatrixView<const float> attended = constant(keys);
  if (a.kv_layer) {
    const KeptKeys& kept = (*kept_)[*a.kv_layer];
    QF_ASSIGN(attended, kept.keys.read(batch.first_token, rows, kept_key_buffer_));
    QF_ASSIGN(values, kept.values.read(batch.first_token, rows, kept_value_buffer_));
  } else if (kept_ != nullptr && (*kept_)[layer_->index].keys.rows() != 0) {
    KeptKeys& kept = (*kept_)[layer_->index];
    QF_ASSIGN(const auto keep_k, kept.keys.read_mutable(batch.first_token, rows, kept_key_buffer_));
    QF_ASSIGN(const auto keep_v, kept.values.read_mutable(batch.first_token, rows, kept_value_buffer_));
    copy_columns(constant(keys), 0, k_width, keep_k, 0);
    copy_columns(values, 0, v_width, keep_v, 0);
    QF_TRY(kept.keys.write(batch.first_token, constant(keep_k)));
    QF_TRY(kept.values.write(batch.first_token, constant(keep_v)));
  }

  std::vector<float> slopes;
  const kernels::AttentionShape shape = attention_shape(a, slopes);
  const MatrixView<float> heads = buffers_[Buffer::Heads];
  scores(batch, shape, constant(queries), attended, values, heads);
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  if (a.value_scale != 1) {
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t)
        kernels_->scale(heads.row(t), a.value_scale, heads.columns, heads.row(t));
    });
  }
  MatrixView<const float> output_input = constant(heads);
  if (a.gate != AttentionGate::None) {
    const MatrixView<float> gate = buffers_[Buffer::GateValues];
    const MatrixView<float> gated = buffers_[Buffer::GatedHeads];
    if (a.gate == AttentionGate::InQuery) {
      workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
        for (std::size_t t = first; t < first + count; ++t) {
          for (std::size_t h = 0; h < a.heads; ++h) {
            std::memcpy(gate.row(t) + h * a.value_dim, qkv.row(t) + h * a.query_head_stride + a.key_dim,
                        a.value_dim * sizeof(float));
          }
        }
      });
    } else {
      QF_TRY(multiply(a.gate_matrix, InputGroup::Mixer, input, gate));
    }
    const auto kind =
        a.gate == AttentionGate::Softplus ? kernels::Activation::Softplus : kernels::Activation::Sigmoid;
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        kernels_->activate[static_cast<std::size_t>(kind)](gate.row(t), gate.columns, gate.row(t));
        if (gate.columns == gated.columns) {
          kernels_->multiply(heads.row(t), gate.row(t), gated.columns, gated.row(t));
        } else {
          for (std::size_t h = 0; h < a.heads; ++h) {
            const std::size_t at = h * a.value_dim;
            kernels_->scale(heads.row(t) + at, gate.row(t)[h], a.value_dim, gated.row(t) + at);
          }
        }
      }
    });
    output_input = constant(gated);
  }
  return multiply(a.output, InputGroup::MixerOutput, output_input, buffers_[Buffer::MixerOutput]);
}

Result<void> LayerRunner::latent(const Batch& batch, MatrixView<const float> input) {
  const LatentGraph& a = layer_->latent;
  const std::size_t rows = batch.rows();
  const std::size_t key_dim = std::size_t{a.nope_dims} + a.rope_dims;
  const MatrixView<float> raw_queries = buffers_[Buffer::LatentQueries];
  const MatrixView<float> queries = buffers_[Buffer::Queries];
  const MatrixView<float> keys = buffers_[Buffer::Keys];
  const MatrixView<float> kv = buffers_[Buffer::LatentKeyValue];

  if (a.q_a) {
    const MatrixView<float> low = buffers_[Buffer::LatentQueryLow];
    const MatrixView<float> low_normed = buffers_[Buffer::LatentQueryLowNormed];
    const ProductTask both[] = {{&a.q_a, 0, 0, input, low, InputGroup::Mixer},
                                {&a.kv_a, 0, 0, input, kv, InputGroup::Mixer}};
    QF_TRY(products(both));
    norm_rows(a.q_a_norm, constant(low), low_normed);
    QF_TRY(multiply(a.q_b, InputGroup::LatentQuery, constant(low_normed), raw_queries));
  } else {
    const ProductTask both[] = {{&a.q, 0, 0, input, raw_queries, InputGroup::Mixer},
                                {&a.kv_a, 0, 0, input, kv, InputGroup::Mixer}};
    QF_TRY(products(both));
  }

  const kernels::AttentionShape shape = latent_shape(a);
  MatrixView<float> heads = buffers_[Buffer::Heads];
  if (a.kv_b) {
    // Keys and values of every head, spelled out.
    const MatrixView<float> normed = buffers_[Buffer::GateValues];
    const MatrixView<float> expanded = buffers_[Buffer::LatentExpanded];
    const MatrixView<float> values = buffers_[Buffer::Values];
    norm_rows(a.kv_a_norm, constant(kv), normed);
    QF_TRY(multiply(a.kv_b, InputGroup::LatentKeys, constant(normed), expanded));
    copy_columns(constant(raw_queries), 0, a.heads * key_dim, queries, 0);
    rotate(batch, a.rope, a.rope_index, a.heads, key_dim, queries, a.nope_dims);
    // The shared rotated part is turned once, in the first head's place, then copied to the others.
    copy_columns(constant(kv), a.latent, a.rope_dims, keys, a.nope_dims);
    rotate(batch, a.rope, a.rope_index, 1, key_dim, keys, a.nope_dims);
    const std::size_t stride = std::size_t{a.nope_dims} + a.value_dim;
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        for (std::size_t h = 0; h < a.heads; ++h) {
          float* key = keys.row(t) + h * key_dim;
          std::memcpy(key, expanded.row(t) + h * stride, a.nope_dims * sizeof(float));
          if (h != 0) std::memcpy(key + a.nope_dims, keys.row(t) + a.nope_dims, a.rope_dims * sizeof(float));
          std::memcpy(values.row(t) + h * a.value_dim, expanded.row(t) + h * stride + a.nope_dims,
                      a.value_dim * sizeof(float));
        }
      }
    });
    scale_queries(batch, a.temperature_scale, 0, a.temperature_length, queries);
    round_kept(keys), round_kept(values);
    scores(batch, shape, constant(queries), constant(keys), constant(values), heads);
  } else {
    // One key head of latent + rope_dims, whose values are the latent: k_b goes into the queries, v_b behind
    // the sum.
    const std::size_t absorbed = std::size_t{a.latent} + a.rope_dims;
    norm_rows(a.kv_a_norm, constant(kv), keys);
    copy_columns(constant(kv), a.latent, a.rope_dims, keys, a.latent);
    rotate(batch, a.rope, a.rope_index, 1, absorbed, keys, a.latent);
    std::vector<ProductTask> tasks;
    for (std::uint32_t h = 0; h < a.heads; ++h) {
      tasks.push_back({&a.k_b, h, 0, columns_of(constant(raw_queries), h * key_dim, a.nope_dims),
                       columns_of(queries, h * absorbed, a.latent), InputGroup::LatentHeadQueries});
    }
    QF_TRY(products(tasks));
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        for (std::size_t h = 0; h < a.heads; ++h) {
          std::memcpy(queries.row(t) + h * absorbed + a.latent,
                      raw_queries.row(t) + h * key_dim + a.nope_dims, a.rope_dims * sizeof(float));
        }
      }
    });
    rotate(batch, a.rope, a.rope_index, a.heads, absorbed, queries, a.latent);
    scale_queries(batch, a.temperature_scale, 0, a.temperature_length, queries);
    round_kept(keys);
    const MatrixView<float> latent_heads = buffers_[Buffer::LatentHeads];
    scores(batch, shape, constant(queries), constant(keys), columns_of(constant(keys), 0, a.latent),
           latent_heads);
    tasks.clear();
    for (std::uint32_t h = 0; h < a.heads; ++h) {
      tasks.push_back({&a.v_b, h, 0, columns_of(constant(latent_heads), std::size_t{h} * a.latent, a.latent),
                       columns_of(heads, std::size_t{h} * a.value_dim, a.value_dim),
                       InputGroup::LatentHeadValues});
    }
    QF_TRY(products(tasks));
  }
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  return multiply(a.output, InputGroup::MixerOutput, constant(heads), buffers_[Buffer::MixerOutput]);
}

}  // namespace quantfit::engine

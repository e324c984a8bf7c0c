// Gradients of attention: plain, and over a latent.

#include <algorithm>
#include <cstring>

#include "optimizer/engine/layer_backward.h"

namespace quantfit::engine {
namespace {

using kernels::TokenRows;

}  // namespace

void LayerBackward::rotate_backward(const Batch& batch, Rope rope, std::uint32_t rope_index,
                                    std::size_t heads, std::size_t head_stride, MatrixView<float> dx,
                                    std::size_t offset) {
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
      kernels_->rope_backward(piece, cosine, sine, {dx.row(window.first + first) + offset, dx.stride});
    });
  }
}

// Every window and key head with all its query heads.
void LayerBackward::scores_backward(const Batch& batch, const kernels::AttentionShape& shape,
                                    MatrixView<const float> q, MatrixView<const float> k,
                                    MatrixView<const float> v, MatrixView<const float> out,
                                    MatrixView<const float> dout, MatrixView<float> dq, MatrixView<float> dk,
                                    MatrixView<float> dv) {
  const MatrixView<float> statistics = buffers_[Buffer::Statistics];
  workers_->for_each(batch.windows.size() * shape.kv_heads, [&](std::size_t i, float* scratch) {
    const Batch::Window& window = batch.windows[i / shape.kv_heads];
    kernels::AttentionShape one = shape;
    one.tokens = window.length;
    const std::size_t row = window.first;
    const kernels::AttentionInputs in{{q.row(row), q.stride}, {k.row(row), k.stride}, {v.row(row), v.stride}};
    float* row_max = statistics.row(row);
    kernels_->attention_backward(one, in, i % shape.kv_heads, {out.row(row), out.stride},
                                 {row_max, row_max + shape.heads * window.length},
                                 {dout.row(row), dout.stride}, {dq.row(row), dq.stride},
                                 {dk.row(row), dk.stride}, {dv.row(row), dv.stride}, nullptr, scratch);
  });
}

Result<void> LayerBackward::attention_backward(const Batch& batch, MatrixView<const float> input,
                                               MatrixView<float> dinput, CarriedGradients& carried) {
  const AttentionGraph& a = layer_->attention;
  const std::size_t rows = batch.rows();
  const std::size_t k_width = std::size_t{a.kv_heads} * a.key_dim;
  const std::size_t v_width = std::size_t{a.kv_heads} * a.value_dim;
  const MatrixView<float> qkv = buffers_[Buffer::Qkv];
  const MatrixView<float> queries = buffers_[Buffer::Queries];
  const MatrixView<float> keys = buffers_[Buffer::Keys];
  const MatrixView<float> heads = buffers_[Buffer::Heads];
  const MatrixView<float> dqkv = gradients_[Buffer::Qkv];
  const MatrixView<float> dqueries = gradients_[Buffer::Queries];
  const MatrixView<float> dkeys = gradients_[Buffer::Keys];
  const MatrixView<float> dvalues = gradients_[Buffer::Values];
  const MatrixView<float> dheads = gradients_[Buffer::Heads];
  clear_rows(dqkv);

  // Output, gate, value scale.
  const MatrixView<float> dout = gradients_[Buffer::MixerOutput];
  if (a.gate == AttentionGate::None) {
    QF_TRY(multiply_backward(a.output, InputGroup::MixerOutput, constant(heads), dout, dheads, false));
  } else {
    const MatrixView<float> gate = buffers_[Buffer::GateValues];
    const MatrixView<float> dgate = gradients_[Buffer::GateValues];
    const MatrixView<float> dgated = gradients_[Buffer::GatedHeads];
    QF_TRY(multiply_backward(a.output, InputGroup::MixerOutput, constant(buffers_[Buffer::GatedHeads]), dout,
                             dgated, false));
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float* scratch) {
      for (std::size_t t = first; t < first + count; ++t) {
        if (gate.columns == dgated.columns) {
          kernels_->multiply(dgated.row(t), gate.row(t), dgated.columns, dheads.row(t));
          kernels_->multiply(dgated.row(t), heads.row(t), dgated.columns, dgate.row(t));
        } else {
          for (std::size_t h = 0; h < a.heads; ++h) {
            const std::size_t at = h * a.value_dim;
            kernels_->scale(dgated.row(t) + at, gate.row(t)[h], a.value_dim, dheads.row(t) + at);
            dgate.row(t)[h] = kernels_->dot(dgated.row(t) + at, heads.row(t) + at, a.value_dim);
          }
        }
        // forward() left sigmoid s or softplus p of the gate: s' = s (1 - s), p' = 1 - e^-p.
        float* slope = scratch;
        if (a.gate == AttentionGate::Softplus) {
          kernels_->scale(gate.row(t), -1, gate.columns, slope);
          kernels_->exp(slope, gate.columns, slope);
          for (std::size_t i = 0; i < gate.columns; ++i) slope[i] = 1 - slope[i];
        } else {
          for (std::size_t i = 0; i < gate.columns; ++i) slope[i] = gate.row(t)[i] * (1 - gate.row(t)[i]);
        }
        kernels_->multiply(dgate.row(t), slope, gate.columns, dgate.row(t));
        if (a.gate == AttentionGate::InQuery) {
          for (std::size_t h = 0; h < a.heads; ++h) {
            std::memcpy(dqkv.row(t) + h * a.query_head_stride + a.key_dim, dgate.row(t) + h * a.value_dim,
                        a.value_dim * sizeof(float));
          }
        }
      }
    });
    if (a.gate != AttentionGate::InQuery)
      QF_TRY(multiply_backward(a.gate_matrix, InputGroup::Mixer, input, dgate, dinput, true));
  }
  if (a.value_scale != 1) {
    // The heads as the scores made them.
    scale_rows(heads, 1 / a.value_scale);
    scale_rows(dheads, a.value_scale);
  }

  // Scores.
  std::vector<float> slopes;
  const kernels::AttentionShape shape = attention_shape(a, slopes);
  MatrixView<const float> attended = constant(keys);
  MatrixView<const float> values = a.value_is_key || a.value_norm
                                       ? constant(buffers_[Buffer::Values])
                                       : columns_of(constant(qkv), a.value_offset, v_width);
  if (a.kv_layer) {
    const KeptKeys& kept = (*kept_)[*a.kv_layer];
    QF_ASSIGN(attended, kept.keys.read(batch.first_token, rows, kept_key_buffer_));
    QF_ASSIGN(values, kept.values.read(batch.first_token, rows, kept_value_buffer_));
  }
  scores_backward(batch, shape, constant(queries), attended, values, constant(heads), constant(dheads),
                  dqueries, dkeys, dvalues);
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  // Keys and values that several layers use: their gradients are added up in the keeping of the lowest.
  const std::uint32_t source = a.kv_layer ? *a.kv_layer : layer_->index;
  if (source < carried.kept.size() && carried.kept[source].keys.rows() != 0) {
    KeptKeys& owed = carried.kept[source];
    QF_ASSIGN(const auto k, owed.keys.read_mutable(batch.first_token, rows, carried_buffer_));
    QF_ASSIGN(const auto v, owed.values.read_mutable(batch.first_token, rows, carried_value_buffer_));
    if (a.kv_layer) {
      add_rows(columns_of(constant(dkeys), 0, k_width), 1, k);
      add_rows(columns_of(constant(dvalues), 0, v_width), 1, v);
      QF_TRY(owed.keys.write(batch.first_token, constant(k)));
      QF_TRY(owed.values.write(batch.first_token, constant(v)));
    } else {
      add_rows(constant(k), 1, dkeys);
      add_rows(constant(v), 1, dvalues);
    }
  }

  // Temperature, norms and rotations of queries and keys.
  scale_queries(batch, a.temperature_scale, a.temperature_offset, a.temperature_length, dqueries);
  const bool whole = a.qk_norm == QkNorm::WholeRow;
  const bool after = a.qk_norm == QkNorm::PerHeadAfterRope;
  // What the norm read: the raw products, rotated where the norm follows.
  const auto undo = [&](const Norm& norm, std::size_t count, MatrixView<float> raw, MatrixView<float> d,
                        auto&& gather) {
    const auto through_norm = [&] {
      if (!norm) return;
      gather(raw);
      if (after) rotate(batch, a.rope, a.rope_index, count, a.key_dim, raw, 0);
      norm_backward(norm, whole ? 1 : count, constant(raw), constant(d), d, false);
    };
    if (after) through_norm();
    rotate_backward(batch, a.rope, a.rope_index, count, a.key_dim, d, 0);
    if (!after) through_norm();
  };
  const bool normed = a.qk_norm != QkNorm::None;
  undo(normed ? a.q_norm : Norm{}, a.heads, gradients_[Buffer::RawQueries], dqueries,
       [&](MatrixView<float> raw) {
         workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
           for (std::size_t t = first; t < first + count; ++t)
             for (std::size_t h = 0; h < a.heads; ++h)
               std::memcpy(raw.row(t) + h * a.key_dim, qkv.row(t) + h * a.query_head_stride,
                           a.key_dim * sizeof(float));
         });
       });
  workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      for (std::size_t h = 0; h < a.heads; ++h)
        std::memcpy(dqkv.row(t) + h * a.query_head_stride, dqueries.row(t) + h * a.key_dim,
                    a.key_dim * sizeof(float));
  });
  if (!a.kv_layer) {
    const MatrixView<float> raw = gradients_[Buffer::RawKeys];
    undo(normed ? a.k_norm : Norm{}, a.kv_heads, raw, dkeys, [&](MatrixView<float> to) {
      copy_columns(columns_of(constant(qkv), a.key_offset, k_width), 0, k_width, to, 0);
    });
    const std::size_t value_source = a.value_is_key ? a.key_offset : a.value_offset;
    if (a.value_norm) {
      copy_columns(columns_of(constant(qkv), value_source, v_width), 0, v_width, raw, 0);
      norm_backward(Norm{.kind = NormKind::Rms, .epsilon = a.value_norm_epsilon, .size = a.value_dim},
                    a.kv_heads, constant(raw), constant(dvalues), dvalues, false);
    }
    add_rows(columns_of(constant(dkeys), 0, k_width), 1, columns_of(dqkv, a.key_offset, k_width));
    add_rows(columns_of(constant(dvalues), 0, v_width), 1, columns_of(dqkv, value_source, v_width));
  }
  if (a.clamp > 0) {
    const std::size_t products_end =
        a.kv_layer ? a.key_offset : (a.value_is_key ? a.value_offset : a.row_width);
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t)
        kernels_->clamp_backward(qkv.row(t), dqkv.row(t), -a.clamp, a.clamp, products_end, dqkv.row(t));
    });
  }
  return project_backward(a.qkv, InputGroup::Mixer, input, dqkv, dinput);
}

Result<void> LayerBackward::latent_backward(const Batch& batch, MatrixView<const float> input,
                                            MatrixView<float> dinput) {
  const LatentGraph& a = layer_->latent;
  const std::size_t rows = batch.rows();
  const std::size_t key_dim = std::size_t{a.nope_dims} + a.rope_dims;
  const MatrixView<float> queries = buffers_[Buffer::Queries];
  const MatrixView<float> keys = buffers_[Buffer::Keys];
  const MatrixView<float> kv = buffers_[Buffer::LatentKeyValue];
  const MatrixView<float> heads = buffers_[Buffer::Heads];
  const MatrixView<float> draw_queries = gradients_[Buffer::LatentQueries];
  const MatrixView<float> dqueries = gradients_[Buffer::Queries];
  const MatrixView<float> dkeys = gradients_[Buffer::Keys];
  const MatrixView<float> dvalues = gradients_[Buffer::Values];
  const MatrixView<float> dkv = gradients_[Buffer::LatentKeyValue];
  const MatrixView<float> dheads = gradients_[Buffer::Heads];
  QF_TRY(multiply_backward(a.output, InputGroup::MixerOutput, constant(heads),
                           gradients_[Buffer::MixerOutput], dheads, false));
  const kernels::AttentionShape shape = latent_shape(a);
  if (a.kv_b) {
    scores_backward(batch, shape, constant(queries), constant(keys), constant(buffers_[Buffer::Values]),
                    constant(heads), constant(dheads), dqueries, dkeys, dvalues);
    scale_queries(batch, a.temperature_scale, 0, a.temperature_length, dqueries);
    rotate_backward(batch, a.rope, a.rope_index, a.heads, key_dim, dqueries, a.nope_dims);
    copy_columns(constant(dqueries), 0, a.heads * key_dim, draw_queries, 0);
    // The rotated part is shared: the sum over heads, in the first head's place, in order.
    const MatrixView<float> dexpanded = gradients_[Buffer::LatentExpanded];
    const std::size_t stride = std::size_t{a.nope_dims} + a.value_dim;
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        for (std::size_t h = 0; h < a.heads; ++h) {
          float* dkey = dkeys.row(t) + h * key_dim;
          std::memcpy(dexpanded.row(t) + h * stride, dkey, a.nope_dims * sizeof(float));
          std::memcpy(dexpanded.row(t) + h * stride + a.nope_dims, dvalues.row(t) + h * a.value_dim,
                      a.value_dim * sizeof(float));
          float* shared = dkeys.row(t) + a.nope_dims;
          if (h != 0) kernels_->add(shared, dkey + a.nope_dims, a.rope_dims, shared);
        }
      }
    });
    rotate_backward(batch, a.rope, a.rope_index, 1, key_dim, dkeys, a.nope_dims);
    copy_columns(constant(dkeys), a.nope_dims, a.rope_dims, dkv, a.latent);
    const MatrixView<float> dlatent = gradients_[Buffer::GateValues];
    QF_TRY(multiply_backward(a.kv_b, InputGroup::LatentKeys, constant(buffers_[Buffer::GateValues]),
                             dexpanded, dlatent, false));
    norm_backward(a.kv_a_norm, 1, constant(kv), constant(dlatent), dkv, false);
  } else {
    const std::size_t absorbed = std::size_t{a.latent} + a.rope_dims;
    const MatrixView<float> latent_heads = buffers_[Buffer::LatentHeads];
    const MatrixView<float> dlatent_heads = gradients_[Buffer::LatentHeads];
    std::vector<GradientTask> tasks;
    for (std::uint32_t h = 0; h < a.heads; ++h) {
      const std::size_t at = std::size_t{h} * a.latent;
      tasks.push_back({&a.v_b, h, 0, columns_of(constant(latent_heads), at, a.latent),
                       columns_of(dheads, std::size_t{h} * a.value_dim, a.value_dim),
                       columns_of(dlatent_heads, at, a.latent), InputGroup::LatentHeadValues, false});
    }
    QF_TRY(products_backward(tasks));
    scores_backward(batch, shape, constant(queries), constant(keys), columns_of(constant(keys), 0, a.latent),
                    constant(latent_heads), constant(dlatent_heads), dqueries, dkeys, dvalues);
    add_rows(columns_of(constant(dvalues), 0, a.latent), 1, columns_of(dkeys, 0, a.latent));
    scale_queries(batch, a.temperature_scale, 0, a.temperature_length, dqueries);
    rotate_backward(batch, a.rope, a.rope_index, a.heads, absorbed, dqueries, a.latent);
    const MatrixView<const float> raw_queries = constant(buffers_[Buffer::LatentQueries]);
    workers_->for_rows(rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        for (std::size_t h = 0; h < a.heads; ++h) {
          std::memcpy(draw_queries.row(t) + h * key_dim + a.nope_dims,
                      dqueries.row(t) + h * absorbed + a.latent, a.rope_dims * sizeof(float));
        }
      }
    });
    tasks.clear();
    for (std::uint32_t h = 0; h < a.heads; ++h) {
      tasks.push_back({&a.k_b, h, 0, columns_of(raw_queries, h * key_dim, a.nope_dims),
                       columns_of(dqueries, h * absorbed, a.latent),
                       columns_of(draw_queries, h * key_dim, a.nope_dims), InputGroup::LatentHeadQueries,
                       false});
    }
    QF_TRY(products_backward(tasks));
    rotate_backward(batch, a.rope, a.rope_index, 1, absorbed, dkeys, a.latent);
    copy_columns(constant(dkeys), a.latent, a.rope_dims, dkv, a.latent);
    norm_backward(a.kv_a_norm, 1, constant(kv), constant(dkeys), dkv, false);
  }
  if (cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  if (a.q_a) {
    const MatrixView<float> dlow = gradients_[Buffer::LatentQueryLowNormed];
    QF_TRY(multiply_backward(a.q_b, InputGroup::LatentQuery, constant(buffers_[Buffer::LatentQueryLowNormed]),
                             draw_queries, dlow, false));
    norm_backward(a.q_a_norm, 1, constant(buffers_[Buffer::LatentQueryLow]), constant(dlow), dlow, false);
    QF_TRY(multiply_backward(a.q_a, InputGroup::Mixer, input, dlow, dinput, true));
  } else {
    QF_TRY(multiply_backward(a.q, InputGroup::Mixer, input, draw_queries, dinput, true));
  }
  return multiply_backward(a.kv_a, InputGroup::Mixer, input, dkv, dinput, true);
}

}  // namespace quantfit::engine

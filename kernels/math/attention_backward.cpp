// Gradients of attention: the probabilities are computed again, tile by tile, from maximum and sum of each
// row.
//
// For the query heads of one key head, in rising order, tiles of 32 queries and of 64 keys; per tile
//   P = exp(u - max) / sum, dP = dO V^T, D = <dO, O>, dU = P (dP - D), through cap and scale,
//   dV += P^T dO, dK += dU^T Q, dQ += dU K.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/attention-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// Scratch of one call.
struct Workspace {
  float* packed_q;     // [key_dim][32], queries in lanes
  float* packed_dout;  // [value_dim][32]
  float* q;            // [key_dim / 32][32][32]: panels of 32 dimensions, queries as rows
  float* dout;         // [value_dim / 32][32][32]
  float* keys;         // a tile of keys
  float* values;       // a tile of values
  float* scores;       // u, then P
  float* gradients;    // dP, then dU
  float* product;      // [64][32]
  float* dq;           // [key_dim][32]
};

HWY_INLINE std::size_t panels(std::size_t dim) {
  return (dim + kPanelLanes - 1) / kPanelLanes;
}

HWY_INLINE Workspace make_workspace(const AttentionShape& shape, float* scratch) {
  Workspace w;
  w.packed_q = scratch;
  w.packed_dout = w.packed_q + padded_dim(shape.key_dim) * kPanelLanes;
  w.q = w.packed_dout + padded_dim(shape.value_dim) * kPanelLanes;
  w.dout = w.q + panels(shape.key_dim) * kPanelLanes * kPanelLanes;
  w.keys = w.dout + panels(shape.value_dim) * kPanelLanes * kPanelLanes;
  w.values = w.keys + kTileFloats;
  w.scores = w.values + kTileFloats;
  w.gradients = w.scores + kScoreFloats;
  w.product = w.gradients + kScoreFloats;
  w.dq = w.product + kScoreFloats;
  return w;
}

// Rows of `dim` values as panels of 32 columns, zeros beyond.
HWY_INLINE void pack_panels(const float* from, std::size_t stride, std::size_t rows, std::size_t dim,
                            float* to) {
  for (std::size_t d = 0; d < dim; d += kPanelLanes) {
    const std::size_t width = std::min(kPanelLanes, dim - d);
    for (std::size_t t = 0; t < rows; ++t) {
      float* row = to + d * kPanelLanes + t * kPanelLanes;
      std::memcpy(row, from + t * stride + d, width * sizeof(float));
      std::fill(row + width, row + kPanelLanes, 0.0F);
    }
  }
}

// The statistics of the tile's queries; absent lanes get a maximum of 0 and a sum of 1.
struct RowStatistics {
  HWY_ALIGN float maximum[attention_layout::kPanelLanes];
  HWY_ALIGN float sum[attention_layout::kPanelLanes];
  HWY_ALIGN float along[attention_layout::kPanelLanes];  // D
};

// From u and dP to P and dU.
HWY_INLINE void differentiate_scores(const AttentionShape& shape, const QueryTile& queries,
                                     const RowStatistics& rows, std::size_t key, std::size_t keys,
                                     float* scores, float* gradients) {
  const F inverse_cap = set(shape.softcap > 0.0F ? 1.0F / shape.softcap : 0.0F);
  for (std::size_t l = 0; l < queries.lanes; l += 16) {
    const F maximum = load(rows.maximum + l);
    const F inverse_sum = set(1.0F) / load(rows.sum + l);
    const F along = load(rows.along + l);
    const F position = load(queries.position + l);
    for (std::size_t j = 0; j < keys; ++j) {
      const std::size_t at = j * kPanelLanes + l;
      F u = load(scores + at);
      const F p = select(u == set(kMasked), zero(), exp(u - maximum) * inverse_sum);
      F du = p * (load(gradients + at) - along) * set(shape.scale);
      if (shape.softcap > 0.0F) {
        if (shape.alibi_slopes != nullptr)
          u = fma(set(queries.slope), abs(position - set(static_cast<float>(key + j))), u);
        const F t = u * inverse_cap;
        du = select(p == zero(), zero(), du * fnma(t, t, set(1.0F)));
      }
      store(p, scores + at);
      store(du, gradients + at);
    }
  }
}

// to[j][d] += sum over t of weights[j][t] * rows[t][d].
HWY_INLINE void add_key_gradients(const float* weights, std::size_t keys, std::size_t queries,
                                  const float* rows, std::size_t dim, float* product, float* to,
                                  std::size_t stride) {
  for (std::size_t d = 0; d < dim; d += kPanelLanes) {
    const std::size_t width = std::min(kPanelLanes, dim - d);
    panel_product<kPanelLanes, 1>(keys, width, queries, weights, rows + d * kPanelLanes, false, product);
    for (std::size_t j = 0; j < keys; ++j) {
      float* row = to + j * stride + d;
      for (std::size_t i = 0; i < width; i += 16)
        store_first(load_first(row + i, width - i) + load(product + j * kPanelLanes + i), row + i, width - i);
    }
  }
}

// The arguments of attention_backward.
struct Pass {
  const AttentionShape& shape;
  const AttentionInputs& in;
  std::size_t kv_head;
  TokenRows<const float> out;
  AttentionStatistics statistics;
  TokenRows<const float> dout;
  TokenRows<float> dq, dk, dv;
};

// Queries first .. first + count - 1 of one head. Returns sum over t of P_sink D.
HWY_INLINE double backward_tile(const Pass& pass, std::size_t head, std::size_t first, std::size_t count,
                                const Workspace& w) {
  const AttentionShape& shape = pass.shape;
  const std::size_t key_dim = shape.key_dim;
  const std::size_t value_dim = shape.value_dim;
  const QueryTile queries = make_query_tile(shape, head, first, count);
  const float* q = pass.in.q.row(first) + head * key_dim;
  const float* dout = pass.dout.row(first) + head * value_dim;
  pack_transposed(q, pass.in.q.stride, count, key_dim, w.packed_q);
  pack_transposed(dout, pass.dout.stride, count, value_dim, w.packed_dout);
  pack_panels(q, pass.in.q.stride, count, key_dim, w.q);
  pack_panels(dout, pass.dout.stride, count, value_dim, w.dout);
  std::fill(w.dq, w.dq + padded_dim(key_dim) * kPanelLanes, 0.0F);

  RowStatistics rows;
  double sink = 0.0;
  for (std::size_t l = 0; l < kPanelLanes; ++l) {
    const bool present = l < count;
    const std::size_t at = head * shape.tokens + first + l;
    rows.maximum[l] = present ? pass.statistics.row_max[at] : 0.0F;
    rows.sum[l] = present ? pass.statistics.row_sum[at] : 1.0F;
    rows.along[l] =
        present ? dot(dout + l * pass.dout.stride, pass.out.row(first + l) + head * value_dim, value_dim)
                : 0.0F;
    if (present && shape.sinks != nullptr)
      sink += static_cast<double>(exp_of(shape.sinks[head] - rows.maximum[l]) / rows.sum[l] * rows.along[l]);
  }

  for (std::size_t key = queries.first_key; key < queries.end_key; key += kKeyTile) {
    const std::size_t keys = std::min(kKeyTile, queries.end_key - key);
    tile_scores(shape, pass.in.k, pass.kv_head, w.packed_q, queries.lanes, key, keys, w.keys, w.scores);
    finish_scores(shape, queries, key, keys, w.scores);
    for (std::size_t d = 0; d < value_dim; d += kBlockDim) {
      const std::size_t width = std::min(kBlockDim, value_dim - d);
      copy_tile(pass.in.v.row(key) + pass.kv_head * value_dim + d, pass.in.v.stride, keys, width, w.values);
      panel_product<kPanelStride, 1>(keys, queries.lanes, width, w.values, w.packed_dout + d * kPanelLanes,
                                     d > 0, w.gradients);
    }
    differentiate_scores(shape, queries, rows, key, keys, w.scores, w.gradients);
    add_key_gradients(w.scores, keys, count, w.dout, value_dim, w.product,
                      pass.dv.row(key) + pass.kv_head * value_dim, pass.dv.stride);
    add_key_gradients(w.gradients, keys, count, w.q, key_dim, w.product,
                      pass.dk.row(key) + pass.kv_head * key_dim, pass.dk.stride);
    for (std::size_t d = 0; d < key_dim; d += kBlockDim) {
      const std::size_t width = std::min(kBlockDim, key_dim - d);
      if (key_dim > kBlockDim)  // else the tile still holds them
        copy_tile(pass.in.k.row(key) + pass.kv_head * key_dim + d, pass.in.k.stride, keys, width, w.keys);
      panel_product<1, kPanelStride>(width, queries.lanes, keys, w.keys, w.gradients, true,
                                     w.dq + d * kPanelLanes);
    }
  }
  unpack_transposed(w.dq, count, key_dim, false, pass.dq.row(first) + head * key_dim, pass.dq.stride);
  return sink;
}

void attention_backward(const AttentionShape& shape, const AttentionInputs& in, std::size_t kv_head,
                        TokenRows<const float> out, AttentionStatistics statistics,
                        TokenRows<const float> dout, TokenRows<float> dq, TokenRows<float> dk,
                        TokenRows<float> dv, float* dsinks, float* scratch) {
  const Pass pass{shape, in, kv_head, out, statistics, dout, dq, dk, dv};
  const Workspace workspace = make_workspace(shape, scratch);
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    float* dk_row = dk.row(t) + kv_head * shape.key_dim;
    float* dv_row = dv.row(t) + kv_head * shape.value_dim;
    std::fill(dk_row, dk_row + shape.key_dim, 0.0F);
    std::fill(dv_row, dv_row + shape.value_dim, 0.0F);
  }
  const std::size_t group = shape.heads / shape.kv_heads;
  for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    double sink = 0.0;
    for (std::size_t first = 0; first < shape.tokens; first += kPanelLanes)
      sink += backward_tile(pass, head, first, std::min(kPanelLanes, shape.tokens - first), workspace);
    if (shape.sinks != nullptr && dsinks != nullptr) dsinks[head] -= static_cast<float>(sink);
  }
}

}  // namespace

void fill_attention_backward(MathKernels& table) {
  table.attention_backward = attention_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

// Attention of one head: scores, masks and softmax over tiles of keys, so that memory does not grow with the
// number of tokens.
//
// Lanes are queries: 32 of them lie transposed in scratch, keys and values are broadcast, and maximum and sum
// of the softmax need no step across lanes. Tiles of keys begin at multiples of 64 counted from the first
// token; a tile that a query does not see changes none of its numbers, so how queries are grouped changes
// nothing.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/attention-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// Softmax of one tile of scores, joined to what came before: scores become exp(u - maximum), `sums` of values
// taken so far are scaled to the new maximum.
HWY_INLINE void join_tile(const QueryTile& queries, std::size_t keys, float* scores, float* maximum,
                          float* sum, std::size_t value_rows, float* values) {
  for (std::size_t l = 0; l < queries.lanes; l += 16) {
    F best = load(maximum + l);
    const F before = best;
    for (std::size_t j = 0; j < keys; ++j) best = max(best, load(scores + j * kPanelLanes + l));
    F total = zero();
    for (std::size_t j = 0; j < keys; ++j) {
      float* at = scores + j * kPanelLanes + l;
      const F u = load(at);
      const F p = select(u == set(kMasked), zero(), exp(u - best));
      total = total + p;
      store(p, at);
    }
    const F factor = exp(before - best);
    store(best, maximum + l);
    store(fma(load(sum + l), factor, total), sum + l);
    if (all(factor == set(1.0F))) continue;
    for (std::size_t d = 0; d < value_rows; ++d) {
      float* at = values + d * kPanelLanes + l;
      store(load(at) * factor, at);
    }
  }
}

HWY_INLINE void attend(const AttentionShape& shape, const AttentionInputs& in, std::size_t head,
                       std::size_t first_query, std::size_t count, TokenRows<float> out,
                       AttentionStatistics statistics, float* scratch) {
  float* packed = scratch;
  float* tile = packed + padded_dim(shape.key_dim) * kPanelLanes;
  float* scores = tile + kTileFloats;
  float* values = scores + kScoreFloats;
  const std::size_t kv_head = head / (shape.heads / shape.kv_heads);

  const QueryTile queries = make_query_tile(shape, head, first_query, count);
  pack_transposed(in.q.row(first_query) + head * shape.key_dim, in.q.stride, count, shape.key_dim, packed);
  HWY_ALIGN float maximum[kPanelLanes];
  HWY_ALIGN float sum[kPanelLanes];
  const bool sink = shape.sinks != nullptr;
  for (std::size_t l = 0; l < kPanelLanes; ++l) {
    maximum[l] = sink ? shape.sinks[head] : kMasked;
    sum[l] = sink ? 1.0F : 0.0F;
  }
  std::fill(values, values + padded_dim(shape.value_dim) * kPanelLanes, 0.0F);

  for (std::size_t key = queries.first_key; key < queries.end_key; key += kKeyTile) {
    const std::size_t keys = std::min(kKeyTile, queries.end_key - key);
    tile_scores(shape, in.k, kv_head, packed, queries.lanes, key, keys, tile, scores);
    finish_scores(shape, queries, key, keys, scores);
    join_tile(queries, keys, scores, maximum, sum, shape.value_dim, values);
    for (std::size_t d = 0; d < shape.value_dim; d += kBlockDim) {
      const std::size_t width = std::min(kBlockDim, shape.value_dim - d);
      copy_tile(in.v.row(key) + kv_head * shape.value_dim + d, in.v.stride, keys, width, tile);
      panel_product<1, kPanelStride>(width, queries.lanes, keys, tile, scores, true,
                                     values + d * kPanelLanes);
    }
  }

  for (std::size_t l = 0; l < queries.lanes; l += 16) {
    const F inverse = set(1.0F) / load(sum + l);
    for (std::size_t d = 0; d < shape.value_dim; ++d) {
      float* at = values + d * kPanelLanes + l;
      store(load(at) * inverse, at);
    }
  }
  unpack_transposed(values, count, shape.value_dim, false, out.row(first_query) + head * shape.value_dim,
                    out.stride);
  if (statistics.row_max != nullptr)
    std::memcpy(statistics.row_max + head * shape.tokens + first_query, maximum, count * sizeof(float));
  if (statistics.row_sum != nullptr)
    std::memcpy(statistics.row_sum + head * shape.tokens + first_query, sum, count * sizeof(float));
}

void attention(const AttentionShape& shape, const AttentionInputs& in, std::size_t head,
               std::size_t first_query, std::size_t queries, TokenRows<float> out,
               AttentionStatistics statistics, float* scratch) {
  for (std::size_t done = 0; done < queries; done += kPanelLanes)
    attend(shape, in, head, first_query + done, std::min(kPanelLanes, queries - done), out, statistics,
           scratch);
}

}  // namespace

void fill_attention(MathKernels& table) {
  table.attention = attention;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

// What attention's forward and backward passes share: which keys a tile of queries sees, and its scores.
// Included once per target, after kernels/lanes-inl.h.

#if defined(QUANTFIT_MATH_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_MATH_ATTENTION_INL_H_
#undef QUANTFIT_MATH_ATTENTION_INL_H_
#else
#define QUANTFIT_MATH_ATTENTION_INL_H_
#endif

#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/attention_layout.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/math_kernels.h"
#include "kernels/math/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

using attention_layout::kBlockDim;
using attention_layout::kKeyTile;
using attention_layout::kScoreFloats;
using attention_layout::kTileFloats;
using attention_layout::padded_dim;
static_assert(attention_layout::kTileStride == kPanelStride && attention_layout::kPanelLanes == kPanelLanes);

// The score of a key that is not seen. Finite, so that differences are numbers.
inline constexpr float kMasked = -3.0e38F;

// Up to 32 queries in lanes: query `first_query + l` sees the keys low[l] <= j < high[l] (absent lanes:
// none); together they need first_key <= j < end_key.
struct QueryTile {
  std::size_t lanes = 0;  // 16 or 32
  std::size_t first_key = 0, end_key = 0;
  float slope = 0.0F;  // ALiBi
  HWY_ALIGN float position[attention_layout::kPanelLanes];
  HWY_ALIGN float low[attention_layout::kPanelLanes];
  HWY_ALIGN float high[attention_layout::kPanelLanes];
  std::size_t seen_by_all_from = 0, seen_by_all_to = 0;  // keys that no lane masks
};

HWY_INLINE void visible_keys(const AttentionShape& shape, std::size_t t, std::size_t& low,
                             std::size_t& high) {
  low = 0;
  high = t + 1;
  switch (shape.mask) {
    case MaskKind::Causal:
      break;
    case MaskKind::SlidingWindow:
      low = t + 1 > shape.window ? t + 1 - shape.window : 0;
      break;
    case MaskKind::Chunked:
      low = t / shape.window * shape.window;
      break;
    case MaskKind::Symmetric: {
      const std::size_t reach = shape.window / 2;
      low = t > reach ? t - reach : 0;
      high = reach < shape.tokens - t ? t + reach + 1 : shape.tokens;
      break;
    }
    case MaskKind::None:
      high = shape.tokens;
      break;
  }
}

HWY_INLINE QueryTile make_query_tile(const AttentionShape& shape, std::size_t head, std::size_t first_query,
                                     std::size_t count) {
  QueryTile tile;
  tile.lanes = count > 16 ? 32 : 16;
  tile.slope = shape.alibi_slopes == nullptr ? 0.0F : shape.alibi_slopes[head];
  std::size_t first = shape.tokens;
  std::size_t end = 0;
  tile.seen_by_all_to = shape.tokens;
  for (std::size_t l = 0; l < attention_layout::kPanelLanes; ++l) {
    std::size_t low = 0;
    std::size_t high = 0;
    if (l < count) {
      visible_keys(shape, first_query + l, low, high);
      first = std::min(first, low);
      end = std::max(end, high);
      tile.seen_by_all_from = std::max(tile.seen_by_all_from, low);
      tile.seen_by_all_to = std::min(tile.seen_by_all_to, high);
    }
    // Exact: positions are far below 2^24.
    tile.position[l] = static_cast<float>(first_query + l);
    tile.low[l] = static_cast<float>(low);
    tile.high[l] = static_cast<float>(high);
  }
  tile.first_key = first / kKeyTile * kKeyTile;
  tile.end_key = end;
  return tile;
}

// `rows` rows of `width` values to rows of a tile.
HWY_INLINE void copy_tile(const float* from, std::size_t stride, std::size_t rows, std::size_t width,
                          float* to) {
  for (std::size_t j = 0; j < rows; ++j)
    std::memcpy(to + j * kPanelStride, from + j * stride, width * sizeof(float));
}

// scores[j][l] = sum over d of k[key + j][d] * packed[d][l].
HWY_INLINE void tile_scores(const AttentionShape& shape, TokenRows<const float> k, std::size_t kv_head,
                            const float* packed, std::size_t lanes, std::size_t key, std::size_t keys,
                            float* tile, float* scores) {
  for (std::size_t d = 0; d < shape.key_dim; d += kBlockDim) {
    const std::size_t width = std::min(kBlockDim, shape.key_dim - d);
    copy_tile(k.row(key) + kv_head * shape.key_dim + d, k.stride, keys, width, tile);
    panel_product<kPanelStride, 1>(keys, lanes, width, tile, packed + d * kPanelLanes, d > 0, scores);
  }
}

// Scale, cap, ALiBi and mask.
HWY_INLINE void finish_scores(const AttentionShape& shape, const QueryTile& queries, std::size_t key,
                              std::size_t keys, float* scores) {
  const F scale = set(shape.scale);
  const F cap = set(shape.softcap);
  const F inverse_cap = set(shape.softcap > 0.0F ? 1.0F / shape.softcap : 0.0F);
  const F slope = set(queries.slope);
  const bool masked = key < queries.seen_by_all_from || key + keys > queries.seen_by_all_to;
  for (std::size_t l = 0; l < queries.lanes; l += 16) {
    const F position = load(queries.position + l);
    const F low = load(queries.low + l);
    const F high = load(queries.high + l);
    for (std::size_t j = 0; j < keys; ++j) {
      float* at = scores + j * kPanelLanes + l;
      const F key_position = set(static_cast<float>(key + j));
      F u = load(at) * scale;
      if (shape.softcap > 0.0F) u = cap * tanh(u * inverse_cap);
      if (shape.alibi_slopes != nullptr) u = fnma(slope, abs(position - key_position), u);
      if (masked) u = select((low <= key_position) & (key_position < high), u, set(kMasked));
      store(u, at);
    }
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_MATH_ATTENTION_INL_H_

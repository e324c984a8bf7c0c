// Tiles: 256 columns of a row as a transposed matrix of 16 x 16, so that lane l of register k holds
// column 16 l + k of the tile. Every lane is a group of sixteen weights and whatever is done per
// group (scales, sums, least squares) is done for all groups at once, without sums across lanes;
// groups of 32 are pairs of lanes.
//
// A codec (see encode_tiles) fits scales and codes of one tile; this file carries the row sums from tile to
// tile, shifts the targets, and at the end changes single codes where that lowers the whole objective.
// Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_TILE_INL_H_
#undef QUANTFIT_TILE_INL_H_
#else
#define QUANTFIT_TILE_INL_H_
#endif

#include <algorithm>

#include "kernels/error_metric.h"
#include "kernels/lanes-inl.h"
#include "kernels/row_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

inline constexpr std::size_t kTileColumns = ColumnMetric::kTileColumns;

// One tile of a prepared row; zeros beyond the end of the row.
struct Tile {
  const float* x;  // the weights
  const float* v;  // variances
  const float* p;
  const float* q;
  const float* shift;             // 1 / (v + p^2 / 4)
  const float* target;            // what the codec rounds: x, or one of the buffers
  HWY_ALIGN float shifted[256];   // x, shifted
  HWY_ALIGN float mirrored[256];  // minus the target
  HWY_ALIGN float code[256];      // integers: the codes that were chosen
  HWY_ALIGN float decoded[256];   // what they stand for
};

// (sum p e, sum q e) of a tile.
struct TileSums {
  float p = 0;
  float q = 0;
};
inline HWY_NOINLINE TileSums sums_of(const Tile& tile) {
  F p = zero();
  F q = zero();
  for (int k = 0; k < 16; ++k) {
    const F e = load(tile.decoded + 16 * k) - load(tile.x + 16 * k);
    p = fma(load(tile.p + 16 * k), e, p);
    q = fma(load(tile.q + 16 * k), e, q);
  }
  TileSums sums;
  sums.p = sum(p);
  sums.q = sum(q);
  return sums;
}

// Writes the shifted targets; `limit` per lane.
inline HWY_NOINLINE void shift_targets(Tile& tile, TargetShift shift, F limit) {
  for (int k = 0; k < 16; ++k) {
    store(shifted_targets(load(tile.x + 16 * k), load(tile.shift + 16 * k), load(tile.p + 16 * k),
                          load(tile.q + 16 * k), shift, limit),
          tile.shifted + 16 * k);
  }
  tile.target = tile.shifted;
}

// Codes whose levels are step * code + offset, low <= code <= high.
struct UniformLevels {
  F step;
  F offset;
  float low;
  float high;
  HWY_INLINE F value(F code) const { return fma(code, step, offset); }
  // The next code above (direction 1) or below (-1) in value.
  HWY_INLINE F neighbour(F code, F direction) const {
    return clamp(code + select(step < zero(), -direction, direction), set(low), set(high));
  }
  HWY_INLINE F typical_step() const { return abs(step); }
};

// Moves single codes to a neighbouring level where that lowers sum v e^2 + price(sums), greedily: in each
// pass the best move of every lane is found for the present sums, then the moves are made one after another,
// best first, as long as they still help. Returns the sums of the tile afterwards. (carry_p, carry_q) are the
// sums before it.
template <class Levels>
TileSums flip_codes(Tile& tile, const Levels& levels, const SumPrice& price, float carry_p, float carry_q,
                    TileSums sums, int passes) {
  for (int pass = 0; pass < passes; ++pass) {
    const float all_p = carry_p + sums.p;
    const float all_q = carry_q + sums.q;
    const F u = set(std::fma(price.pp, all_p, price.pq * all_q));
    const F w = set(std::fma(price.pq, all_p, price.qq * all_q));
    F best = zero();
    F best_move = zero();
    F best_own = zero();
    F best_p = zero();
    F best_q = zero();
    I best_k = set(std::int32_t{0});
    for (int k = 0; k < 16; ++k) {
      const F v = load(tile.v + 16 * k);
      const F p = load(tile.p + 16 * k);
      const F q = load(tile.q + 16 * k);
      const F code = load(tile.code + 16 * k);
      const F decoded = load(tile.decoded + 16 * k);
      const F e = decoded - load(tile.x + 16 * k);
      const F pull = fma(p, u, q * w);  // half the derivative of the price by this column's error
      const F direction = select(fma(v, e, pull) < zero(), set(1.0F), set(-1.0F));
      const F move = levels.value(levels.neighbour(code, direction)) - decoded;
      // D(e + move) - D(e) = move (2 (v e + pull) + move (v + price(p, q)))
      const F own = v * move * fma(set(2.0F), e, move);
      const F change = fma(move, fma(move, price.of(p, q), pull + pull), own);
      const M better = change < best;
      best = select(better, change, best);
      best_move = select(better, move, best_move);
      best_own = select(better, own, best_own);
      best_p = select(better, p, best_p);
      best_q = select(better, q, best_q);
      best_k = select(better, set(k), best_k);
    }
    if (!any(best < zero())) return sums;
    HWY_ALIGN float moves[16];
    HWY_ALIGN float ps[16];
    HWY_ALIGN float qs[16];
    HWY_ALIGN std::int32_t ks[16];
    store(best_move, moves);
    store(best_p, ps);
    store(best_q, qs);
    store(best_k, ks);
    const F move_price = price.of(best_p, best_q) * best_move * best_move;
    F open = select(best < zero(), set(1.0F), zero());
    for (int step = 0; step < 16; ++step) {
      const float now_p = carry_p + sums.p;
      const float now_q = carry_q + sums.q;
      const F now_u = set(std::fma(price.pp, now_p, price.pq * now_q));
      const F now_w = set(std::fma(price.pq, now_p, price.qq * now_q));
      const F pull = fma(best_p, now_u, best_q * now_w);
      const F change = (fma(best_move, pull + pull, move_price) + best_own) * open;
      const float least = min_lane(change);
      if (!(least < 0.0F)) break;
      const std::uint32_t lanes = bits(change == set(least));
      const int lane = __builtin_ctz(lanes);
      open = select(mask_of_bits(1U << lane), zero(), open);
      sums.p = std::fma(ps[lane], moves[lane], sums.p);
      sums.q = std::fma(qs[lane], moves[lane], sums.q);
      const int at = 16 * ks[lane];
      const F code = load(tile.code + at);
      const F next = levels.neighbour(code, set(moves[lane] > 0.0F ? 1.0F : -1.0F));
      const F chosen = select(mask_of_bits(1U << lane), next, code);
      store(chosen, tile.code + at);
      store(select(mask_of_bits(1U << lane), levels.value(chosen), load(tile.decoded + at)),
            tile.decoded + at);
    }
  }
  return sums;
}

template <class Levels>
void decode_tile(Tile& tile, const Levels& levels) {
  for (int k = 0; k < 16; ++k) store(levels.value(load(tile.code + 16 * k)), tile.decoded + 16 * k);
}

// Passes of flip_codes for a tile.
HWY_INLINE int flip_passes(Effort effort, bool last) {
  if (effort == Effort::Fast) return last ? 2 : 0;
  if (effort == Effort::Default) return last ? 4 : 0;
  return last ? 12 : 2;
}

// Encodes a row with a codec, which provides
//   void fit(const Tile&, Effort)                                 scales from scratch for tile.target
//   void refit(const Tile&, Effort)                               scales again, targets have moved a little
//   Levels round(Tile&)                                           codes of tile.target for the scales
//   void store_blocks(const Tile&, std::byte* out, std::size_t columns)  writes the blocks of the tile
//   static std::size_t bytes(std::size_t columns)                 of that many columns
// Codec objects live for one row.
template <class Codec>
void encode_tiles(const PreparedRow& row, Effort effort, std::byte* out) {
  RowSums sums(row);
  Codec codec;
  Tile tile;
  for (std::size_t first = 0; first < row.columns; first += kTileColumns) {
    const std::size_t columns = std::min(row.columns - first, kTileColumns);
    tile.x = tile.target = row.x_tiles + first;
    tile.v = row.v_tiles + first;
    tile.p = row.p_tiles + first;
    tile.q = row.q_tiles + first;
    tile.shift = row.shift_tiles + first;
    codec.fit(tile, effort);
    auto levels = codec.round(tile);
    if (sums.active()) {
      decode_tile(tile, levels);
      TileSums own = sums_of(tile);
      const TargetShift shift = sums.shift_from(first / 16, own.p, own.q);
      shift_targets(tile, shift, levels.typical_step());
      codec.refit(tile, effort);
      levels = codec.round(tile);
      decode_tile(tile, levels);
      own = sums_of(tile);
      const bool last = first + columns == row.columns;
      own = flip_codes(tile, levels, sums.price_from((first + columns) / 16), sums.p(), sums.q(), own,
                       flip_passes(effort, last));
      sums.add(own.p, own.q);
    }
    codec.store_blocks(tile, out, columns);
    out += Codec::bytes(columns);
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_TILE_INL_H_

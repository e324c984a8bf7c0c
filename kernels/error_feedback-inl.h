// Rounding with error feedback through a full covariance (covariance.h), for codecs with a code per weight:
// uniform levels or a table of them. (Codebooks: codebook_feedback-inl.h.)
//
// A tile's problem, given the tiles before it and with the tiles after it free, is min z^T S z over z = w -
// x', with x' the targets that the earlier errors ask for and S = CovarianceFactor::tile_cost. Scales are
// fitted with the innovations D as weights to the targets that the feedback leads to; the codes are rounded
// one column after another; then single codes are changed as long as that lowers z^T S z. A few rounds of
// this, the best is kept. Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_ERROR_FEEDBACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_ERROR_FEEDBACK_INL_H_
#undef QUANTFIT_ERROR_FEEDBACK_INL_H_
#else
#define QUANTFIT_ERROR_FEEDBACK_INL_H_
#endif

#include <algorithm>

#include "kernels/covariance.h"
#include "kernels/lanes-inl.h"
#include "kernels/table_levels-inl.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// Arrays in the order of the row, one tile.
struct FeedbackTile {
  HWY_ALIGN float target[256];  // x'
  HWY_ALIGN float wanted[256];  // x' less the feedback: what each code was rounded from
  HWY_ALIGN float code[256];
  HWY_ALIGN float error[256];     // z
  HWY_ALIGN float gradient[256];  // S z
  float step[16];                 // of each group of sixteen columns
  float offset[16];
};

// Rounding of single values to the levels of their group, whose step and offset are given.
struct UniformRounding {
  float low;
  float high;
  HWY_INLINE explicit UniformRounding(const UniformLevels& levels) : low(levels.low), high(levels.high) {}
  HWY_INLINE float code(float wanted, float step, float offset) const {
    const float scaled = step != 0.0F ? (wanted - offset) / step : 0.0F;
    return std::nearbyint(std::fmin(std::fmax(scaled, low), high));
  }
  HWY_INLINE float value(float code, float step, float offset) const { return std::fma(code, step, offset); }
};
struct TableRounding {
  HWY_ALIGN float values[17];
  F middles;  // between entries j and j + 1
  float last;
  HWY_INLINE explicit TableRounding(const TableLevels& levels) : last(levels.last) {
    store(levels.values, values);
    values[16] = values[15];
    middles = (load(values) + load(values + 1)) * set(0.5F);
  }
  HWY_INLINE float code(float wanted, float step, float) const {
    const float scaled = step != 0.0F ? wanted / step : 0.0F;
    const int above = __builtin_popcount(bits(middles < set(scaled)));
    return std::fmin(static_cast<float>(above), last);
  }
  HWY_INLINE float value(float code, float step, float) const {
    return values[static_cast<std::size_t>(code)] * step;
  }
};
HWY_INLINE UniformRounding rounding_of(const UniformLevels& levels) {
  return UniformRounding(levels);
}
HWY_INLINE TableRounding rounding_of(const TableLevels& levels) {
  return TableRounding(levels);
}

// Steps and offsets of the groups.
HWY_INLINE void store_steps(const UniformLevels& levels, FeedbackTile& tile) {
  store(levels.step, tile.step);
  store(levels.offset, tile.offset);
}
HWY_INLINE void store_steps(const TableLevels& levels, FeedbackTile& tile) {
  store(levels.step, tile.step);
  store(zero(), tile.offset);
}

// What a group's codes become, and how far its values move, when they go to the next level up (`raise`) or
// down; 0 at the ends.
HWY_INLINE F moves_of(const UniformLevels& levels, float step, F code, M raise, F& next) {
  const float size = std::fabs(step);
  const float up = step < 0.0F ? -1.0F : 1.0F;
  next = code + select(raise, set(up), set(-up));
  const M possible = (set(levels.low) <= next) & (next <= set(levels.high));
  return select(possible, select(raise, set(size), set(-size)), zero());
}
HWY_INLINE F moves_of(const TableLevels& levels, float step, F code, M raise, F& next) {
  TableLevels group = levels;
  group.step = set(step);
  next = group.neighbour(code, select(raise, set(1.0F), set(-1.0F)));
  return group.value(next) - group.value(code);
}

// Codes one after another, each against what the earlier errors of the tile leave.
// `columns` of the tile are real.
template <class Levels>
HWY_NOINLINE void round_in_order(const CovarianceFactor& factor, std::size_t first, std::size_t columns,
                                 const Levels& levels, FeedbackTile& tile) {
  store_steps(levels, tile);
  const auto rounding = rounding_of(levels);
  HWY_ALIGN float fed[256] = {};
  for (std::size_t j = 0; j < columns; ++j) {
    const float step = tile.step[j / 16];
    const float offset = tile.offset[j / 16];
    const float wanted = tile.target[j] - fed[j];
    const float code = rounding.code(wanted, step, offset);
    const float z = rounding.value(code, step, offset) - tile.target[j];
    tile.wanted[j] = wanted;
    tile.code[j] = code;
    tile.error[j] = z;
    const float* line = factor.feedback(first + j, first);
    const F zs = set(z);
    for (std::size_t k = j / 16 * 16; k < columns; k += 16)
      store(fma(zs, load(line + k), load(fed + k)), fed + k);
  }
  for (std::size_t j = columns; j < 256; ++j) tile.wanted[j] = tile.code[j] = tile.error[j] = 0.0F;
}

// `gradient` = S `error`; returns error^T S error.
inline HWY_NOINLINE float cost_gradient(const CovarianceFactor& factor, std::size_t first,
                                        std::size_t columns, const float* error, float* gradient) {
  F rows[16];
  for (int k = 0; k < 16; ++k) rows[k] = zero();
  for (std::size_t j = 0; j < columns; ++j) {
    const float* line = factor.tile_cost(first + j);
    const F z = set(error[j]);
    for (int k = 0; k < 16; ++k) rows[k] = fma(z, load(line + 16 * k), rows[k]);
  }
  F cost = zero();
  for (int k = 0; k < 16; ++k) {
    store(rows[k], gradient + 16 * k);
    cost = fma(rows[k], load(error + 16 * k), cost);
  }
  return sum(cost);
}

// Changes single codes by one as long as that lowers z^T S z, group after group; returns the change.
template <class Levels>
HWY_NOINLINE float descend(const CovarianceFactor& factor, std::size_t first, std::size_t columns,
                           const Levels& levels, FeedbackTile& tile, int sweeps) {
  HWY_ALIGN float diagonal[256];
  for (std::size_t j = 0; j < 256; ++j) diagonal[j] = j < columns ? factor.tile_cost(first + j)[j] : 1.0F;
  const auto rounding = rounding_of(levels);
  float gained = 0;
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    bool changed = false;
    for (std::size_t g = 0; g < columns / 16; ++g) {
      const float step = tile.step[g];
      if (step == 0.0F) continue;
      for (int tries = 0; tries < 8; ++tries) {
        const F gradient = load(tile.gradient + 16 * g);
        F next;
        const F moves = moves_of(levels, step, load(tile.code + 16 * g), gradient < zero(), next);
        const F change = moves * fma(moves, load(diagonal + 16 * g), set(2.0F) * gradient);
        const float best = min_lane(change);
        if (!(best < 0.0F)) break;
        const auto lane = static_cast<std::size_t>(__builtin_ctz(bits(change == set(best))));
        const std::size_t j = 16 * g + lane;
        HWY_ALIGN float next_codes[16];
        HWY_ALIGN float move_lanes[16];
        store(next, next_codes);
        store(moves, move_lanes);
        const F move = set(move_lanes[lane]);
        tile.code[j] = next_codes[lane];
        tile.error[j] = rounding.value(tile.code[j], step, tile.offset[g]) - tile.target[j];
        const float* line = factor.tile_cost(first + j);
        for (int k = 0; k < 16; ++k)
          store(fma(move, load(line + 16 * k), load(tile.gradient + 16 * k)), tile.gradient + 16 * k);
        gained += best;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return gained;
}

// Natural order to the lanes of a tile.
HWY_INLINE void to_tile(const float* natural, float* tile) {
  F columns[16];
  load_transposed(natural, columns);
  for (int k = 0; k < 16; ++k) store(columns[k], tile + 16 * k);
}

// No format reaches further.
HWY_INLINE float bounded(float x) {
  return std::fmin(std::fmax(x, -0x1p30F), 0x1p30F);
}

// The weight that is coded: no format reaches further than `bounded`. `enlargement`: see
// codebook_feedback-inl.h.
HWY_INLINE float enlarged(const PreparedRow& row, std::size_t column, float enlargement) {
  return bounded(row.x[column] * enlargement);
}

// The targets of the tile from column `first` on: what the errors of the earlier tiles ask of its columns.
// U^T z = fed, solved from the first column on, is the shift that makes the tile's problem one of its own.
inline HWY_NOINLINE void shifted_tile_targets(const PreparedRow& row, std::size_t first, std::size_t columns,
                                              float enlargement, float* target) {
  const CovarianceFactor& factor = *row.covariance;
  HWY_ALIGN float fed[256];
  for (std::size_t j = 0; j < 256; ++j) fed[j] = first + j < row.columns ? row.feedback[first + j] : 0.0F;
  for (std::size_t j = columns; j < 256; ++j) target[j] = 0.0F;
  for (std::size_t j = 0; j < columns; ++j) {
    const float shift = fed[j];
    target[j] = bounded(enlarged(row, first + j, enlargement) - shift);
    const float* line = factor.feedback(first + j, first);
    for (std::size_t k = j / 16 * 16; k < columns; k += 16)
      store(fma(set(-shift), load(line + k), load(fed + k)), fed + k);
  }
}

// Feedback of a tile's final errors z (against the targets above) to the columns after it.
inline HWY_NOINLINE void feed_back(const PreparedRow& row, std::size_t first, std::size_t columns,
                                   float enlargement, const float* target, const float* error) {
  const CovarianceFactor& factor = *row.covariance;
  const std::size_t next = first + kTileColumns;
  const std::size_t end = factor.reach(first);
  if (next >= end) return;
  for (std::size_t j = 0; j < columns; ++j) {
    const F e =
        set(error[j] + target[j] - enlarged(row, first + j, enlargement));  // against the unshifted weight
    const float* line = factor.feedback(first + j, next);
    for (std::size_t k = next; k < end; k += 16)
      store(fma(e, load(line + (k - next)), load(row.feedback + k)), row.feedback + k);
  }
}

template <class Codec>
void encode_with_feedback(const PreparedRow& row, Effort effort, std::byte* out) {
  const CovarianceFactor& factor = *row.covariance;
  Codec codec;
  Tile tile;
  FeedbackTile work;
  HWY_ALIGN float best_code[256];
  HWY_ALIGN float best_error[256];
  HWY_ALIGN float zeros[256] = {};
  std::fill_n(row.feedback, row.columns, 0.0F);
  for (std::size_t first = 0; first < row.columns; first += kTileColumns) {
    const std::size_t columns = std::min(row.columns - first, kTileColumns);
    shifted_tile_targets(row, first, columns, 1.0F, work.target);
    tile.v = factor.innovation_tiles() + first;
    tile.p = tile.q = tile.shift = zeros;
    to_tile(work.target, tile.shifted);
    tile.x = tile.target = tile.shifted;

    float best = 0;
    Codec best_codec;
    const int rounds = effort == Effort::Fast ? 1 : effort == Effort::Default ? 3 : 6;
    const int sweeps = effort == Effort::Fast ? 1 : effort == Effort::Default ? 3 : 8;
    for (int round = 0; round < rounds; ++round) {
      if (round == 0) {
        codec.fit(tile, effort);
      } else {
        codec.refit(tile, effort);
      }
      const auto levels = codec.round(tile);
      round_in_order(factor, first, columns, levels, work);
      float cost = cost_gradient(factor, first, columns, work.error, work.gradient);
      cost += descend(factor, first, columns, levels, work, sweeps);
      if (round == 0 || cost < best) {
        best = cost;
        best_codec = codec;
        std::memcpy(best_code, work.code, sizeof(best_code));
        std::memcpy(best_error, work.error, sizeof(best_error));
      }
      // Next round: scales for the targets that the feedback led to.
      if (round + 1 < rounds) to_tile(work.wanted, tile.shifted);
    }
    codec = best_codec;
    to_tile(best_code, tile.code);
    codec.store_blocks(tile, out, columns);
    out += Codec::bytes(columns);
    feed_back(row, first, columns, 1.0F, work.target, best_error);
  }
}

// With error feedback when the metric has a covariance.
template <class Codec>
void encode_tiles_or_feedback(const PreparedRow& row, Effort effort, std::byte* out) {
  if (row.covariance != nullptr) {
    encode_with_feedback<Codec>(row, effort, out);
  } else {
    encode_tiles<Codec>(row, effort, out);
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_ERROR_FEEDBACK_INL_H_

// Rounding with error feedback through a full covariance (covariance.h), for codecs with uniform levels.
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

// Codes one after another, each against what the earlier errors of the tile leave.
// `columns` of the tile are real.
inline HWY_NOINLINE void round_in_order(const CovarianceFactor& factor, std::size_t first,
                                        std::size_t columns, const UniformLevels& levels,
                                        FeedbackTile& tile) {
  store(levels.step, tile.step);
  store(levels.offset, tile.offset);
  HWY_ALIGN float fed[256] = {};
  for (std::size_t j = 0; j < columns; ++j) {
    const float step = tile.step[j / 16];
    const float offset = tile.offset[j / 16];
    const float wanted = tile.target[j] - fed[j];
    const float scaled = step != 0.0F ? (wanted - offset) / step : 0.0F;
    const float code = std::nearbyint(std::fmin(std::fmax(scaled, levels.low), levels.high));
    const float z = std::fma(code, step, offset) - tile.target[j];
    tile.wanted[j] = wanted;
    tile.code[j] = code;
    tile.error[j] = z;
    const float* line = factor.feedback(first + j) + first;
    const F zs = set(z);
    for (std::size_t k = j / 16 * 16; k < columns; k += 16)
      store(fma(zs, load(line + k), load(fed + k)), fed + k);
  }
  for (std::size_t j = columns; j < 256; ++j) tile.wanted[j] = tile.code[j] = tile.error[j] = 0.0F;
}

// S z into tile.gradient; returns z^T S z.
inline HWY_NOINLINE float cost_gradient(const CovarianceFactor& factor, std::size_t first,
                                        std::size_t columns, FeedbackTile& tile) {
  F gradient[16];
  for (int k = 0; k < 16; ++k) gradient[k] = zero();
  for (std::size_t j = 0; j < columns; ++j) {
    const float* line = factor.tile_cost(first + j);
    const F z = set(tile.error[j]);
    for (int k = 0; k < 16; ++k) gradient[k] = fma(z, load(line + 16 * k), gradient[k]);
  }
  F cost = zero();
  for (int k = 0; k < 16; ++k) {
    store(gradient[k], tile.gradient + 16 * k);
    cost = fma(gradient[k], load(tile.error + 16 * k), cost);
  }
  return sum(cost);
}

// Changes single codes by one as long as that lowers z^T S z, group after group; returns the change.
inline HWY_NOINLINE float descend(const CovarianceFactor& factor, std::size_t first, std::size_t columns,
                                  const UniformLevels& levels, FeedbackTile& tile, int sweeps) {
  HWY_ALIGN float diagonal[256];
  for (std::size_t j = 0; j < 256; ++j) diagonal[j] = j < columns ? factor.tile_cost(first + j)[j] : 1.0F;
  float gained = 0;
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    bool changed = false;
    for (std::size_t g = 0; g < columns / 16; ++g) {
      const float step = std::fabs(tile.step[g]);
      const float up = tile.step[g] < 0.0F ? -1.0F : 1.0F;
      if (step == 0.0F) continue;
      for (int tries = 0; tries < 8; ++tries) {
        const F gradient = load(tile.gradient + 16 * g);
        const F code = load(tile.code + 16 * g);
        const M raise = gradient < zero();  // raise the value
        const F next = code + select(raise, set(up), set(-up));
        const M possible = (set(levels.low) <= next) & (next <= set(levels.high));
        const F change = set(step) * fma(set(step), load(diagonal + 16 * g), set(-2.0F) * abs(gradient));
        const F offered = select(possible, change, zero());
        const float best = min_lane(offered);
        if (!(best < 0.0F)) break;
        const auto lane = static_cast<std::size_t>(__builtin_ctz(bits(offered == set(best))));
        const std::size_t j = 16 * g + lane;
        const float move = tile.gradient[j] < 0.0F ? step : -step;
        tile.code[j] += move > 0.0F ? up : -up;
        tile.error[j] = std::fma(tile.code[j], tile.step[g], tile.offset[g]) - tile.target[j];
        const float* line = factor.tile_cost(first + j);
        for (int k = 0; k < 16; ++k)
          store(fma(set(move), load(line + 16 * k), load(tile.gradient + 16 * k)), tile.gradient + 16 * k);
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

template <class Codec>
void encode_with_feedback(const PreparedRow& row, Effort effort, std::byte* out) {
  const CovarianceFactor& factor = *row.metric->covariance();
  Codec codec;
  Tile tile;
  FeedbackTile work;
  HWY_ALIGN float best_code[256];
  HWY_ALIGN float best_error[256];
  HWY_ALIGN float zeros[256] = {};
  std::fill_n(row.feedback, row.columns, 0.0F);
  for (std::size_t first = 0; first < row.columns; first += kTileColumns) {
    const std::size_t columns = std::min(row.columns - first, kTileColumns);
    // What the errors of the earlier tiles ask of these columns: U^T z = fed, solved from the first column
    // on, is the shift of the targets that makes the tile's problem one of its own.
    HWY_ALIGN float fed[256];
    for (std::size_t j = 0; j < 256; ++j) fed[j] = first + j < row.columns ? row.feedback[first + j] : 0.0F;
    for (std::size_t j = 0; j < 256; ++j) work.target[j] = 0.0F;
    for (std::size_t j = 0; j < columns; ++j) {
      const float shift = fed[j];
      work.target[j] = bounded(bounded(row.x[first + j]) - shift);
      const float* line = factor.feedback(first + j) + first;
      for (std::size_t k = j / 16 * 16; k < columns; k += 16)
        store(fma(set(-shift), load(line + k), load(fed + k)), fed + k);
    }
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
      const UniformLevels levels = codec.round(tile);
      round_in_order(factor, first, columns, levels, work);
      float cost = cost_gradient(factor, first, columns, work);
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
    // Feedback of the final errors (against the unshifted weights) to the columns after this tile.
    if (first + columns < row.columns) {
      for (std::size_t j = 0; j < columns; ++j) {
        const F e = set(best_error[j] + work.target[j] - bounded(row.x[first + j]));
        const float* line = factor.feedback(first + j);
        for (std::size_t k = first + kTileColumns; k < row.columns; k += 16)
          store(fma(e, load(line + k), load(row.feedback + k)), row.feedback + k);
      }
    }
  }
}

// With error feedback when the metric has a covariance.
template <class Codec>
void encode_tiles_or_feedback(const PreparedRow& row, Effort effort, std::byte* out) {
  if (row.metric->covariance() != nullptr) {
    encode_with_feedback<Codec>(row, effort, out);
  } else {
    encode_tiles<Codec>(row, effort, out);
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_ERROR_FEEDBACK_INL_H_

// Rounding with error feedback through a full covariance (covariance.h) for the codebook formats.
//
// A super-block is a tile of error_feedback-inl.h: min z^T S z over z = w - x', x' what the earlier errors
// ask for. Its scales are chosen for x' as without feedback, with the innovations D as weights. Then the
// vectors are coded one after another, each against t, what the earlier errors of the tile leave. Within a
// group of eight or four the cost y^T S_g y, y = w - t, couples the elements. Every lane keeps the best of a
// sixteenth of the codebook under the diagonal of S_g; the sixteen winners, each with every sign that may
// change, are compared by the whole form. They stay as candidates: afterwards vectors, signs, the codes and
// the unit of the scales and the shifts are changed as long as that lowers z^T S z. A few rounds with scales
// for the targets that the feedback led to; the best is kept. Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_CODEBOOK_FEEDBACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_CODEBOOK_FEEDBACK_INL_H_
#undef QUANTFIT_CODEBOOK_FEEDBACK_INL_H_
#else
#define QUANTFIT_CODEBOOK_FEEDBACK_INL_H_
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/codebook_blocks-inl.h"
#include "kernels/codebook_search.h"
#include "kernels/covariance.h"
#include "kernels/error_feedback-inl.h"
#include "kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE::codebook {

// What the signs of a vector may be beside those of its targets.
enum class Signs : unsigned char {
  Fixed,  // nothing else
  Odd,    // exactly one of them wrong
  Free,   // one of them wrong where that is cheaper
};

// One vector.
struct Pick {
  float cost;
  std::int32_t entry;
  std::uint32_t negative;  // bit k: element k
  float grid[8];           // with signs and shift
  HWY_ALIGN std::int32_t candidates[16];
};

// A digit's level numbers as levels: of its first element and, in groups of eight, its second.
template <class Spec, bool kSecond>
constexpr std::array<float, 16> digit_levels() {
  std::array<float, 16> levels{};
  for (int i = 0; i < 16; ++i) {
    const int number = Spec::kGroup == 4 ? i : kSecond ? i % 3 : i / 3;
    levels[static_cast<std::size_t>(i)] = Spec::kLevel[std::min(number, Spec::kLevels - 1)];
  }
  return levels;
}
template <class Spec>
inline constexpr std::array<float, 16> kFirstLevels = digit_levels<Spec, false>();
template <class Spec>
inline constexpr std::array<float, 16> kSecondLevels = digit_levels<Spec, true>();

// The best entry of each lane for targets t (magnitudes, or signed in signed grids) with weights w; `odd`:
// with the cheapest sign flip added.
template <class Spec>
HWY_NOINLINE I lane_winners(const float* t, const float* w, float s, float shift, bool odd) {
  constexpr int kPer = Spec::kGroup / 4;  // elements of a digit
  const FlatCodebook& book = Spec::flat();
  const F first = (load(kFirstLevels<Spec>.data()) + set(shift)) * set(s);
  const F second = (load(kSecondLevels<Spec>.data()) + set(shift)) * set(s);
  F table[4];
  F price[4];
  for (int d = 0; d < 4; ++d) {
    const F a = set(t[kPer * d]) - first;
    table[d] = (set(w[kPer * d]) * a) * a;
    price[d] = first * set(4.0F * w[kPer * d] * t[kPer * d]);
    if constexpr (kPer == 2) {
      const F b = set(t[2 * d + 1]) - second;
      table[d] = fma(set(w[2 * d + 1]) * b, b, table[d]);
      price[d] = min(price[d], second * set(4.0F * w[2 * d + 1] * t[2 * d + 1]));
    }
  }
  BestOf16 best;
  I index = iota();
  for (std::size_t i = 0; i < book.count; i += 16) {
    const I d0 = load_u8(book.digit[0].data() + i);
    const I d1 = load_u8(book.digit[1].data() + i);
    const I d2 = load_u8(book.digit[2].data() + i);
    const I d3 = load_u8(book.digit[3].data() + i);
    F cost =
        (lookup16(table[0], d0) + lookup16(table[1], d1)) + (lookup16(table[2], d2) + lookup16(table[3], d3));
    if (odd)
      cost = cost + min(min(lookup16(price[0], d0), lookup16(price[1], d1)),
                        min(lookup16(price[2], d2), lookup16(price[3], d3)));
    best.offer(cost, index);
    index = index + set(std::int32_t{16});
  }
  return best.index;
}

// The grid values (unsigned, without shift) of sixteen entries.
template <class Spec>
HWY_INLINE void grid_of(I entries, F* grid) {
  constexpr int kPer = Spec::kGroup / 4;
  const F first = load(kFirstLevels<Spec>.data());
  const F second = load(kSecondLevels<Spec>.data());
  const I low = set(std::int32_t{15});
  I digits = gather(Spec::flat().digits.data(), entries);
  for (int d = 0; d < 4; ++d) {
    const I digit = digits & low;
    grid[kPer * d] = lookup16(first, digit);
    if constexpr (kPer == 2) grid[2 * d + 1] = lookup16(second, digit);
    digits = shift_right<4>(digits);
  }
}

// The best vector for the targets `t` (signed) of a group with cost matrix `cost` (kGroup x kGroup).
template <class Spec>
HWY_NOINLINE void pick(const float* t, const float* cost, float s, float shift, Signs signs, Pick& out) {
  constexpr int kGroup = Spec::kGroup;
  float size[8];
  float weight[8];
  float sign[8];
  std::uint32_t negative = 0;
  for (int k = 0; k < kGroup; ++k) {
    const bool minus = !Spec::kSigned && t[k] < 0.0F;
    size[k] = minus ? -t[k] : t[k];
    sign[k] = minus ? -1.0F : 1.0F;
    weight[k] = cost[kGroup * k + k];
    if (minus) negative |= 1U << k;
  }
  const I entries = lane_winners<Spec>(size, weight, s, shift, signs == Signs::Odd);
  store(entries, out.candidates);
  F grid[8];
  grid_of<Spec>(entries, grid);
  F y[8];
  for (int k = 0; k < kGroup; ++k) {
    grid[k] = (grid[k] + set(shift)) * set(sign[k]);
    y[k] = fma(grid[k], set(s), set(-t[k]));
  }
  F total = zero();
  F pull[8];
  for (int k = 0; k < kGroup; ++k) {
    pull[k] = set(cost[kGroup * k]) * y[0];
    for (int i = 1; i < kGroup; ++i) pull[k] = fma(set(cost[kGroup * k + i]), y[i], pull[k]);
    total = fma(pull[k], y[k], total);
  }
  I flip = set(std::int32_t{-1});
  if constexpr (!Spec::kSigned) {
    if (signs != Signs::Fixed) {
      F least = signs == Signs::Free ? zero() : set(3.0e38F);
      for (int k = 0; k < kGroup; ++k) {
        const F value = grid[k] * set(s);
        const F change = set(4.0F) * value * fma(value, set(weight[k]), -pull[k]);
        const M better = change < least;
        least = select(better, change, least);
        flip = select(better, set(static_cast<std::int32_t>(k)), flip);
      }
      total = total + least;
    }
  }
  const float best = min_lane(total);
  const auto lane = static_cast<std::size_t>(__builtin_ctz(bits(total == set(best))));
  HWY_ALIGN std::int32_t flips[16];
  store(flip, flips);
  out.cost = best;
  out.entry = out.candidates[lane];
  HWY_ALIGN float lanes[16];
  for (int k = 0; k < kGroup; ++k) {
    store(grid[k], lanes);
    out.grid[k] = lanes[lane];
  }
  if (flips[lane] >= 0) {
    negative ^= 1U << flips[lane];
    out.grid[flips[lane]] = -out.grid[flips[lane]];
  }
  out.negative = negative;
}

// One super-block with feedback; arrays in the order of the row, everything divided by BlockState::up.
template <class Spec>
struct FeedbackBlock {
  static constexpr int kGroups = 256 / Spec::kGroup;
  static constexpr int kUnits = Spec::kWide ? 8 : 16;  // sub-blocks
  static constexpr int kUnitColumns = 256 / kUnits;
  HWY_ALIGN float target[256];    // x'
  HWY_ALIGN float wanted[256];    // what each weight was coded from
  HWY_ALIGN float grid[256];      // with signs and shift: values in units of the sub-block's scale
  HWY_ALIGN float error[256];     // z
  HWY_ALIGN float gradient[256];  // S z
  HWY_ALIGN float pull[256];      // S x'
  HWY_ALIGN std::int32_t candidates[16 * kGroups];
  std::int32_t entry[kGroups];
  std::uint32_t negative[32];
  float code[16];   // of the sub-blocks
  float shift[32];  // of the runs
  float unit;
  float cost;
  [[nodiscard]] HWY_INLINE float scale(int run) const {
    return unit * std::fma(2.0F, code[8 * run / kUnitColumns], 1.0F);
  }
};

// What remains when a block has been chosen.
template <class Spec>
struct Kept {
  float cost;
  float unit;
  float code[16];
  float shift[32];
  std::int32_t entry[FeedbackBlock<Spec>::kGroups];
  std::uint32_t negative[32];
  HWY_ALIGN float error[256];
  void keep(const FeedbackBlock<Spec>& block) {
    cost = block.cost;
    unit = block.unit;
    std::copy_n(block.code, 16, code);
    std::copy_n(block.shift, 32, shift);
    std::copy_n(block.entry, FeedbackBlock<Spec>::kGroups, entry);
    std::copy_n(block.negative, 32, negative);
    std::copy_n(block.error, 256, error);
  }
};

// The matrices of the tile that starts at column `first`.
struct TileMatrices {
  const CovarianceFactor* factor;
  std::size_t first;
  [[nodiscard]] const float* feedback(int column) const {
    return factor->feedback(first + static_cast<std::size_t>(column), first);
  }
  [[nodiscard]] const float* cost(int column) const {
    return factor->tile_cost(first + static_cast<std::size_t>(column));
  }
  template <int kGroup>
  [[nodiscard]] const float* group(int column) const {
    return factor->group_cost<kGroup>(first + static_cast<std::size_t>(column));
  }
};

// Enters a pick at `column` and feeds its errors on.
template <class Spec>
HWY_NOINLINE void enter(const TileMatrices& tile, const Pick& pick, int column, float s, float* fed,
                        FeedbackBlock<Spec>& block) {
  const int group = column / Spec::kGroup;
  block.entry[group] = pick.entry;
  std::copy_n(pick.candidates, 16, block.candidates + 16 * group);
  if constexpr (Spec::kGroup == 8) {
    block.negative[group] = pick.negative;
  } else {
    const int at = 4 * (group % 2);
    block.negative[group / 2] = (block.negative[group / 2] & ~(15U << at)) | (pick.negative << at);
  }
  for (int k = 0; k < Spec::kGroup; ++k) {
    const int j = column + k;
    block.wanted[j] = block.target[j] - fed[j];
    block.grid[j] = pick.grid[k];
    block.error[j] = std::fma(pick.grid[k], s, -block.target[j]);
    const F z = set(block.error[j]);
    const float* line = tile.feedback(j);
    for (int i = j / 16 * 16; i < 256; i += 16) store(fma(z, load(line + i), load(fed + i)), fed + i);
  }
}

// Codes all vectors in order, with the block's scales and shifts.
template <class Spec>
HWY_NOINLINE void code_in_order(const TileMatrices& tile, FeedbackBlock<Spec>& block) {
  constexpr int kGroup = Spec::kGroup;
  HWY_ALIGN float fed[256] = {};
  float t[8];
  Pick picked;
  for (int run = 0; run < 32; ++run) {
    const int column = 8 * run;
    const float s = block.scale(run);
    const float shift = Spec::kSigned ? block.shift[run] : 0.0F;
    if constexpr (kGroup == 8) {
      int minus = 0;
      for (int k = 0; k < 8; ++k) {
        t[k] = block.target[column + k] - fed[column + k];
        minus += t[k] < 0.0F ? 1 : 0;
      }
      const Signs signs = Spec::kSigned    ? Signs::Fixed
                          : !Spec::kParity ? Signs::Free
                          : minus % 2 != 0 ? Signs::Odd
                                           : Signs::Fixed;
      pick<Spec>(t, tile.group<8>(column), s, shift, signs, picked);
      enter<Spec>(tile, picked, column, s, fed, block);
    } else if constexpr (!Spec::kParity) {
      for (int half = 0; half < 2; ++half) {
        const int at = column + 4 * half;
        for (int k = 0; k < 4; ++k) t[k] = block.target[at + k] - fed[at + k];
        pick<Spec>(t, tile.group<4>(at), s, shift, Signs::Free, picked);
        enter<Spec>(tile, picked, at, s, fed, block);
      }
    } else {
      // The two vectors of a run share the rule: one wrong sign, if any, in the first or in the second.
      Pick first[2];
      Pick second[2];
      float total[2] = {0, 3.0e38F};
      for (int k = 0; k < 4; ++k) t[k] = block.target[column + k] - fed[column + k];
      for (int option = 0; option < 2; ++option) {
        pick<Spec>(t, tile.group<4>(column), s, shift, option == 0 ? Signs::Fixed : Signs::Odd,
                   first[option]);
        float u[4];
        int minus = std::popcount(first[option].negative);
        for (int k = 0; k < 4; ++k) {
          float share = fed[column + 4 + k];
          for (int i = 0; i < 4; ++i)
            share = std::fma(std::fma(first[option].grid[i], s, -block.target[column + i]),
                             tile.feedback(column + i)[column + 4 + k], share);
          u[k] = block.target[column + 4 + k] - share;
          minus += u[k] < 0.0F ? 1 : 0;
        }
        const bool odd = minus % 2 != 0;
        pick<Spec>(u, tile.group<4>(column + 4), s, shift, odd ? Signs::Odd : Signs::Fixed, second[option]);
        total[option] = first[option].cost + second[option].cost;
        if (option == 0 && !odd) break;
      }
      const int option = total[1] < total[0] ? 1 : 0;
      enter<Spec>(tile, first[option], column, s, fed, block);
      enter<Spec>(tile, second[option], column + 4, s, fed, block);
    }
  }
}

// Adds `change` of kCount columns' values from `column` on to the errors and the gradient.
HWY_INLINE void move_values(const TileMatrices& tile, int column, int count, const float* change,
                            float* error, float* gradient) {
  for (int k = 0; k < count; ++k) {
    if (change[k] == 0.0F) continue;
    error[column + k] += change[k];
    const F move = set(change[k]);
    const float* line = tile.cost(column + k);
    for (int i = 0; i < 256; i += 16) store(fma(move, load(line + i), load(gradient + i)), gradient + i);
  }
}

// Other vectors among the candidates, with the present signs. Returns the change of the cost, as those below.
template <class Spec>
HWY_NOINLINE float change_vectors(const TileMatrices& tile, FeedbackBlock<Spec>& block) {
  constexpr int kGroup = Spec::kGroup;
  float gained = 0;
  for (int group = 0; group < FeedbackBlock<Spec>::kGroups; ++group) {
    const int column = kGroup * group;
    const int run = column / 8;
    const float s = block.scale(run);
    if (s == 0.0F) continue;
    const F shift = set(Spec::kSigned ? block.shift[run] : 0.0F);
    const std::uint32_t negative = block.negative[run] >> (column % 8);
    F grid[8];
    F move[8];
    grid_of<Spec>(load(block.candidates + 16 * group), grid);
    F total = zero();
    for (int k = 0; k < kGroup; ++k) {
      grid[k] = grid[k] + shift;
      if (!Spec::kSigned && ((negative >> k) & 1U) != 0) grid[k] = -grid[k];
      move[k] = (grid[k] - set(block.grid[column + k])) * set(s);
      const float* line = tile.cost(column + k) + column;
      F pull = set(2.0F * block.gradient[column + k]);
      for (int i = 0; i < k; ++i) pull = fma(set(2.0F * line[i]), move[i], pull);
      pull = fma(set(line[k]), move[k], pull);
      total = fma(pull, move[k], total);
    }
    const float best = min_lane(total);
    if (!(best < 0.0F)) continue;
    const auto lane = static_cast<std::size_t>(__builtin_ctz(bits(total == set(best))));
    HWY_ALIGN float lanes[16];
    float change[8];
    for (int k = 0; k < kGroup; ++k) {
      store(move[k], lanes);
      change[k] = lanes[lane];
      store(grid[k], lanes);
      block.grid[column + k] = lanes[lane];
    }
    block.entry[group] = block.candidates[16 * static_cast<std::size_t>(group) + lane];
    move_values(tile, column, kGroup, change, block.error, block.gradient);
    gained += best;
  }
  return gained;
}

// Other signs: one, or two of a run where their number must stay even.
template <class Spec>
HWY_NOINLINE float change_signs(const TileMatrices& tile, FeedbackBlock<Spec>& block) {
  float gained = 0;
  for (int run = 0; run < 32; ++run) {
    const int column = 8 * run;
    const float s = block.scale(run);
    if (s == 0.0F) continue;
    for (int tries = 0; tries < 4; ++tries) {
      float value[8];
      float alone[8];
      for (int k = 0; k < 8; ++k) {
        value[k] = s * block.grid[column + k];
        alone[k] = 4.0F * value[k] *
                   std::fma(value[k], tile.cost(column + k)[column + k], -block.gradient[column + k]);
      }
      float best = 0;
      int a = -1;
      int b = -1;
      for (int k = 0; k < 8; ++k) {
        if constexpr (!Spec::kParity) {
          if (alone[k] < best) {
            best = alone[k];
            a = k;
          }
        } else {
          const float* line = tile.cost(column + k) + column;
          for (int i = 0; i < k; ++i) {
            const float both = std::fma(8.0F * value[k] * value[i], line[i], alone[k] + alone[i]);
            if (both < best) {
              best = both;
              a = k;
              b = i;
            }
          }
        }
      }
      if (a < 0) break;
      float change[8] = {};
      for (const int k : {a, b}) {
        if (k < 0) continue;
        change[k] = -2.0F * value[k];
        block.grid[column + k] = -block.grid[column + k];
        block.negative[run] ^= 1U << k;
      }
      move_values(tile, column, 8, change, block.error, block.gradient);
      gained += best;
    }
  }
  return gained;
}

// g^T S g and g^T (S z) of `count` columns from `column` on.
struct Quadratic {
  float square;
  float slope;
};
HWY_INLINE Quadratic quadratic(const TileMatrices& tile, int column, int count, const float* g,
                               const float* gradient) {
  F square = zero();
  F slope = zero();
  // `column` and `count` may be odd multiples of eight: whole registers with zeros outside.
  const int begin = column / 16 * 16;
  HWY_ALIGN float inside[48] = {};
  for (int k = 0; k < count; ++k) inside[column - begin + k] = g[k];
  for (int i = begin; i < column + count; i += 16) {
    F row = zero();
    for (int k = 0; k < count; ++k) row = fma(set(g[k]), load(tile.cost(column + k) + i), row);
    square = fma(row, load(inside + (i - begin)), square);
    slope = fma(load(gradient + i), load(inside + (i - begin)), slope);
  }
  Quadratic result;
  result.square = sum(square);
  result.slope = sum(slope);
  return result;
}

// Other codes of the sub-blocks' scales for the present vectors.
template <class Spec>
HWY_NOINLINE float change_codes(const TileMatrices& tile, FeedbackBlock<Spec>& block) {
  constexpr int kColumns = FeedbackBlock<Spec>::kUnitColumns;
  float gained = 0;
  for (int b = 0; b < FeedbackBlock<Spec>::kUnits; ++b) {
    const int column = kColumns * b;
    const Quadratic form = quadratic(tile, column, kColumns, block.grid + column, block.gradient);
    if (!(form.square > 0.0F)) continue;
    const float step = 2.0F * block.unit;
    const float wanted = std::nearbyint(
        std::fmin(std::fmax(block.code[b] - form.slope / (form.square * step), 0.0F), Spec::kCodes - 1.0F));
    const float change = (wanted - block.code[b]) * step;
    const float gain = std::fma(change, form.square, 2.0F * form.slope) * change;
    if (!(gain < 0.0F)) continue;
    block.code[b] = wanted;
    float moves[32];
    for (int k = 0; k < kColumns; ++k) moves[k] = change * block.grid[column + k];
    move_values(tile, column, kColumns, moves, block.error, block.gradient);
    gained += gain;
  }
  return gained;
}

// Signed grids: the other shift.
template <class Spec>
HWY_NOINLINE float change_shifts(const TileMatrices& tile, FeedbackBlock<Spec>& block) {
  constexpr int kColumns = Spec::kWide ? 32 : 8;
  float gained = 0;
  for (int column = 0; column < 256; column += kColumns) {
    const float shift = block.shift[column / 8];
    float moves[32];
    for (int k = 0; k < kColumns; ++k) moves[k] = -2.0F * shift * block.scale(column / 8);
    const Quadratic form = quadratic(tile, column, kColumns, moves, block.gradient);
    const float gain = form.square + 2.0F * form.slope;
    if (!(gain < 0.0F)) continue;
    for (int k = 0; k < kColumns; ++k) block.grid[column + k] -= 2.0F * shift;
    for (int run = column / 8; run < (column + kColumns) / 8; ++run) block.shift[run] = -shift;
    move_values(tile, column, kColumns, moves, block.error, block.gradient);
    gained += gain;
  }
  return gained;
}

// The unit of the scales that is best for the vectors and codes, rounded as the block's half will be.
template <class Spec>
HWY_NOINLINE void change_unit(const TileMatrices& tile, const BlockState<Spec>& state,
                              FeedbackBlock<Spec>& block) {
  if (!(block.unit > 0.0F)) return;
  F xx = zero();
  F vx = zero();
  F vv = zero();
  for (int i = 0; i < 256; i += 16) {
    const F x = load(block.target + i);
    const F pull = load(block.pull + i);
    const F value = load(block.error + i) + x;
    vx = fma(value, pull, vx);
    vv = fma(value, load(block.gradient + i) + pull, vv);
    xx = fma(x, pull, xx);
  }
  const float square = sum(vv);
  const float product = sum(vx);
  if (!(square > 0.0F)) return;
  const float unit = rounded_unit(state, block.unit * (product / square));
  if (!(unit > 0.0F) || unit == block.unit) return;
  const float before = block.unit;
  block.unit = unit;
  HWY_ALIGN float error[256];
  HWY_ALIGN float gradient[256];
  for (int j = 0; j < 256; ++j) error[j] = std::fma(block.grid[j], block.scale(j / 8), -block.target[j]);
  const float cost = cost_gradient(*tile.factor, tile.first, 256, error, gradient);
  if (cost < block.cost) {
    block.cost = cost;
    std::copy_n(error, 256, block.error);
    std::copy_n(gradient, 256, block.gradient);
  } else {
    block.unit = before;
  }
}

// S z and z^T S z; with kPull also S x', in the same pass over S.
template <class Spec, bool kPull>
HWY_NOINLINE void measure_block(const TileMatrices& tile, FeedbackBlock<Spec>& block) {
  for (int j = 0; j < 256; ++j)
    block.error[j] = std::fma(block.grid[j], block.scale(j / 8), -block.target[j]);
  F cost = zero();
  for (int half = 0; half < 256; half += 128) {
    F gradient[8];
    F pull[8];
    for (int k = 0; k < 8; ++k) gradient[k] = pull[k] = zero();
    for (int j = 0; j < 256; ++j) {
      const float* line = tile.cost(j) + half;
      const F z = set(block.error[j]);
      const F x = set(block.target[j]);
      for (int k = 0; k < 8; ++k) {
        const F s = load(line + 16 * k);
        gradient[k] = fma(z, s, gradient[k]);
        if constexpr (kPull) pull[k] = fma(x, s, pull[k]);
      }
    }
    for (int k = 0; k < 8; ++k) {
      store(gradient[k], block.gradient + half + 16 * k);
      if constexpr (kPull) store(pull[k], block.pull + half + 16 * k);
      cost = fma(gradient[k], load(block.error + half + 16 * k), cost);
    }
  }
  block.cost = sum(cost);
}

// The lane of run `run`'s chunk (load_chunks).
template <class Spec>
constexpr int lane_of_run(int run) {
  const int chunk = run / 2;
  return Spec::kWide ? chunk / 2 + 8 * (chunk % 2) : chunk;
}

// Scales and shifts for `targets` with the weights in `state`.
template <class Spec>
HWY_NOINLINE void choose_block_scales(BlockState<Spec>& state, const Plan& plan, const float* targets,
                                      FeedbackBlock<Spec>& block) {
  load_chunks<Spec>(targets, state.x);
  aim<Spec>(state, Pair());
  Assignment<Spec> assignment;
  F codes = zero();
  choose_scales<Spec>(state, plan, block.unit, codes, assignment.choice);
  if constexpr (Spec::kSigned) {
    if (plan.shift_searches > 0)
      search<Spec>(state.targets, set(block.unit) * fma(codes, set(2.0F), set(1.0F)), true, state.tables,
                   assignment.choice);
    for (int r = 0; r < kRuns; ++r) {
      HWY_ALIGN float lanes[16];
      store(assignment.choice.shift[r], lanes);
      for (int chunk = 0; chunk < 16; ++chunk)
        block.shift[2 * chunk + r] = lanes[lane_of_run<Spec>(2 * chunk)];
    }
  }
  HWY_ALIGN float lanes[16];
  store(codes, lanes);
  std::copy_n(lanes, FeedbackBlock<Spec>::kUnits, block.code);
}

// Another sweep is worth its time when the last one lowered the cost by this share.
inline constexpr float kWorthwhile = 0.01F;

template <class Spec>
HWY_NOINLINE void encode_row_with_feedback(const PreparedRow& row, Effort effort, std::byte* out) {
  const Plan plan = plan_for<Spec>(effort);
  const CovarianceFactor& factor = *row.covariance;
  auto* blocks = reinterpret_cast<typename Spec::Block*>(out);
  BlockState<Spec> state;
  state.coupled = false;
  FeedbackBlock<Spec> block;
  Kept<Spec> kept;
  HWY_ALIGN float target[256];
  std::fill_n(row.feedback, row.columns, 0.0F);
  const int rounds = effort == Effort::Fast ? 1 : effort == Effort::Default ? 2 : 4;
  const int sweeps = effort == Effort::Fast ? 2 : effort == Effort::Default ? 4 : 8;
  for (std::size_t first = 0; first < row.columns; first += 256, ++blocks) {
    const TileMatrices tile{&factor, first};
    shifted_tile_targets(row, first, 256, Spec::kEnlargement, target);
    float maximum = 0;
    for (const float x : target) maximum = std::fmax(maximum, std::fabs(x));
    Fields fields;
    if (!(maximum > 1e-12F)) {  // as encode_row
      pack(fields, *blocks);
      for (int j = 0; j < 256; ++j) kept.error[j] = -target[j];
      feed_back(row, first, 256, Spec::kEnlargement, target, kept.error);
      continue;
    }
    const int exponent = static_cast<int>((std::bit_cast<std::uint32_t>(maximum) >> 23) & 255) - 127;
    state.up = std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
    state.down = 1 / state.up;
    for (int j = 0; j < 256; ++j) block.target[j] = target[j] * state.down;
    load_chunks<Spec>(factor.innovations() + first, state.targets.w);

    for (int round = 0; round < rounds; ++round) {
      choose_block_scales<Spec>(state, plan, round == 0 ? block.target : block.wanted, block);
      code_in_order<Spec>(tile, block);
      if (round == 0) {
        measure_block<Spec, true>(tile, block);
      } else {
        measure_block<Spec, false>(tile, block);
      }
      for (int sweep = 0; sweep < sweeps; ++sweep) {
        float gained = change_vectors<Spec>(tile, block);
        gained += Spec::kSigned ? change_shifts<Spec>(tile, block) : change_signs<Spec>(tile, block);
        gained += change_codes<Spec>(tile, block);
        block.cost += gained;
        if (!(gained < -kWorthwhile * block.cost)) break;
      }
      change_unit<Spec>(tile, state, block);
      if (round == 0 || block.cost < kept.cost) kept.keep(block);
    }
    fields.d = float_to_half(std::min(kept.unit * state.up / Spec::kUnit, 65504.0F));
    for (int b = 0; b < FeedbackBlock<Spec>::kUnits; ++b)
      fields.codes[b] = static_cast<std::uint8_t>(kept.code[b]);
    for (int g = 0; g < FeedbackBlock<Spec>::kGroups; ++g)
      fields.entries[g] = static_cast<std::uint16_t>(kept.entry[g]);
    for (int run = 0; run < 32; ++run) {
      fields.negative[run] = static_cast<std::uint8_t>(kept.negative[run]);
      if constexpr (Spec::kSigned) fields.negative[run] = kept.shift[run] < 0.0F ? 1 : 0;
    }
    pack(fields, *blocks);
    for (float& e : kept.error) e *= state.up;
    feed_back(row, first, 256, Spec::kEnlargement, target, kept.error);
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE::codebook
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_CODEBOOK_FEEDBACK_INL_H_

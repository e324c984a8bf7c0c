// Scales (and offsets) of groups of 16 to 256 weights by weighted least squares, sixteen lanes of a
// tile at once. A group is kLanes neighbouring lanes; all of them hold its results. Included once
// per target, as lanes-inl.h.

#if defined(QUANTFIT_GROUP_FIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_GROUP_FIT_INL_H_
#undef QUANTFIT_GROUP_FIT_INL_H_
#else
#define QUANTFIT_GROUP_FIT_INL_H_
#endif

#include "kernels/lanes-inl.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// The integers low..high as levels of a symmetric fit.
struct IntegerLevels {
  static constexpr bool kHasZero = true;
  float low;         // < 0
  float high;        // > 0
  float resolution;  // steps from zero to the further end
  HWY_INLINE F nearest(F scaled) const { return round(clamp(scaled, set(low), set(high))); }
  // The levels the largest weight may sit on.
  [[nodiscard]] HWY_INLINE int ends() const { return static_cast<int>(-low); }
  [[nodiscard]] HWY_INLINE float end(int i) const { return low + static_cast<float>(i); }
};

// 1 / a, and 0 for 0.
HWY_INLINE F inverse_or_zero(F a) {
  const M zeros = a == zero();
  return select(zeros, zero(), set(1.0F) / select(zeros, set(1.0F), a));
}

// A scale as a half that is not zero unless the scale is.
HWY_INLINE F half_step(F scale) {
  const F rounded = rounded_to_half(scale);
  const F least = select(scale < zero(), set(-0x1p-24F), set(0x1p-24F));
  return select((rounded == zero()) & !(scale == zero()), least, rounded);
}

// Products of a least-squares fit x ~ scale * level.
struct ScaleSums {
  F xl;  // sum v x level
  F ll;  // sum v level^2
  HWY_INLINE F scale() const { return select(ll > zero(), xl / select(ll > zero(), ll, set(1.0F)), zero()); }
  // What the best scale takes off sum v x^2.
  HWY_INLINE F explained() const { return xl * scale(); }
};
template <int kLanes, class LevelSet>
ScaleSums scale_sums(const Tile& tile, const LevelSet& levels, F inverse) {
  F xl = zero();
  F ll = zero();
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    const F level = levels.nearest(x * inverse);
    const F weighted = load(tile.v + 16 * k) * level;
    xl = fma(weighted, x, xl);
    ll = fma(weighted, level, ll);
  }
  ScaleSums sums;
  sums.xl = group_sum<kLanes>(xl);
  sums.ll = group_sum<kLanes>(ll);
  return sums;
}

// Inverse scales to try, as multiples of the one that just covers the largest weight. The near ones
// move the ends by parts of a step, which decides where the levels fall; the far ones cut
// unimportant large weights off.
struct ScaleGrid {
  float near_first;  // in steps: multiple 1 + near / levels
  float near_step;
  int near_count;
  float far_first;
  float far_step;
  int far_count;
  HWY_INLINE int count() const { return near_count + far_count; }
  HWY_INLINE float factor(int i, float levels) const {
    if (i < near_count) return 1.0F + (near_first + near_step * static_cast<float>(i)) / levels;
    return far_first + far_step * static_cast<float>(i - near_count);
  }
};

// Scales of plain rounding. No fit may end up worse.
struct CoveringScales {
  F largest;  // the largest weight on the end of the levels that reaches further; others may be cut off
  F all;      // the smallest scale of the same sign that cuts nothing off
  F other;    // the smallest scale of the other sign that cuts nothing off
};
template <int kLanes, class LevelSet>
CoveringScales covering_scales(const Tile& tile, const LevelSet& levels) {
  F most = zero();
  F least = zero();
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    most = max(most, x);
    least = max(least, -x);
  }
  most = group_max<kLanes>(most);
  least = group_max<kLanes>(least);
  const bool low_end = -levels.low > levels.high;
  const float reach = low_end ? -levels.low : levels.high;
  const float other = low_end ? levels.high : -levels.low;
  const M positive = least < most;
  const F far = max(most, least) * set(1.0F / reach);
  const F near = min(most, least) * set(1.0F / other);
  const M negate = low_end ? positive : !positive;
  CoveringScales scales;
  scales.largest = select(negate, -far, far);
  scales.all = select(negate, -max(far, near), max(far, near));
  const F turned = max(max(most, least) * set(1.0F / other), min(most, least) * set(1.0F / reach));
  scales.other = select(negate, turned, -turned);
  return scales;
}

// The scale of best explained energy over the grid: for the sign that puts the largest weight on the end that
// reaches further, and with `both_signs` for the other one too.
template <int kLanes, class LevelSet>
F search_scale(const Tile& tile, const LevelSet& levels, ScaleGrid grid, bool both_signs) {
  const CoveringScales covering = covering_scales<kLanes>(tile, levels);
  F best_scale = zero();
  F best = zero();
  const int orientations = both_signs && levels.low != -levels.high ? 2 : 1;
  for (int orientation = 0; orientation < orientations; ++orientation) {
    const F cover = inverse_or_zero(orientation == 0 ? covering.all : covering.other);
    for (int i = 0; i < grid.count(); ++i) {
      const F inverse = cover * set(grid.factor(i, levels.resolution));
      const ScaleSums sums = scale_sums<kLanes>(tile, levels, inverse);
      const F scale = sums.scale();
      const F explained = sums.xl * scale;
      const M better = best < explained;
      best = select(better, explained, best);
      best_scale = select(better, scale, best_scale);
    }
  }
  return best_scale;
}

// Error of the group when coded with the scale.
template <int kLanes, class LevelSet>
F scale_error(const Tile& tile, const LevelSet& levels, F scale) {
  const F inverse = inverse_or_zero(scale);
  F error = zero();
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    const F e = fnma(scale, levels.nearest(x * inverse), x);
    error = fma(load(tile.v + 16 * k) * e, e, error);
  }
  return group_sum<kLanes>(error);
}

// Rounding and least squares in turn; zero stays zero.
template <int kLanes, class LevelSet>
F refine_scale(const Tile& tile, const LevelSet& levels, F scale, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    const F next = scale_sums<kLanes>(tile, levels, inverse_or_zero(scale)).scale();
    scale = select((next == zero()) | (scale == zero()), scale, next);
  }
  return scale;
}
// Rounding and least squares in turn, the result as a half.
template <int kLanes, class LevelSet>
F refine_half_scale(const Tile& tile, const LevelSet& levels, F scale, int rounds) {
  return half_step(refine_scale<kLanes>(tile, levels, scale, rounds));
}
// `fitted`, a half, unless plain rounding is better. `all_sides`: try both of its scales.
template <int kLanes, class LevelSet>
F better_than_plain(const Tile& tile, const LevelSet& levels, F fitted, bool all_sides) {
  const CoveringScales covering = covering_scales<kLanes>(tile, levels);
  F error = scale_error<kLanes>(tile, levels, fitted);
  if constexpr (!LevelSet::kHasZero) {
    // Weights below the smallest half can only be dropped.
    const F dropped = scale_error<kLanes>(tile, levels, zero());
    fitted = select(dropped < error, zero(), fitted);
    error = min(dropped, error);
  }
  const F largest = half_step(covering.largest);
  const F largest_error = scale_error<kLanes>(tile, levels, largest);
  fitted = select(largest_error < error, largest, fitted);
  if (!all_sides || levels.low == -levels.high) return fitted;
  error = min(largest_error, error);
  const F all = half_step(covering.all);
  return select(scale_error<kLanes>(tile, levels, all) < error, all, fitted);
}

// Groups that few encoders are made for: all weights on one side of zero (a constant, a narrow band, a ramp),
// or nothing lost but what the rounding of the scale to half costs.
template <int kLanes>
M unusual_groups(const Tile& tile, F error, F energy) {
  F most = set(-3e38F);
  F least = set(-3e38F);  // of -x
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    most = max(most, x);
    least = max(least, -x);
  }
  const M one_sided = min(group_max<kLanes>(most), group_max<kLanes>(least)) < zero();
  return one_sided | (error < set(1e-6F) * energy);
}

// A second look at unusual groups: there the rounding of the scale, and on which level the largest weight
// sits, decide; so every such level is tried, and scales close together. `scale`, a half, is kept unless one
// is better.
template <int kLanes, class LevelSet>
HWY_NOINLINE F second_look(const Tile& tile, const LevelSet& levels, F scale) {
  F best = scale_error<kLanes>(tile, levels, scale);
  if (!any(unusual_groups<kLanes>(tile, best, scale_error<kLanes>(tile, levels, zero())))) return scale;
  const auto consider = [&](F candidate) {
    const F error = scale_error<kLanes>(tile, levels, candidate);
    const M better = error < best;
    best = select(better, error, best);
    scale = select(better, candidate, scale);
  };
  const CoveringScales covering = covering_scales<kLanes>(tile, levels);
  const F furthest = covering.largest * set(levels.low < -levels.high ? levels.low : levels.high);
  for (int i = 0; i < levels.ends(); ++i) {
    const F candidate = half_step(furthest * set(1.0F / levels.end(i)));
    consider(candidate);
    consider(-candidate);
  }
  constexpr int kTrials = 24;
  for (int i = 0; i < kTrials; ++i) {
    const float factor = 1.0F + (-1.6F + 0.15F * static_cast<float>(i)) / levels.resolution;
    consider(refine_half_scale<kLanes>(tile, levels, covering.all * set(factor), 2));
    consider(refine_half_scale<kLanes>(tile, levels, covering.other * set(factor), 2));
  }
  return scale;
}

// ---- x ~ scale * code + offset, codes 0..high
// -------------------------------------------------------------------

struct AffineFit {
  F scale;
  F offset;
  F explained;  // sum v x^2 minus the error of the fit, at the codes it came from
};

// Codes round((x - anchor) * inverse); least squares for them. With kOffsetAtMostZero the offset is the best
// <= 0.
template <int kLanes, bool kOffsetAtMostZero>
AffineFit affine_fit(const Tile& tile, float high, F inverse, F anchor, F sum_v, F sum_x) {
  F c1 = zero();
  F c2 = zero();
  F xc = zero();
  const F base = -anchor * inverse;
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    const F code = round(clamp(fma(x, inverse, base), zero(), set(high)));
    const F weighted = load(tile.v + 16 * k) * code;
    c1 = c1 + weighted;
    c2 = fma(weighted, code, c2);
    xc = fma(weighted, x, xc);
  }
  c1 = group_sum<kLanes>(c1);
  c2 = group_sum<kLanes>(c2);
  xc = group_sum<kLanes>(xc);
  const F inverse_v = inverse_or_zero(sum_v);
  const F mean_code = c1 * inverse_v;
  const F mean_x = sum_x * inverse_v;
  const F variance = fnma(c1, mean_code, c2);
  const F covariance = fnma(sum_x, mean_code, xc);
  // All codes equal (but for rounding): the offset alone.
  const M spread = variance > c2 * set(1e-6F);
  AffineFit fit;
  fit.scale = select(spread, covariance / select(spread, variance, set(1.0F)), zero());
  fit.offset = fnma(fit.scale, mean_code, mean_x);
  fit.explained = fma(fit.scale, covariance, sum_x * mean_x);
  if constexpr (kOffsetAtMostZero) {
    const M above = fit.offset > zero();
    const M any_code = c2 > zero();
    const F through_zero = select(any_code, xc / select(any_code, c2, set(1.0F)), zero());
    fit.scale = select(above, through_zero, fit.scale);
    fit.explained = select(above, through_zero * xc, fit.explained);
    fit.offset = select(above, zero(), fit.offset);
  }
  return fit;
}

struct AffineSums {
  F v;  // sum v
  F x;  // sum v x
  F most;
  F least;
};
template <int kLanes>
AffineSums affine_sums(const Tile& tile) {
  AffineSums sums;
  sums.v = zero();
  sums.x = zero();
  sums.most = set(-3e38F);
  sums.least = set(-3e38F);  // of -x
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    const F v = load(tile.v + 16 * k);
    sums.v = sums.v + v;
    sums.x = fma(v, x, sums.x);
    sums.most = max(sums.most, x);
    sums.least = max(sums.least, -x);
  }
  sums.v = group_sum<kLanes>(sums.v);
  sums.x = group_sum<kLanes>(sums.x);
  sums.most = group_max<kLanes>(sums.most);
  sums.least = -group_max<kLanes>(sums.least);
  return sums;
}

// The best of the grid: inverse scales as multiples of high / range; whatever is cut off is cut off at both
// ends, at the upper, or at the lower end only.
template <int kLanes, bool kOffsetAtMostZero>
AffineFit search_affine(const Tile& tile, float high, const AffineSums& sums, ScaleGrid grid, int anchors) {
  const F least = kOffsetAtMostZero ? min(sums.least, zero()) : sums.least;
  const F most = kOffsetAtMostZero ? max(sums.most, zero()) : sums.most;
  const F range = most - least;
  const F cover = set(high) * inverse_or_zero(max(range, set(1e-30F)));
  AffineFit best;
  best.scale = zero();
  best.offset = sums.x * inverse_or_zero(sums.v);
  if constexpr (kOffsetAtMostZero) best.offset = min(best.offset, zero());
  best.explained = best.offset * sums.x;
  for (int i = 0; i < grid.count(); ++i) {
    const float factor = grid.factor(i, high);
    const F inverse = cover * set(factor);
    for (int a = 0; a < anchors; ++a) {
      // Part of the range that the codes do not cover, and how much of it lies below the anchor.
      const float below = a == 0 ? 0.0F : a == 1 ? 0.5F : 1.0F;
      const F anchor = fma(range, set((1.0F - 1.0F / factor) * below), least);
      const AffineFit fit =
          affine_fit<kLanes, kOffsetAtMostZero>(tile, high, inverse, anchor, sums.v, sums.x);
      const M better = best.explained < fit.explained;
      best.explained = select(better, fit.explained, best.explained);
      best.scale = select(better, fit.scale, best.scale);
      best.offset = select(better, fit.offset, best.offset);
    }
  }
  return best;
}

template <int kLanes, bool kOffsetAtMostZero>
AffineFit refine_affine(const Tile& tile, float high, const AffineSums& sums, AffineFit fit, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    const AffineFit next = affine_fit<kLanes, kOffsetAtMostZero>(tile, high, inverse_or_zero(fit.scale),
                                                                 fit.offset, sums.v, sums.x);
    // A scale of zero has no codes to refine.
    const M usable = !(fit.scale == zero()) & !(next.scale == zero());
    fit.scale = select(usable, next.scale, fit.scale);
    fit.offset = select(usable, next.offset, fit.offset);
    fit.explained = select(usable, next.explained, fit.explained);
  }
  return fit;
}

// ---- Codes for given scales
// --------------------------------------------------------------------------------------

inline HWY_NOINLINE void round_uniform(Tile& tile, const UniformLevels& levels) {
  const F inverse = inverse_or_zero(levels.step);
  const F base = -levels.offset * inverse;
  for (int k = 0; k < 16; ++k) {
    const F scaled = fma(load(tile.target + 16 * k), inverse, base);
    store(round(clamp(scaled, set(levels.low), set(levels.high))), tile.code + 16 * k);
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_GROUP_FIT_INL_H_

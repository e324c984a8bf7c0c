// Super-blocks of 256 weights whose groups share a half d and have a small signed integer as scale: Q3_K,
// Q6_K, IQ4_XS. A super-block is a tile. Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_SUPER_FIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_SUPER_FIT_INL_H_
#undef QUANTFIT_SUPER_FIT_INL_H_
#else
#define QUANTFIT_SUPER_FIT_INL_H_
#endif

#include "kernels/group_fit-inl.h"
#include "kernels/half.h"
#include "kernels/lanes-inl.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

HWY_INLINE float absolute_max(F a) {
  return max_lane(abs(a));
}
// The value of largest magnitude.
HWY_INLINE float signed_most(F a) {
  const float most = max_lane(a);
  const float least = min_lane(a);
  return -least > most ? least : most;
}
// A super-block scale as its half, not zero unless it is.
HWY_INLINE float half_scale(float scale) {
  if (scale == 0.0F) return 0.0F;
  const float rounded = ::quantfit::kernels::round_to_half(std::fmin(std::fmax(scale, -65504.0F), 65504.0F));
  return rounded != 0.0F ? rounded : std::copysign(0x1p-24F, scale);
}

// w = d * scale * level, kScaleLow <= scale < -kScaleLow, a scale for each kLanes neighbouring lanes.
template <class LevelSet, int kLanes, int kScaleLow>
struct SignedSuperFit {
  LevelSet levels;
  float d;
  F scale;  // integers, one per lane

  HWY_INLINE explicit SignedSuperFit(const LevelSet& level_set) : levels(level_set), d(0.0F), scale(zero()) {}

  // The best integer scales near `wanted` / super, and the error of the tile with them.
  float choose_scales(const Tile& tile, float super, F wanted, int reach, F& chosen) const {
    const F middle = clamp(::quantfit::kernels::HWY_NAMESPACE::round(wanted * set(1.0F / super)),
                           set(static_cast<float>(kScaleLow)), set(static_cast<float>(-kScaleLow - 1)));
    F best = set(3e38F);
    chosen = middle;
    for (int offset = -reach; offset <= reach; ++offset) {
      const F candidate = clamp(middle + set(static_cast<float>(offset)), set(static_cast<float>(kScaleLow)),
                                set(static_cast<float>(-kScaleLow - 1)));
      const F error = scale_error<kLanes>(tile, levels, candidate * set(super));
      const M better = error < best;
      best = select(better, error, best);
      chosen = select(better, candidate, chosen);
    }
    return sum(best);
  }

  // d by least squares over all groups, codes as rounded for the present d.
  float fit_super(const Tile& tile, float super, F chosen) const {
    const ScaleSums sums = scale_sums<kLanes>(tile, levels, inverse_or_zero(chosen * set(super)));
    const float numerator = sum(chosen * sums.xl);
    const float denominator = sum(chosen * chosen * sums.ll);
    return denominator > 0.0F ? numerator / denominator : super;
  }

  // One super-block scale and rounds of choosing and fitting from there; keeps the best of all calls.
  void try_super(const Tile& tile, float super, F wanted, int reach, int rounds, float& best) {
    for (int round = 0;; ++round) {
      F chosen;
      const float error = choose_scales(tile, super, wanted, round < rounds ? reach : 0, chosen);
      if (error < best) {
        best = error;
        d = super;
        scale = chosen;
      }
      if (round >= rounds) return;
      super = half_scale(fit_super(tile, super, chosen));
    }
  }

  // A second look at super-blocks with unusual groups: there the groups must agree on where their largest
  // weights sit, and the rounding of d to half decides; so starts with one rule for all groups, and many
  // neighbouring d, are tried.
  HWY_NOINLINE void second_look(const Tile& tile, const CoveringScales& covering, F free, float& best) {
    const F error = scale_error<kLanes>(tile, levels, scale * set(d));
    if (!any(unusual_groups<kLanes>(tile, error, scale_error<kLanes>(tile, levels, zero())))) return;
    constexpr int kStarts = 24;
    for (const F wanted : {free, covering.all, covering.other, covering.largest}) {
      const float largest = signed_most(wanted);
      if (largest == 0.0F) continue;
      for (int start = 0; start < kStarts; ++start) {
        const int step = start / 2;  // both ends of the scales in turn
        const auto inside = static_cast<float>(step);
        const float end = start % 2 == 0 ? static_cast<float>(kScaleLow) + inside
                                         : static_cast<float>(-kScaleLow - 1) - inside;
        try_super(tile, half_scale(largest / end), wanted, 1, 2, best);
      }
    }
    // Every integer for every group, twice.
    if constexpr (kScaleLow == -32) try_super(tile, d, zero(), -kScaleLow, 2, best);
  }

  void fit(const Tile& tile, Effort effort, ScaleGrid grid, bool both_signs) {
    d = 0.0F;
    scale = zero();
    float best = 3e38F;
    // Where no level is zero, weights below the smallest half can only be dropped.
    if constexpr (!LevelSet::kHasZero) best = sum(scale_error<kLanes>(tile, levels, zero()));
    // Plain rounding: every group's scale covers its largest weight. No result is worse.
    const CoveringScales covering = covering_scales<kLanes>(tile, levels);
    const float widest = signed_most(covering.largest);
    if (widest == 0.0F) return;
    const int plain_rounds = effort == Effort::Max ? 1 : 0;
    const float far_end = static_cast<float>(kScaleLow);
    try_super(tile, half_scale(widest / far_end), covering.largest, 0, plain_rounds, best);
    try_super(tile, half_scale(signed_most(covering.all) / far_end), covering.all, 0, plain_rounds, best);

    const F free = refine_scale<kLanes>(tile, levels, search_scale<kLanes>(tile, levels, grid, both_signs),
                                        effort == Effort::Max ? 2 : 1);
    // The largest scale may sit at either end of the integers, or a little inside.
    const float largest = signed_most(free);
    if (largest == 0.0F) return;
    const int starts = effort == Effort::Fast ? 1 : effort == Effort::Default ? 2 : 6;
    const int rounds = effort == Effort::Max ? 3 : 1;
    const int reach = effort == Effort::Fast ? 0 : 1;
    for (int start = 0; start < starts; ++start) {
      const float end = static_cast<float>(start % 2 == 0 ? kScaleLow : -kScaleLow - 1);
      const int step = start / 2;  // both ends of the scales in turn
      const float inside = static_cast<float>(step) * (kScaleLow == -32 ? 1.0F : 3.0F);
      try_super(tile, half_scale(largest / (end < 0.0F ? end + inside : end - inside)), free, reach, rounds,
                best);
    }
    if (effort != Effort::Fast) second_look(tile, covering, free, best);
  }
  void refit(const Tile& tile) {
    if (d == 0.0F) return;
    const F free = refine_scale<kLanes>(tile, levels, scale * set(d), 1);
    F chosen;
    choose_scales(tile, d, free, 1, chosen);
    scale = chosen;
    d = half_scale(fit_super(tile, d, chosen));
  }
};

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_SUPER_FIT_INL_H_

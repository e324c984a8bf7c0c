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

  // Error of the lane's group when it is coded with the step.
  HWY_INLINE F error_at(const Tile& tile, F step) const {
    const F inverse = inverse_or_zero(step);
    F error = zero();
    for (int k = 0; k < 16; ++k) {
      const F x = load(tile.target + 16 * k);
      const F e = fnma(step, levels.nearest(x * inverse), x);
      error = fma(load(tile.v + 16 * k) * e, e, error);
    }
    return group_sum<kLanes>(error);
  }

  // The best integer scales near `wanted` / super, and the error of the tile with them.
  HWY_INLINE float choose_scales(const Tile& tile, float super, F wanted, int reach, F& chosen) const {
    const F middle = clamp(::quantfit::kernels::HWY_NAMESPACE::round(wanted * set(1.0F / super)),
                           set(static_cast<float>(kScaleLow)), set(static_cast<float>(-kScaleLow - 1)));
    F best = set(3e38F);
    chosen = middle;
    for (int offset = -reach; offset <= reach; ++offset) {
      const F candidate = clamp(middle + set(static_cast<float>(offset)), set(static_cast<float>(kScaleLow)),
                                set(static_cast<float>(-kScaleLow - 1)));
      const F error = error_at(tile, candidate * set(super));
      const M better = error < best;
      best = select(better, error, best);
      chosen = select(better, candidate, chosen);
    }
    return sum(best);
  }

  // d by least squares over all groups, codes as rounded for the present d.
  HWY_INLINE float fit_super(const Tile& tile, float super, F chosen) const {
    const ScaleSums sums = scale_sums<kLanes>(tile, levels, inverse_or_zero(chosen * set(super)));
    const float numerator = sum(chosen * sums.xl);
    const float denominator = sum(chosen * chosen * sums.ll);
    return denominator > 0.0F ? numerator / denominator : super;
  }

  HWY_INLINE void fit(const Tile& tile, Effort effort, ScaleGrid grid) {
    const F free = refine_scale<kLanes>(tile, levels, search_scale<kLanes>(tile, levels, grid),
                                        effort == Effort::Max ? 2 : 1);
    const float most = absolute_max(free);
    d = 0.0F;
    scale = zero();
    if (most == 0.0F) return;
    // The largest scale may sit at either end of the integers, or a little inside.
    const float largest = max_lane(free) == most ? most : -most;
    float best = 3e38F;
    const int starts = effort == Effort::Fast ? 1 : effort == Effort::Default ? 2 : 6;
    const int rounds = effort == Effort::Max ? 3 : effort == Effort::Default ? 2 : 1;
    const int reach = effort == Effort::Fast ? 0 : 1;
    for (int start = 0; start < starts; ++start) {
      const float end = start % 2 == 0 ? static_cast<float>(kScaleLow) : static_cast<float>(-kScaleLow - 1);
      const float inside = static_cast<float>(start / 2) * (kScaleLow == -32 ? 1.0F : 3.0F);
      float super = half_scale(largest / (end + (end < 0.0F ? inside : -inside)));
      for (int round = 0; round < rounds; ++round) {
        F chosen;
        const float error = choose_scales(tile, super, free, reach, chosen);
        if (error < best) {
          best = error;
          d = super;
          scale = chosen;
        }
        super = half_scale(fit_super(tile, super, chosen));
      }
      F chosen;
      const float error = choose_scales(tile, super, free, 0, chosen);
      if (error < best) {
        best = error;
        d = super;
        scale = chosen;
      }
    }
  }
  HWY_INLINE void refit(const Tile& tile) {
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

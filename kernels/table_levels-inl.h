// Levels that a table of up to sixteen values gives, for the end of encode_tiles (see UniformLevels).
// Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_TABLE_LEVELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_TABLE_LEVELS_INL_H_
#undef QUANTFIT_TABLE_LEVELS_INL_H_
#else
#define QUANTFIT_TABLE_LEVELS_INL_H_
#endif

#include "kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// Levels step * table[code] for codes 0 .. last, kept as floats.
struct TableLevels {
  F step;
  F values;       // ascending
  float last;     // the largest code
  float spacing;  // usual distance of neighbouring entries
  HWY_INLINE F value(F code) const { return lookup16(values, to_int(code)) * step; }
  HWY_INLINE F neighbour(F code, F direction) const {
    return clamp(code + select(step < zero(), -direction, direction), zero(), set(last));
  }
  HWY_INLINE F typical_step() const { return abs(step) * set(spacing); }
};

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_TABLE_LEVELS_INL_H_

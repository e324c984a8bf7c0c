// Rows of any length on sixteen lanes: groups of sixteen values, the last one padded with zeros, and sums
// over a row in one fixed order. Included once per target, after kernels/lanes-inl.h.

#if defined(QUANTFIT_MATH_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_MATH_ROWS_INL_H_
#undef QUANTFIT_MATH_ROWS_INL_H_
#else
#define QUANTFIT_MATH_ROWS_INL_H_
#endif

#include "kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// n padded to whole groups.
HWY_INLINE std::size_t padded_width(std::size_t n) {
  return (n + 15) / 16 * 16;
}

// p[0 .. count - 1], `fill` in the lanes beyond; count <= 16.
HWY_INLINE F load_first(const float* p, std::size_t count, float fill = 0.0F) {
  if (count >= 16) return load(p);
  HWY_ALIGN float lanes[16];
  store(set(fill), lanes);
  std::memcpy(lanes, p, count * sizeof(float));
  return load(lanes);
}
HWY_INLINE void store_first(F a, float* p, std::size_t count) {
  if (count >= 16) {
    store(a, p);
    return;
  }
  HWY_ALIGN float lanes[16];
  store(a, lanes);
  std::memcpy(p, lanes, count * sizeof(float));
}

// Four sums of sixteen lanes; group g of a row goes to sum g mod 4. total() = (0 + 1) + (2 + 3), then the
// tree of lanes.
struct RowSum {
  F part[4];
  HWY_INLINE RowSum() { part[0] = part[1] = part[2] = part[3] = zero(); }
  HWY_INLINE float total() const { return sum((part[0] + part[1]) + (part[2] + part[3])); }
};

// A sum over a row; `op` adds the terms of one group.
// Op has: HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const.
template <class Op>
HWY_INLINE float sum_row(std::size_t n, const Op& op) {
  RowSum sums;
  std::size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    op(i, 16, sums.part[0]);
    op(i + 16, 16, sums.part[1]);
    op(i + 32, 16, sums.part[2]);
    op(i + 48, 16, sums.part[3]);
  }
  for (std::size_t g = 0; i < n; i += 16, ++g) op(i, n - i, sums.part[g]);
  return sums.total();
}

struct SumOfProducts {
  const float* a;
  const float* b;
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    sum = fma(load_first(a + first, count), load_first(b + first, count), sum);
  }
};
HWY_INLINE float dot(const float* a, const float* b, std::size_t n) {
  return sum_row(n, SumOfProducts{a, b});
}

struct SumOfValues {
  const float* a;
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    sum = sum + load_first(a + first, count);
  }
};

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_MATH_ROWS_INL_H_

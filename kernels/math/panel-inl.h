// The inner loop of every matrix product: a tile of a small matrix times a panel of thirty-two columns.
//
//   c[r][l] = (c[r][l] if kAdd) + sum over t < steps of a(r, t) * b[t][l],   a(r, t) = a[r * kRowStride + t *
//   kStepStride]
//
// summed by fused multiply-adds in rising t from zero; so the tile's size, which follows the registers,
// changes no bit. Lanes are columns l; each is a sum of its own.
//
// Registers: 12 x 32 sums on AVX-512 (24 of 32, two for b, one for a): twelve independent chains per
// multiply-add unit cover its latency of four, and a step loads 2 + 12 operands for 24 multiply-adds. 6 x 16
// on AVX2 (12 of 16 registers), on NEON 24 of 32. Included once per target, after kernels/lanes-inl.h.

#if defined(QUANTFIT_MATH_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_MATH_PANEL_INL_H_
#undef QUANTFIT_MATH_PANEL_INL_H_
#else
#define QUANTFIT_MATH_PANEL_INL_H_
#endif

#include <hwy/cache_control.h>

#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

inline constexpr std::size_t kPanelLanes = 32;
inline constexpr int kTileVectors = !QF_SCALAR_LANES && kParts == 1 ? 2 : 1;
inline constexpr int kTileRows = QF_SCALAR_LANES ? 4 : kParts == 1 ? 12 : 6;
// What remains of the rows is done in tiles of this height; up to kRestRows - 1 rows beyond are computed too,
// so a and c need room for them.
inline constexpr int kRestRows = QF_SCALAR_LANES ? 1 : kParts == 1 ? 4 : 2;
// Panels are padded to a multiple of this many rows.
inline constexpr std::size_t kPanelRowPadding = 12;
// From one row of a panel of weights, keys or values (at most 256 values wide) to the next: an odd number of
// cache lines, so that a column of the panel spreads over all sets of the first-level cache.
inline constexpr std::size_t kPanelStride = 272;

// Where every step meets another cache line, it is asked for this many steps before.
inline constexpr std::size_t kPrefetchSteps = 12;

template <int kRows, int kVectors, std::size_t kRowStride, std::size_t kStepStride, bool kAdd>
HWY_INLINE void tile_product(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, std::size_t steps,
                             float* HWY_RESTRICT c) {
  // What is on its way while this tile begins: the sums, and the first values of the next rows.
  for (int r = 0; r < kRows; ++r) {
    if (kAdd) hwy::Prefetch(c + static_cast<std::size_t>(r) * kPanelLanes);
    if (kStepStride == 1) hwy::Prefetch(a + static_cast<std::size_t>(r + kRows) * kRowStride);
  }
  F sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[r][v] = zero();
  for (std::size_t t = 0; t < steps; ++t) {
    if (kStepStride > 1) hwy::Prefetch(a + kPrefetchSteps * kStepStride);
    F column[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const F value = set(a[static_cast<std::size_t>(r) * kRowStride]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(value, column[v], sums[r][v]);
    }
    a += kStepStride;
    b += kPanelLanes;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + static_cast<std::size_t>(r) * kPanelLanes + 16 * v;
      store(kAdd ? load(to) + sums[r][v] : sums[r][v], to);
    }
  }
}

template <int kVectors, std::size_t kRowStride, std::size_t kStepStride, bool kAdd>
HWY_NOINLINE void strip_product(std::size_t rows, const float* a, const float* b, std::size_t steps,
                                float* c) {
  std::size_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    tile_product<kTileRows, kVectors, kRowStride, kStepStride, kAdd>(a + r * kRowStride, b, steps,
                                                                     c + r * kPanelLanes);
  for (; r < rows; r += kRestRows)
    tile_product<kRestRows, kVectors, kRowStride, kStepStride, kAdd>(a + r * kRowStride, b, steps,
                                                                     c + r * kPanelLanes);
}

// b: steps x 32, c: rows (padded) x 32, both without gaps; only the first `lanes` columns are wanted, but all
// that share a vector with them are computed.
template <std::size_t kRowStride, std::size_t kStepStride>
HWY_INLINE void panel_product(std::size_t rows, std::size_t lanes, std::size_t steps, const float* a,
                              const float* b, bool add, float* c) {
  if (kTileVectors == 2 && lanes > 16) {
    if (add) {
      strip_product<kTileVectors, kRowStride, kStepStride, true>(rows, a, b, steps, c);
    } else {
      strip_product<kTileVectors, kRowStride, kStepStride, false>(rows, a, b, steps, c);
    }
    return;
  }
  for (std::size_t first = 0; first < lanes; first += 16) {
    if (add) {
      strip_product<1, kRowStride, kStepStride, true>(rows, a, b + first, steps, c + first);
    } else {
      strip_product<1, kRowStride, kStepStride, false>(rows, a, b + first, steps, c + first);
    }
  }
}

// Columns of x as rows of a panel: to[k * 32 + t] = x[t * stride + k] for t < rows (at most 32), k < columns;
// zero for the other t.
HWY_INLINE void pack_transposed(const float* x, std::size_t stride, std::size_t rows, std::size_t columns,
                                float* to) {
  for (std::size_t t0 = 0; t0 < kPanelLanes; t0 += 16) {
    const std::size_t count = rows <= t0 ? 0 : std::min<std::size_t>(16, rows - t0);
    std::size_t k = 0;
    if (count == 16 && stride < (std::size_t{1} << 26)) {
      std::int32_t offset[16];
      for (int l = 0; l < 16; ++l)
        offset[l] = static_cast<std::int32_t>(static_cast<std::size_t>(l) * stride);
      for (; k + 16 <= columns; k += 16) {
        F block[16];
        load_transposed(x + t0 * stride + k, offset, block);
        for (std::size_t e = 0; e < 16; ++e) store(block[e], to + (k + e) * kPanelLanes + t0);
      }
    }
    for (; k < columns; ++k) {
      for (std::size_t t = 0; t < count; ++t) to[k * kPanelLanes + t0 + t] = x[(t0 + t) * stride + k];
      for (std::size_t t = count; t < 16; ++t) to[k * kPanelLanes + t0 + t] = 0.0F;
    }
  }
}

// The inverse: to[t * stride + j] = (to[..] if add) + from[j * 32 + t] for t < rows (at most 32), j <
// columns. `from` has room for columns padded to 16.
HWY_INLINE void unpack_transposed(const float* from, std::size_t rows, std::size_t columns, bool add,
                                  float* to, std::size_t stride) {
  std::int32_t offset[16];
  for (int l = 0; l < 16; ++l) offset[l] = l * static_cast<std::int32_t>(kPanelLanes);
  for (std::size_t j = 0; j < columns; j += 16) {
    const std::size_t width = std::min<std::size_t>(16, columns - j);
    for (std::size_t t0 = 0; t0 < rows; t0 += 16) {
      const std::size_t count = std::min<std::size_t>(16, rows - t0);
      F block[16];
      load_transposed(from + j * kPanelLanes + t0, offset, block);
      for (std::size_t e = 0; e < count; ++e) {
        float* out = to + (t0 + e) * stride + j;
        store_first(add ? load_first(out, width) + block[e] : block[e], out, width);
      }
    }
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_MATH_PANEL_INL_H_

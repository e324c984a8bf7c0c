// Encoders of the formats with a half-precision scale per 32 weights: Q4_0, Q5_0, Q8_0 (w = d c) and
// Q4_1, Q5_1 (w = d c + m).
//
// A block is a pair of lanes of a tile. Several scales are tried for all blocks of a tile at once; the codes
// of each are scored by what least squares would make of them, the best goes through rounds of rounding and
// least squares. The scale is rounded to half before the codes are chosen.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/affine_encode.cpp"
#include <hwy/foreach_target.h>
// foreach_target first: it decides which targets the following headers are compiled for.
#include "kernels/blocks.h"
#include "kernels/group_fit-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/targets.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

constexpr std::size_t id(Format format) {
  return static_cast<std::size_t>(format);
}

// Codes of a tile, minus `kLow`, as bytes (negative ones in twos complement) in the order of the row.
template <int kLow>
HWY_INLINE void code_bytes(const Tile& tile, std::uint8_t* bytes) {
  I codes[16];
  for (int k = 0; k < 16; ++k)
    codes[k] = (to_int(load(tile.code + 16 * k)) - set(kLow)) & set(std::int32_t{255});
  store_transposed_u8(codes, bytes);
}

HWY_INLINE ScaleGrid scale_grid(Effort effort) {
  if (effort == Effort::Fast) return {0.92F, 0.06F, 5};
  if (effort == Effort::Default) return {0.85F, 0.05F, 10};
  return {0.8F, 0.02F, 36};
}
HWY_INLINE int rounds_of(Effort effort) {
  return effort == Effort::Max ? 4 : effort == Effort::Default ? 2 : 1;
}

// w = d c for kLow <= c <= kHigh.
template <class Block, int kLow, int kHigh>
struct ScaledCodec {
  static constexpr float kFlush = 1e-12F;
  static constexpr IntegerLevels kLevels = {kLow, kHigh};
  F d;

  HWY_INLINE void fit(const Tile& tile, Effort effort) {
    const F best = search_scale<2>(tile, kLevels, scale_grid(effort));
    d = refine_half_scale<2>(tile, kLevels, best, rounds_of(effort));
  }
  HWY_INLINE void refit(const Tile& tile, Effort) { d = refine_half_scale<2>(tile, kLevels, d, 1); }
  HWY_INLINE UniformLevels round(Tile& tile) {
    const UniformLevels levels{d, zero(), kLevels.low, kLevels.high};
    round_uniform(tile, levels);
    return levels;
  }
  static std::size_t bytes(std::size_t columns) { return columns / 32 * sizeof(Block); }
  HWY_INLINE void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN std::uint8_t codes[256];
    ::quantfit::kernels::HWY_NAMESPACE::store(d, scales);
    if constexpr (std::is_same_v<Block, BlockQ8_0>) {
      code_bytes<0>(tile, codes);
    } else {
      code_bytes<kLow>(tile, codes);
    }
    auto* block = reinterpret_cast<Block*>(out);
    for (std::size_t b = 0; b < columns / 32; ++b, ++block) {
      block->d.set(scales[2 * b]);
      if constexpr (std::is_same_v<Block, BlockQ8_0>) {
        std::memcpy(block->qs.data(), codes + 32 * b, 32);
      } else {
        pack_nibbles(codes + 32 * b, 32, block->qs.data());
        if constexpr (std::is_same_v<Block, BlockQ5_0>) block->qh.set(pack_fifth_bits(codes + 32 * b));
      }
    }
  }
};

// w = d c + m for 0 <= c <= kHigh.
template <class Block, std::int16_t kHigh>
struct AffineCodec {
  static constexpr float kFlush = 1e-12F;
  F d;
  F m;

  HWY_INLINE void fit(const Tile& tile, Effort effort) {
    const AffineSums sums = affine_sums<2>(tile);
    const AffineFit best =
        search_affine<2, false>(tile, kHigh, sums, scale_grid(effort), effort == Effort::Fast ? 1 : 3);
    take(tile, sums, best, rounds_of(effort));
  }
  HWY_INLINE void refit(const Tile& tile, Effort) {
    AffineFit present;
    present.scale = d;
    present.offset = m;
    present.explained = zero();
    take(tile, affine_sums<2>(tile), present, 1);
  }
  // Scale to half first, then the offset that suits the rounded scale.
  HWY_INLINE void take(const Tile& tile, const AffineSums& sums, AffineFit start, int rounds) {
    const AffineFit fitted = refine_affine<2, false>(tile, kHigh, sums, start, rounds);
    d = half_step(fitted.scale);
    const F inverse = inverse_or_zero(d);
    const F base = -fitted.offset * inverse;
    F codes = zero();
    for (int k = 0; k < 16; ++k) {
      const F scaled = fma(load(tile.target + 16 * k), inverse, base);
      codes = fma(
          load(tile.v + 16 * k),
          ::quantfit::kernels::HWY_NAMESPACE::round(clamp(scaled, zero(), set(static_cast<float>(kHigh)))),
          codes);
    }
    m = rounded_to_half(fnma(d, group_sum<2>(codes), sums.x) * inverse_or_zero(sums.v));
  }
  HWY_INLINE UniformLevels round(Tile& tile) {
    const UniformLevels levels{d, m, 0.0F, static_cast<float>(kHigh)};
    round_uniform(tile, levels);
    return levels;
  }
  static std::size_t bytes(std::size_t columns) { return columns / 32 * sizeof(Block); }
  HWY_INLINE void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN float offsets[16];
    HWY_ALIGN std::uint8_t codes[256];
    ::quantfit::kernels::HWY_NAMESPACE::store(d, scales);
    ::quantfit::kernels::HWY_NAMESPACE::store(m, offsets);
    code_bytes<0>(tile, codes);
    auto* block = reinterpret_cast<Block*>(out);
    for (std::size_t b = 0; b < columns / 32; ++b, ++block) {
      block->d.set(scales[2 * b]);
      block->m.set(offsets[2 * b]);
      pack_nibbles(codes + 32 * b, 32, block->qs.data());
      if constexpr (std::is_same_v<Block, BlockQ5_1>) block->qh.set(pack_fifth_bits(codes + 32 * b));
    }
  }
};

}  // namespace

void fill_affine_encoders(RowKernels& table) {
  auto& encode = table.encode;
  encode[id(Format::Q4_0)] = encode_tiles<ScaledCodec<BlockQ4_0, -8, 7>>;
  encode[id(Format::Q5_0)] = encode_tiles<ScaledCodec<BlockQ5_0, -16, 15>>;
  encode[id(Format::Q8_0)] = encode_tiles<ScaledCodec<BlockQ8_0, -127, 127>>;
  encode[id(Format::Q4_1)] = encode_tiles<AffineCodec<BlockQ4_1, 15>>;
  encode[id(Format::Q5_1)] = encode_tiles<AffineCodec<BlockQ5_1, 31>>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
QF_DEFINE_FILL(fill_affine_encoders)
#endif

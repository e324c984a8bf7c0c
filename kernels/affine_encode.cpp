// Encoders of the formats with a half-precision scale per 32 weights: Q4_0, Q5_0, Q8_0 (w = d c) and
// Q4_1, Q5_1 (w = d c + m).
//
// A block is a pair of lanes of a tile. Several scales are tried for all blocks of a tile at once; the codes
// of each are scored by what least squares would make of them, the best goes through rounds of rounding and
// least squares. The scale is rounded to half before the codes are chosen.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/blocks.h"
#include "kernels/error_feedback-inl.h"
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
void code_bytes(const Tile& tile, std::uint8_t* bytes) {
  I codes[16];
  for (int k = 0; k < 16; ++k)
    codes[k] = (to_int(load(tile.code + 16 * k)) - set(kLow)) & set(std::int32_t{255});
  store_transposed_u8(codes, bytes);
}

// The grids were chosen on rows of several kinds: with many levels each trial is a draw in a lottery whose
// prizes are spread wide, with few levels the cut of unimportant large weights counts.
template <int kLevels>
HWY_INLINE ScaleGrid scale_grid(Effort effort) {
  if (kLevels == 8) {
    if (effort == Effort::Fast) return {-0.6F, 0.4F, 3, 1.1F, 0.15F, 2};
    if (effort == Effort::Default) return {-0.9F, 0.3F, 7, 1.12F, 0.1F, 4};
    return {-0.9F, 0.1F, 19, 1.1F, 0.04F, 14};
  }
  if (kLevels == 16) {
    if (effort == Effort::Fast) return {-1.4F, 0.7F, 3, 1.1F, 0.15F, 2};
    if (effort == Effort::Default) return {-2.0F, 0.35F, 8, 1.1F, 0.12F, 4};
    return {-3.0F, 0.2F, 20, 1.06F, 0.04F, 14};
  }
  if (effort == Effort::Fast) return {-8.0F, 2.0F, 4, 1.1F, 0.1F, 0};
  if (effort == Effort::Default) return {-12.0F, 1.4F, 9, 1.1F, 0.1F, 0};
  return {-24.0F, 0.6F, 42, 1.04F, 0.04F, 6};
}
template <int kLevels>
HWY_INLINE ScaleGrid affine_grid(Effort effort) {
  if (effort == Effort::Fast) return {-0.6F, 0.6F, 3, 1.15F, 0.3F, 2};
  if (kLevels == 15) {
    if (effort == Effort::Default) return {-0.8F, 0.4F, 5, 1.1F, 0.12F, 5};
    return {-1.6F, 0.1F, 25, 1.06F, 0.05F, 14};
  }
  if (effort == Effort::Default) return {-2.4F, 0.4F, 8, 1.1F, 0.2F, 3};
  return {-3.2F, 0.2F, 21, 1.06F, 0.05F, 14};
}
HWY_INLINE int rounds_of(Effort effort) {
  return effort == Effort::Max ? 4 : effort == Effort::Default ? 2 : 1;
}

// w = d c for kLow <= c <= kHigh.
template <class Block, int kLow, int kHigh>
struct ScaledCodec {
  static constexpr IntegerLevels kLevels = {kLow, kHigh, -kLow};
  F d;

  void fit(const Tile& tile, Effort effort) {
    const F best =
        search_scale<2>(tile, kLevels, scale_grid<-kLow>(effort), effort != Effort::Fast || kLow != -8);
    d = better_than_plain<2>(tile, kLevels, refine_half_scale<2>(tile, kLevels, best, rounds(effort)),
                             effort != Effort::Fast);
    if (kHigh != 127 && effort != Effort::Fast) d = second_look<2>(tile, kLevels, d);
  }
  // With 255 levels a shift of the targets leaves the scale where it is.
  static HWY_INLINE int rounds(Effort effort) {
    if (kHigh == 127 && effort != Effort::Max) return 1;
    return rounds_of(effort);
  }
  HWY_INLINE void refit(const Tile& tile, Effort effort) {
    if (kHigh == 127 && effort != Effort::Max) return;
    d = refine_half_scale<2>(tile, kLevels, d, 1);
  }
  HWY_INLINE UniformLevels round(Tile& tile) {
    const UniformLevels levels{d, zero(), kLevels.low, kLevels.high};
    round_uniform(tile, levels);
    return levels;
  }
  static std::size_t bytes(std::size_t columns) { return columns / 32 * sizeof(Block); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
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
  F d;
  F m;

  void fit(const Tile& tile, Effort effort) {
    const AffineSums sums = affine_sums<2>(tile);
    const AffineFit best = search_affine<2, false>(tile, kHigh, sums, affine_grid<kHigh>(effort), 3);
    take(tile, sums, best, rounds_of(effort));
    // Plain rounding: the codes span the range. No result is worse.
    const F plain_d = half_step((sums.most - sums.least) * set(1.0F / static_cast<float>(kHigh)));
    const F plain_m = rounded_to_half(sums.least);
    const M worse = error_with(tile, plain_d, plain_m) < error_with(tile, d, m);
    d = select(worse, plain_d, d);
    m = select(worse, plain_m, m);
    if (effort == Effort::Default) second_look(tile, sums);
  }
  // Unusual groups get every trial of the highest effort.
  HWY_NOINLINE void second_look(const Tile& tile, const AffineSums& sums) {
    const F error = error_with(tile, d, m);
    if (!any(unusual_groups<2>(tile, error, error_with(tile, zero(), zero())))) return;
    const F first_d = d;
    const F first_m = m;
    take(tile, sums, search_affine<2, false>(tile, kHigh, sums, affine_grid<kHigh>(Effort::Max), 3),
         rounds_of(Effort::Max));
    const M worse = error < error_with(tile, d, m);
    d = select(worse, first_d, d);
    m = select(worse, first_m, m);
  }
  static F error_with(const Tile& tile, F step, F offset) {
    const F inverse = inverse_or_zero(step);
    const F base = -offset * inverse;
    F error = zero();
    for (int k = 0; k < 16; ++k) {
      const F x = load(tile.target + 16 * k);
      const F code = ::quantfit::kernels::HWY_NAMESPACE::round(
          clamp(fma(x, inverse, base), zero(), set(static_cast<float>(kHigh))));
      const F e = fma(step, code, offset) - x;
      error = fma(load(tile.v + 16 * k) * e, e, error);
    }
    return group_sum<2>(error);
  }
  void refit(const Tile& tile, Effort) {
    AffineFit present;
    present.scale = d;
    present.offset = m;
    present.explained = zero();
    take(tile, affine_sums<2>(tile), present, 1);
  }
  // Scale to half first, then the offset that suits the rounded scale.
  void take(const Tile& tile, const AffineSums& sums, AffineFit start, int rounds) {
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
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
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
  encode[id(Format::Q4_0)] = encode_tiles_or_feedback<ScaledCodec<BlockQ4_0, -8, 7>>;
  encode[id(Format::Q5_0)] = encode_tiles_or_feedback<ScaledCodec<BlockQ5_0, -16, 15>>;
  encode[id(Format::Q8_0)] = encode_tiles_or_feedback<ScaledCodec<BlockQ8_0, -127, 127>>;
  encode[id(Format::Q4_1)] = encode_tiles_or_feedback<AffineCodec<BlockQ4_1, 15>>;
  encode[id(Format::Q5_1)] = encode_tiles_or_feedback<AffineCodec<BlockQ5_1, 31>>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

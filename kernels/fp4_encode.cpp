// Encoders of the four-bit floating-point formats: MXFP4 (a power of two per 32 weights) and NVFP4 (an
// eight-bit float per 16 weights).

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/blocks.h"
#include "kernels/codebooks.h"
#include "kernels/error_feedback-inl.h"
#include "kernels/group_fit-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/table_levels-inl.h"
#include "kernels/targets.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

constexpr std::size_t id(Format format) {
  return static_cast<std::size_t>(format);
}

// The fifteen levels -12, -8, -6, -4, -3, ..., 12 (E2M1 numbers doubled).
struct Fp4Levels {
  static constexpr float low = -12.0F;
  static constexpr float high = 12.0F;
  static constexpr float resolution = 6.0F;
  // Levels are 1 apart below 4, then 2, then 4.
  HWY_INLINE F magnitude(F size) const {
    const F bounded = min(size, set(12.0F));
    const F step = select(bounded < set(4.0F), set(1.0F), select(bounded < set(8.0F), set(2.0F), set(4.0F)));
    const F per_step =
        select(bounded < set(4.0F), set(1.0F), select(bounded < set(8.0F), set(0.5F), set(0.25F)));
    return round(bounded * per_step) * step;
  }
  HWY_INLINE F nearest(F scaled) const {
    const F size = magnitude(abs(scaled));
    return select(scaled < zero(), -size, size);
  }
};

// Codes 0..14 in ascending order of value; 7 is zero.
HWY_NOINLINE void round_fp4(Tile& tile, F scale) {
  const Fp4Levels levels;
  const F inverse = inverse_or_zero(scale);
  for (int k = 0; k < 16; ++k) {
    const F scaled = load(tile.target + 16 * k) * inverse;
    const F size = levels.magnitude(abs(scaled));
    const F place = select(size < set(5.0F), size, min(fma(size, set(0.5F), set(2.0F)), set(7.0F)));
    store(set(7.0F) + select(scaled < zero(), -place, place), tile.code + 16 * k);
  }
}

HWY_INLINE TableLevels fp4_table(F scale) {
  HWY_ALIGN static constexpr float kValues[16] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 12};
  return {scale, load(kValues), 14.0F, 1.5F};
}

// Nibbles: 0..7 for the levels from zero up, 8 + 1.. for the negative ones.
HWY_NOINLINE void fp4_bytes(const Tile& tile, std::uint8_t* bytes) {
  I codes[16];
  const I middle = set(std::int32_t{7});
  for (int k = 0; k < 16; ++k) {
    const I code = to_int(load(tile.code + 16 * k));
    codes[k] = select(code < middle, set(std::int32_t{15}) - code, code - middle);
  }
  store_transposed_u8(codes, bytes);
}

// w = 2^(e - 128) * level.
struct Mxfp4Codec {
  F scale;

  void fit(const Tile& tile, Effort effort) {
    F most = zero();
    for (int k = 0; k < 16; ++k) most = max(most, abs(load(tile.target + 16 * k)));
    most = group_max<2>(most);
    // The power of two at or below most / 12, its double (nothing is cut off) and its fractions.
    const F power =
        float_of_bits(bits_of(max(most, set(1e-30F)) * set(1.0F / 12.0F)) & set(std::int32_t{0x7F800000}));
    const Fp4Levels levels;
    F best = set(3e38F);
    scale = power;
    const int count = effort == Effort::Fast ? 2 : effort == Effort::Default ? 3 : 4;
    float multiple = 2.0F;
    for (int i = 0; i < count; ++i, multiple *= 0.5F) {
      const F candidate = power * set(multiple);
      const F error = scale_error<2>(tile, levels, candidate);
      const M better = error < best;
      best = select(better, error, best);
      scale = select(better, candidate, scale);
    }
  }
  HWY_INLINE void refit(const Tile&, Effort) {}
  HWY_INLINE TableLevels round(Tile& tile) const {
    round_fp4(tile, scale);
    return fp4_table(scale);
  }
  static std::size_t bytes(std::size_t columns) { return columns / 32 * sizeof(BlockMXFP4); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN std::uint8_t codes[256];
    HWY_ALIGN std::int32_t exponents[16];
    fp4_bytes(tile, codes);
    // 2^(e - 128) has the exponent field e - 1.
    store(shift_right<23>(bits_of(scale)) + set(std::int32_t{1}), exponents);
    auto* block = reinterpret_cast<BlockMXFP4*>(out);
    for (std::size_t b = 0; b < columns / 32; ++b, ++block) {
      block->e = static_cast<std::uint8_t>(exponents[2 * b]);
      pack_nibbles(codes + 32 * b, 32, block->qs.data());
    }
  }
};

// w = ue4m3(byte) / 2 * level.
struct Nvfp4Codec {
  I byte;
  F scale;

  static HWY_INLINE F scale_of(I bytes) { return gather(kUe4m3HalfScale.data(), bytes); }
  // The byte whose number is nearest to 2 `wanted` >= 0, saturated. Bytes 0..126 ascend with their numbers:
  // E4M3 with exponent bias 7, 120 less than that of a float.
  static HWY_INLINE I byte_of(F wanted) {
    const F number = wanted + wanted;
    const I normal =
        shift_right<20>(bits_of(number) + set(std::int32_t{1 << 19})) - set(std::int32_t{120 * 8});
    const I subnormal = to_int(min(number * set(512.0F), set(8.0F)));
    return min(select(number < set(0x1p-6F), subnormal, normal), set(std::int32_t{126}));
  }

  void choose(const Tile& tile, F wanted, int reach) {
    const Fp4Levels levels;
    const I middle = byte_of(abs(wanted));  // the levels are symmetric, the sign is theirs
    F best = set(3e38F);
    byte = middle;
    scale = scale_of(middle);
    for (int offset = -reach; offset <= reach; ++offset) {
      const I candidate = max(min(middle + set(offset), set(std::int32_t{126})), set(std::int32_t{0}));
      const F value = scale_of(candidate);
      const F error = scale_error<1>(tile, levels, value);
      const M better = error < best;
      best = select(better, error, best);
      byte = select(better, candidate, byte);
      scale = select(better, value, scale);
    }
  }
  void fit(const Tile& tile, Effort effort) {
    const Fp4Levels levels;
    const ScaleGrid grid = effort == Effort::Fast      ? ScaleGrid{-0.5F, 0.5F, 2, 1.2F, 0.25F, 2}
                           : effort == Effort::Default ? ScaleGrid{-0.8F, 0.4F, 5, 1.2F, 0.2F, 4}
                                                       : ScaleGrid{-2.0F, 0.2F, 16, 1.2F, 0.06F, 16};
    choose(tile, search_scale<1>(tile, levels, grid, false),
           effort == Effort::Fast  ? 0
           : effort == Effort::Max ? 3
                                   : 1);
    // Plain rounding; no result is worse.
    const I plain = byte_of(abs(covering_scales<1>(tile, levels).largest));
    const F value = scale_of(plain);
    const M better = scale_error<1>(tile, levels, value) < scale_error<1>(tile, levels, scale);
    byte = select(better, plain, byte);
    scale = select(better, value, scale);
  }
  HWY_INLINE void refit(const Tile& tile, Effort) {
    choose(tile, refine_scale<1>(tile, Fp4Levels(), scale, 1), 1);
  }
  HWY_INLINE TableLevels round(Tile& tile) const {
    round_fp4(tile, scale);
    return fp4_table(scale);
  }
  static std::size_t bytes(std::size_t columns) { return columns / 64 * sizeof(BlockNVFP4); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN std::uint8_t codes[256];
    HWY_ALIGN std::uint8_t scales[16];
    fp4_bytes(tile, codes);
    store_u8(byte, scales);
    auto* block = reinterpret_cast<BlockNVFP4*>(out);
    for (std::size_t b = 0; b < columns / 64; ++b, ++block) {
      for (std::size_t s = 0; s < 4; ++s) {
        block->scales[s] = scales[4 * b + s];
        pack_nibbles(codes + 64 * b + 16 * s, 16, block->qs.data() + 8 * s);
      }
    }
  }
};

}  // namespace

void fill_fp4_encoders(RowKernels& table) {
  table.encode[id(Format::MXFP4)] = encode_tiles_or_feedback<Mxfp4Codec>;
  table.encode[id(Format::NVFP4)] = encode_tiles_or_feedback<Nvfp4Codec>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

// Encoders of the formats with two to four levels and one half-precision scale: Q1_0, Q2_0, TQ1_0, TQ2_0.

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

// With so few levels the largest weight says little about the best scale; the weighted root mean square does.
// Multiples of it to try, for both signs where the levels are not symmetric.
template <int kLanes>
F search_from_rms(const Tile& tile, const IntegerLevels& levels, Effort effort) {
  F energy = zero();
  F weight = zero();
  for (int k = 0; k < 16; ++k) {
    const F x = load(tile.target + 16 * k);
    const F v = load(tile.v + 16 * k);
    energy = fma(v * x, x, energy);
    weight = weight + v;
  }
  const F rms = sqrt(group_sum<kLanes>(energy) * inverse_or_zero(group_sum<kLanes>(weight)));
  const F inverse_rms = inverse_or_zero(rms);
  const int count = effort == Effort::Fast ? 3 : effort == Effort::Default ? 6 : 24;
  const float first = 0.5F;
  const float last = 1.8F;
  F best = zero();
  F best_scale = zero();
  for (int orientation = 0; orientation < (levels.low == -levels.high ? 1 : 2); ++orientation) {
    const float sign = orientation == 0 ? 1.0F : -1.0F;
    for (int i = 0; i < count; ++i) {
      const float multiple = first + (last - first) * static_cast<float>(i) / static_cast<float>(count - 1);
      const ScaleSums sums = scale_sums<kLanes>(tile, levels, inverse_rms * set(sign * multiple));
      const F scale = sums.scale();
      const M better = best < sums.xl * scale;
      best = select(better, sums.xl * scale, best);
      best_scale = select(better, scale, best_scale);
    }
  }
  return best_scale;
}

// w = d c, kLow <= c <= kHigh, a scale for kLanes lanes.
template <int kLow, int kHigh, int kLanes>
struct FewLevels {
  static constexpr IntegerLevels kLevels = {kLow, kHigh, kHigh};
  F d;

  void fit(const Tile& tile, Effort effort) {
    const int rounds = effort == Effort::Max ? 5 : effort == Effort::Default ? 2 : 1;
    d = better_than_plain<kLanes>(
        tile, kLevels,
        refine_half_scale<kLanes>(tile, kLevels, search_from_rms<kLanes>(tile, kLevels, effort), rounds),
        effort != Effort::Fast);
  }
  HWY_INLINE void refit(const Tile& tile, Effort) { d = refine_half_scale<kLanes>(tile, kLevels, d, 1); }
  HWY_INLINE UniformLevels round(Tile& tile) {
    const UniformLevels levels{d, zero(), kLevels.low, kLevels.high};
    round_uniform(tile, levels);
    return levels;
  }
};

HWY_NOINLINE void few_codes(const Tile& tile, std::uint8_t* bytes) {
  I codes[16];
  for (int k = 0; k < 16; ++k) codes[k] = to_int(load(tile.code + 16 * k)) + set(std::int32_t{1});
  store_transposed_u8(codes, bytes);
}

struct Q2_0Codec : FewLevels<-1, 2, 4> {
  static std::size_t bytes(std::size_t columns) { return columns / 64 * sizeof(BlockQ2_0); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN std::uint8_t codes[256];
    store(d, scales);
    few_codes(tile, codes);
    auto* block = reinterpret_cast<BlockQ2_0*>(out);
    for (std::size_t b = 0; b < columns / 64; ++b, ++block) {
      block->d.set(scales[4 * b]);
      const std::uint8_t* c = codes + 64 * b;
      for (std::size_t k = 0; k < 16; ++k, c += 4)
        block->qs[k] = static_cast<std::uint8_t>(c[0] | (c[1] << 2) | (c[2] << 4) | (c[3] << 6));
    }
  }
};

struct Tq1_0Codec : FewLevels<-1, 1, 16> {
  static std::size_t bytes(std::size_t) { return sizeof(BlockTQ1_0); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN std::uint8_t c[256];
    store(d, scales);
    few_codes(tile, c);
    auto& block = *reinterpret_cast<BlockTQ1_0*>(out);
    block.d.set(scales[0]);
    for (std::size_t m = 0; m < 32; ++m)
      block.qs[m] = pack_trits(c[m], c[m + 32], c[m + 64], c[m + 96], c[m + 128]);
    for (std::size_t m = 0; m < 16; ++m)
      block.qs[32 + m] = pack_trits(c[160 + m], c[176 + m], c[192 + m], c[208 + m], c[224 + m]);
    for (std::size_t m = 0; m < 4; ++m)
      block.qh[m] = pack_trits(c[240 + m], c[244 + m], c[248 + m], c[252 + m], 0);
  }
};

struct Tq2_0Codec : FewLevels<-1, 1, 16> {
  static std::size_t bytes(std::size_t) { return sizeof(BlockTQ2_0); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN std::uint8_t codes[256];
    store(d, scales);
    few_codes(tile, codes);
    auto& block = *reinterpret_cast<BlockTQ2_0*>(out);
    block.d.set(scales[0]);
    pack_2_bit(codes, block.qs.data());
  }
};

// w = d where the bit is set, else -d: the sign of the weight, and the weighted mean magnitude as scale.
struct Q1_0Codec {
  F d;

  // Written out, as the compiler's own would not be for this instruction set.
  Q1_0Codec() : d(zero()) {}
  void fit(const Tile& tile, Effort) {
    F size = zero();
    F weight = zero();
    for (int k = 0; k < 16; ++k) {
      const F v = load(tile.v + 16 * k);
      size = fma(v, abs(load(tile.target + 16 * k)), size);
      weight = weight + v;
    }
    d = rounded_to_half(group_sum<8>(size) * inverse_or_zero(group_sum<8>(weight)));
  }
  HWY_INLINE void refit(const Tile& tile, Effort effort) { fit(tile, effort); }
  HWY_INLINE UniformLevels round(Tile& tile) const {
    for (int k = 0; k < 16; ++k)
      store(select(load(tile.target + 16 * k) < zero(), zero(), set(1.0F)), tile.code + 16 * k);
    return {d + d, -d, 0.0F, 1.0F};
  }
  static std::size_t bytes(std::size_t columns) { return columns / 128 * sizeof(BlockQ1_0); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN std::uint8_t codes[256];
    store(d, scales);
    I bits_of_codes[16];
    for (int k = 0; k < 16; ++k) bits_of_codes[k] = to_int(load(tile.code + 16 * k));
    store_transposed_u8(bits_of_codes, codes);
    auto* block = reinterpret_cast<BlockQ1_0*>(out);
    for (std::size_t b = 0; b < columns / 128; ++b, ++block) {
      block->d.set(scales[8 * b]);
      for (std::size_t k = 0; k < 16; ++k) {
        unsigned byte = 0;
        for (std::size_t i = 0; i < 8; ++i) byte |= unsigned{codes[128 * b + 8 * k + i]} << i;
        block->qs[k] = static_cast<std::uint8_t>(byte);
      }
    }
  }
};

}  // namespace

void fill_ternary_encoders(RowKernels& table) {
  table.encode[id(Format::Q1_0)] = encode_tiles_or_feedback<Q1_0Codec>;
  table.encode[id(Format::Q2_0)] = encode_tiles_or_feedback<Q2_0Codec>;
  table.encode[id(Format::TQ1_0)] = encode_tiles_or_feedback<Tq1_0Codec>;
  table.encode[id(Format::TQ2_0)] = encode_tiles_or_feedback<Tq2_0Codec>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

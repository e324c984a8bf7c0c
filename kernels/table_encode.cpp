// Encoders of the formats whose levels are a table of sixteen values: IQ4_NL, IQ4_XS.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/blocks.h"
#include "kernels/codebooks.h"
#include "kernels/error_feedback-inl.h"
#include "kernels/group_fit-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/super_fit-inl.h"
#include "kernels/table_levels-inl.h"
#include "kernels/targets.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

constexpr std::size_t id(Format format) {
  return static_cast<std::size_t>(format);
}

// ---- The levels of IQ4_NL and IQ4_XS
// -----------------------------------------------------------------------------

// The nearest of the sixteen levels. A cubic maps the middle between levels j and j + 1 into [j + 0.37, j +
// 0.63], so its floor is the index or one less, and one comparison decides.
struct Iq4nlLevels {
  static constexpr bool kHasZero = false;
  static constexpr float low = -127.0F;
  static constexpr float high = 113.0F;
  static constexpr float resolution = 8.0F;
  F values;
  F middles;  // between entries j and j + 1

  HWY_INLINE Iq4nlLevels() {
    values = to_float(load_i8(kIq4nlValues.data()));
    HWY_ALIGN float v[17];
    store(values, v);
    v[16] = v[15];
    middles = (load(v) + load(v + 1)) * set(0.5F);
  }
  // Index of the nearest level, as integer.
  HWY_INLINE I index_of(F scaled) const {
    const F t = clamp(scaled, set(low), set(high));
    const F cubic = fma(fma(fma(t, set(-1.4931275e-6F), set(-1.2030665e-5F)), t, set(0.0817424109F)), t,
                        set(7.9038877F - 0.5F));
    const I floor = to_int(cubic);
    const I next = floor + set(std::int32_t{1});
    return select(lookup16(middles, floor) < t, next, floor);
  }
  HWY_INLINE F nearest(F scaled) const { return lookup16(values, index_of(scaled)); }
  // The levels the largest weight may sit on.
  [[nodiscard]] HWY_INLINE int ends() const { return 16; }
  [[nodiscard]] HWY_INLINE float end(int i) const {
    return static_cast<float>(kIq4nlValues[static_cast<std::size_t>(i)]);
  }
};

HWY_NOINLINE void round_iq4nl(Tile& tile, const Iq4nlLevels& levels, F step) {
  const F inverse = inverse_or_zero(step);
  for (int k = 0; k < 16; ++k)
    store(to_float(levels.index_of(load(tile.target + 16 * k) * inverse)), tile.code + 16 * k);
}

HWY_INLINE ScaleGrid scale_grid(Effort effort) {
  if (effort == Effort::Fast) return {-0.6F, 0.5F, 3, 1.2F, 0.2F, 1};
  if (effort == Effort::Default) return {-1.8F, 0.3F, 10, 1.2F, 0.12F, 3};
  return {-2.4F, 0.1F, 36, 1.2F, 0.05F, 12};
}

int rounds_of(Effort effort) {
  return effort == Effort::Max ? 4 : effort == Effort::Default ? 2 : 1;
}
HWY_INLINE void nibble_codes(const Tile& tile, std::uint8_t* bytes) {
  I codes[16];
  for (int k = 0; k < 16; ++k) codes[k] = to_int(load(tile.code + 16 * k));
  store_transposed_u8(codes, bytes);
}

struct Iq4nlCodec {
  Iq4nlLevels levels;
  F d;

  // Written out: an implicit constructor would not inherit the target's instruction set.
  HWY_INLINE Iq4nlCodec() : levels(), d(zero()) {}

  void fit(const Tile& tile, Effort effort) {
    const F best = search_scale<2>(tile, levels, scale_grid(effort), true);
    d = better_than_plain<2>(tile, levels, refine_half_scale<2>(tile, levels, best, rounds_of(effort)),
                             effort != Effort::Fast);
    if (effort != Effort::Fast) d = second_look<2>(tile, levels, d);
  }
  HWY_INLINE void refit(const Tile& tile, Effort) { d = refine_half_scale<2>(tile, levels, d, 1); }
  HWY_INLINE TableLevels round(Tile& tile) const {
    round_iq4nl(tile, levels, d);
    return {d, levels.values, 15.0F, 16.0F};
  }
  static std::size_t bytes(std::size_t columns) { return columns / 32 * sizeof(BlockIQ4_NL); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t columns) const {
    HWY_ALIGN float scales[16];
    HWY_ALIGN std::uint8_t codes[256];
    store(d, scales);
    nibble_codes(tile, codes);
    auto* block = reinterpret_cast<BlockIQ4_NL*>(out);
    for (std::size_t b = 0; b < columns / 32; ++b, ++block) {
      block->d.set(scales[2 * b]);
      pack_nibbles(codes + 32 * b, 32, block->qs.data());
    }
  }
};

struct Iq4xsCodec {
  SignedSuperFit<Iq4nlLevels, 2, -32> super;

  HWY_INLINE Iq4xsCodec() : super(Iq4nlLevels()) {}

  void fit(const Tile& tile, Effort effort) { super.fit(tile, effort, scale_grid(effort), true); }
  HWY_INLINE void refit(const Tile& tile, Effort) { super.refit(tile); }
  HWY_INLINE TableLevels round(Tile& tile) const {
    const F step = super.scale * set(super.d);
    round_iq4nl(tile, super.levels, step);
    return {step, super.levels.values, 15.0F, 16.0F};
  }
  static std::size_t bytes(std::size_t) { return sizeof(BlockIQ4_XS); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t) const {
    HWY_ALIGN std::uint8_t codes[256];
    HWY_ALIGN std::uint8_t lane_scales[16];
    nibble_codes(tile, codes);
    store_u8(to_int(super.scale) + set(std::int32_t{32}), lane_scales);
    std::uint8_t scales[8];
    for (std::size_t g = 0; g < 8; ++g) scales[g] = lane_scales[2 * g];
    auto& block = *reinterpret_cast<BlockIQ4_XS*>(out);
    block.d.set(super.d);
    block.set_scales(scales);
    for (std::size_t g = 0; g < 8; ++g) pack_nibbles(codes + 32 * g, 32, block.qs.data() + 16 * g);
  }
};

}  // namespace

void fill_table_encoders(RowKernels& table) {
  auto& encode = table.encode;
  encode[id(Format::IQ4_NL)] = encode_tiles_or_feedback<Iq4nlCodec>;
  encode[id(Format::IQ4_XS)] = encode_tiles_or_feedback<Iq4xsCodec>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

// Encoders of the K formats: super-blocks of 256 weights whose group scales (and
// minimums) are small integers.
//
// A super-block is a tile, its groups are lanes (Q2_K, Q3_K, Q6_K) or pairs of lanes (Q4_K, Q5_K). First
// every group gets its own best scale and offset, as if they were stored freely. Then the super-block scales
// are chosen: for a given d (and dmin) each group tries the integers next to its own, with new codes for
// each, and d (and dmin) are fitted again to the codes by least squares, over all groups; a few starts, a few
// rounds, the best is kept.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/blocks.h"
#include "kernels/error_feedback-inl.h"
#include "kernels/group_fit-inl.h"
#include "kernels/lanes-inl.h"
#include "kernels/super_fit-inl.h"
#include "kernels/targets.h"
#include "kernels/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

constexpr std::size_t id(Format format) {
  return static_cast<std::size_t>(format);
}

// ---- One scale per group of 16: Q3_K, Q6_K
// ----------------------------------------------------------------------

// w = d * scale * code, kLow <= code < -kLow, kScaleLow <= scale < -kScaleLow.
template <class Block, int kLow, int kScaleLow>
struct SignedSuperCodec {
  SignedSuperFit<IntegerLevels, 1, kScaleLow> super;

  // Written out: an implicit constructor would not inherit the target's instruction set.
  HWY_INLINE SignedSuperCodec() : super(IntegerLevels{kLow, -kLow - 1, -kLow}) {}

  static HWY_INLINE ScaleGrid grid(Effort effort) {
    if (kLow == -4) {
      if (effort == Effort::Fast) return {-0.8F, 0.8F, 3, 1.5F, 0.3F, 1};
      if (effort == Effort::Default) return {-0.8F, 0.4F, 7, 1.5F, 0.3F, 3};
      return {-1.4F, 0.1F, 24, 1.2F, 0.1F, 14};
    }
    if (effort == Effort::Fast) return {-0.5F, 0.5F, 3, 1.1F, 0.2F, 0};
    if (effort == Effort::Default) return {-9.0F, 0.9F, 11, 1.1F, 0.15F, 1};
    return {-14.0F, 0.5F, 32, 1.04F, 0.05F, 14};
  }
  HWY_INLINE void fit(const Tile& tile, Effort effort) {
    super.fit(tile, effort, grid(effort), effort != Effort::Fast || kLow != -4);
  }
  HWY_INLINE void refit(const Tile& tile, Effort) { super.refit(tile); }
  HWY_INLINE UniformLevels round(Tile& tile) {
    const UniformLevels levels{super.scale * set(super.d), zero(), super.levels.low, super.levels.high};
    round_uniform(tile, levels);
    return levels;
  }
  static std::size_t bytes(std::size_t) { return sizeof(Block); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t) const {
    I integers[16];
    for (int k = 0; k < 16; ++k) integers[k] = to_int(load(tile.code + 16 * k)) - set(kLow);
    HWY_ALIGN std::uint8_t codes[256];
    store_transposed_u8(integers, codes);
    auto& block = *reinterpret_cast<Block*>(out);
    block.d.set(super.d);
    if constexpr (std::is_same_v<Block, BlockQ6_K>) {
      store_i8(to_int(super.scale), block.scales.data());
      pack_q6_k(codes, block);
    } else {
      HWY_ALIGN std::uint8_t scales[16];
      store_u8(to_int(super.scale) + set(std::int32_t{32}), scales);
      pack_q3_k_scales(scales, block.scales.data());
      pack_2_bit(codes, block.qs.data());
      pack_high_bits(codes, 2, block.hmask.data());
    }
  }
};

// ---- Scale and minimum per group: Q2_K, Q4_K, Q5_K
// -------------------------------------------------------------

// w = d * scale * code - dmin * minimum, 0 <= code <= kHigh, 0 <= scale, minimum <=
// kScaleHigh, groups of kLanes.
template <class Block, int kHigh, int kScaleHigh, int kLanes>
struct MinimumSuperCodec {
  float d;
  float dmin;
  F scale;    // integers
  F minimum;  // integers

  HWY_INLINE MinimumSuperCodec() : d(0.0F), dmin(0.0F), scale(zero()), minimum(zero()) {}

  static HWY_INLINE ScaleGrid grid(Effort effort) {
    if (kHigh == 3) {
      if (effort == Effort::Fast) return {-0.4F, 0.5F, 5, 1.1F, 0.2F, 0};
      if (effort == Effort::Default) return {-0.8F, 0.3F, 8, 1.7F, 0.25F, 3};
      return {-0.9F, 0.1F, 26, 1.7F, 0.1F, 10};
    }
    if (effort == Effort::Fast) return {-0.6F, 0.6F, 3, 1.15F, 0.3F, 1};
    if (kHigh == 15) {
      if (effort == Effort::Default) return {-2.0F, 0.4F, 8, 1.1F, 0.2F, 3};
      return {-2.4F, 0.15F, 22, 1.06F, 0.05F, 14};
    }
    if (effort == Effort::Default) return {-3.0F, 0.5F, 8, 1.1F, 0.2F, 3};
    return {-4.0F, 0.25F, 22, 1.06F, 0.05F, 14};
  }

  // The state of a super-block: integers and halves.
  struct Choice {
    float d;
    float dmin;
    F scale;
    F minimum;
  };

  static F error_at(const Tile& tile, F step, F offset) {
    const F inverse = inverse_or_zero(step);
    const F base = -offset * inverse;
    F error = zero();
    for (int k = 0; k < 16; ++k) {
      const F x = load(tile.target + 16 * k);
      const F code = ::quantfit::kernels::HWY_NAMESPACE::round(
          clamp(fma(x, inverse, base), zero(), set(static_cast<float>(kHigh))));
      const F e = fnma(step, code, x) - offset;
      error = fma(load(tile.v + 16 * k) * e, e, error);
    }
    return group_sum<kLanes>(error);
  }

  // For d, dmin: the best integers near the wanted scale and offset of each group. Returns the tile's error
  // (kLanes times, as every lane of a group counts).
  static float choose_integers(const Tile& tile, Choice& choice, F wanted_scale, F wanted_offset, int reach) {
    const float inverse_d = choice.d != 0.0F ? 1.0F / choice.d : 0.0F;
    const float inverse_dmin = choice.dmin != 0.0F ? 1.0F / choice.dmin : 0.0F;
    const F top = set(static_cast<float>(kScaleHigh));
    const F middle_scale =
        clamp(::quantfit::kernels::HWY_NAMESPACE::round(wanted_scale * set(inverse_d)), zero(), top);
    const F middle_minimum =
        clamp(::quantfit::kernels::HWY_NAMESPACE::round(-wanted_offset * set(inverse_dmin)), zero(), top);
    F best = set(3e38F);
    for (int a = -reach; a <= reach; ++a) {
      const F scale = clamp(middle_scale + set(static_cast<float>(a)), zero(), top);
      for (int b = -reach; b <= reach; ++b) {
        const F minimum = clamp(middle_minimum + set(static_cast<float>(b)), zero(), top);
        const F error = error_at(tile, scale * set(choice.d), minimum * set(-choice.dmin));
        const M better = error < best;
        best = select(better, error, best);
        choice.scale = select(better, scale, choice.scale);
        choice.minimum = select(better, minimum, choice.minimum);
      }
    }
    return sum(best);
  }

  // d and dmin by least squares over all groups for the codes of the present ones.
  static void fit_super(const Tile& tile, Choice& choice) {
    const F step = choice.scale * set(choice.d);
    const F offset = choice.minimum * set(-choice.dmin);
    const F inverse = inverse_or_zero(step);
    const F base = -offset * inverse;
    F sum_v = zero();
    F sum_x = zero();
    F c1 = zero();
    F c2 = zero();
    F xc = zero();
    for (int k = 0; k < 16; ++k) {
      const F x = load(tile.target + 16 * k);
      const F v = load(tile.v + 16 * k);
      const F code = ::quantfit::kernels::HWY_NAMESPACE::round(
          clamp(fma(x, inverse, base), zero(), set(static_cast<float>(kHigh))));
      const F weighted = v * code;
      sum_v = sum_v + v;
      sum_x = fma(v, x, sum_x);
      c1 = c1 + weighted;
      c2 = fma(weighted, code, c2);
      xc = fma(weighted, x, xc);
    }
    // minimize sum v (x - d s c + dmin m)^2
    const double ss = sum(choice.scale * choice.scale * c2);
    const double sm = -sum(choice.scale * choice.minimum * c1);
    const double mm = sum(choice.minimum * choice.minimum * sum_v);
    const double xs = sum(choice.scale * xc);
    const double xm = -sum(choice.minimum * sum_x);
    const double determinant = ss * mm - sm * sm;
    if (determinant > 1e-6 * ss * mm && determinant > 0.0) {
      choice.d = half_scale(static_cast<float>((xs * mm - xm * sm) / determinant));
      choice.dmin = half_scale(static_cast<float>((ss * xm - sm * xs) / determinant));
    } else if (ss > 0.0) {
      choice.d = half_scale(static_cast<float>((xs - sm * double{choice.dmin}) / ss));
    } else if (mm > 0.0) {
      choice.dmin = half_scale(static_cast<float>(xm / mm));
    }
  }

  // The groups' own scales and offsets, as if stored freely.
  struct Free {
    AffineSums sums;
    AffineFit fit;
    float explained;
  };
  static Free fit_groups(const Tile& tile, Effort effort) {
    Free free;
    free.sums = affine_sums<kLanes>(tile);
    free.fit = search_affine<kLanes, true>(tile, static_cast<float>(kHigh), free.sums, grid(effort),
                                           effort == Effort::Fast ? 2 : 3);
    free.fit = refine_affine<kLanes, true>(tile, static_cast<float>(kHigh), free.sums, free.fit,
                                           effort == Effort::Fast ? 1 : 2);
    free.explained = sum(free.fit.explained);
    return free;
  }

  // From one d and dmin: integers for the wanted scales and offsets, d and dmin again,
  // and so on; keeps the best.
  static void try_super(const Tile& tile, float d, float dmin, F wanted_scale, F wanted_offset, int reach,
                        int rounds, float& best, Choice& best_choice) {
    Choice choice{d, dmin, zero(), zero()};
    for (int round = 0;; ++round) {
      const float error =
          choose_integers(tile, choice, wanted_scale, wanted_offset, round < rounds ? reach : 0);
      if (error < best) {
        best = error;
        best_choice = choice;
      }
      if (round >= rounds) return;
      fit_super(tile, choice);
      wanted_scale = choice.scale * set(choice.d);
      wanted_offset = choice.minimum * set(-choice.dmin);
    }
  }

  // An error far below what the format usually leaves.
  static HWY_INLINE bool unusual(float error, const Free& free) {
    constexpr float kShare = kHigh == 3 ? 1e-2F : kHigh == 15 ? 7e-4F : 1.5e-4F;
    return error < kShare * free.explained;
  }

  // A second look at a super-block of which little of the energy is lost: few different values, one large
  // weight. There the groups must agree on where their levels lie, and the rounding of d and dmin to half and
  // the small integers of the other groups decide.
  HWY_NOINLINE static void second_look(const Tile& tile, const Free& free, float& best, Choice& best_choice) {
    if (!unusual(best, free)) return;
    const F bottom = min(free.sums.least, zero());
    const F span = max(free.sums.most, zero()) - bottom;
    for (int top = kHigh; top > 0; --top) {
      const F wanted = span * set(1.0F / static_cast<float>(top));
      for (int start = 0; start < 4; ++start)
        try_super(tile, half_scale(absolute_max(wanted) / static_cast<float>(kScaleHigh - start)),
                  half_scale(absolute_max(bottom) / static_cast<float>(kScaleHigh)), wanted, bottom, 1, 2,
                  best, best_choice);
    }
    // One group much wider than the others: its own fit may need an offset that
    // makes dmin too coarse for them.
    const M widest = span == set(absolute_max(span));
    for (int top = kHigh; top >= kHigh - 3 && top > 0; --top) {
      AffineFit wide = free.fit;
      wide.scale = span * set(1.0F / static_cast<float>(top));
      wide.offset = bottom;
      wide = refine_affine<kLanes, true>(tile, static_cast<float>(kHigh), free.sums, wide, 1);
      const F wanted_scale = select(widest, wide.scale, free.fit.scale);
      const F wanted_offset = select(widest, wide.offset, free.fit.offset);
      const float dmin = half_scale(absolute_max(wanted_offset) / static_cast<float>(kScaleHigh));
      for (int inside = 0; inside <= kScaleHigh / 2; ++inside)
        try_super(tile, half_scale(absolute_max(wanted_scale) / static_cast<float>(kScaleHigh - inside)),
                  dmin, wanted_scale, wanted_offset, 1, 2, best, best_choice);
    }
  }

  // The super-block for groups fitted on the same targets. Returns the error.
  static float fit_integers(const Tile& tile, Effort effort, const Free& free, Choice& best_choice) {
    float best = 3e38F;
    // Plain rounding: every group's codes span its range. No result is worse.
    const F bottom = min(free.sums.least, zero());
    const F span = max(free.sums.most, zero()) - bottom;
    try_super(tile, half_scale(absolute_max(span) / static_cast<float>(kHigh * kScaleHigh)),
              half_scale(absolute_max(bottom) / static_cast<float>(kScaleHigh)),
              span * set(1.0F / static_cast<float>(kHigh)), bottom, 0, effort == Effort::Max ? 1 : 0, best,
              best_choice);
    const float most_scale = absolute_max(free.fit.scale);
    const float most_minimum = absolute_max(free.fit.offset);
    const int starts = effort == Effort::Max ? 4 : 1;
    const int rounds = effort == Effort::Max ? 3 : effort == Effort::Default ? 2 : 1;
    const int reach = effort == Effort::Fast ? 0 : 1;
    for (int start = 0; start < starts; ++start)
      try_super(tile, half_scale(most_scale / static_cast<float>(kScaleHigh - (start & 1))),
                half_scale(most_minimum / static_cast<float>(kScaleHigh - (start >> 1))), free.fit.scale,
                free.fit.offset, reach, rounds, best, best_choice);
    if (effort != Effort::Fast) second_look(tile, free, best, best_choice);
    // Scales near the smallest half may be worse than none.
    if (std::fabs(best_choice.d) < 0x1p-14F || std::fabs(best_choice.dmin) < 0x1p-14F) {
      const float dropped = sum(error_at(tile, zero(), zero()));
      if (dropped < best) {
        best = dropped;
        best_choice = {0.0F, 0.0F, zero(), zero()};
      }
    }
    return best;
  }

  HWY_INLINE void take(const Choice& choice) {
    d = choice.d;
    dmin = choice.dmin;
    scale = choice.scale;
    minimum = choice.minimum;
  }
  void fit(Tile& tile, Effort effort) {
    // The mirrored super-block has negative d and dmin, so that the offset is the top of a group. The side
    // whose groups fit better on their own goes first; the fast search follows the other one only where so
    // little is lost that the rounding of the scales decides.
    const float* upright = tile.target;
    for (int k = 0; k < 16; ++k)
      ::quantfit::kernels::HWY_NAMESPACE::store(-load(upright + 16 * k), tile.mirrored + 16 * k);
    const Free upright_groups = fit_groups(tile, effort);
    tile.target = tile.mirrored;
    const Free mirrored_groups = fit_groups(tile, effort);
    bool mirror = upright_groups.explained < mirrored_groups.explained;
    Choice choice{0.0F, 0.0F, zero(), zero()};
    float error = 3e38F;
    for (int side = 0; side < 2; ++side, mirror = !mirror) {
      const Free& groups = mirror ? mirrored_groups : upright_groups;
      if (side == 1 && effort == Effort::Fast && !unusual(error, groups)) break;
      tile.target = mirror ? tile.mirrored : upright;
      Choice candidate{0.0F, 0.0F, zero(), zero()};
      const float candidate_error = fit_integers(tile, effort, groups, candidate);
      if (!(candidate_error < error)) continue;
      error = candidate_error;
      choice = candidate;
      if (!mirror) continue;
      choice.d = -choice.d;
      choice.dmin = -choice.dmin;
    }
    tile.target = upright;
    take(choice);
  }
  HWY_INLINE void refit(const Tile& tile, Effort) {
    Choice choice{d, dmin, scale, minimum};
    fit_super(tile, choice);
    choose_integers(tile, choice, choice.scale * set(choice.d), choice.minimum * set(-choice.dmin), 1);
    take(choice);
  }
  HWY_INLINE UniformLevels round(Tile& tile) {
    const UniformLevels levels{scale * set(d), minimum * set(-dmin), 0.0F, static_cast<float>(kHigh)};
    round_uniform(tile, levels);
    return levels;
  }
  static std::size_t bytes(std::size_t) { return sizeof(Block); }
  void store_blocks(const Tile& tile, std::byte* out, std::size_t) const {
    I integers[16];
    for (int k = 0; k < 16; ++k) integers[k] = to_int(load(tile.code + 16 * k));
    HWY_ALIGN std::uint8_t codes[256];
    HWY_ALIGN std::uint8_t lane_scales[16];
    HWY_ALIGN std::uint8_t lane_minimums[16];
    store_transposed_u8(integers, codes);
    store_u8(to_int(scale), lane_scales);
    store_u8(to_int(minimum), lane_minimums);
    auto& block = *reinterpret_cast<Block*>(out);
    block.d.set(d);
    block.dmin.set(dmin);
    if constexpr (std::is_same_v<Block, BlockQ2_K>) {
      for (std::size_t g = 0; g < 16; ++g)
        block.scales[g] = static_cast<std::uint8_t>(lane_scales[g] | (lane_minimums[g] << 4));
      pack_2_bit(codes, block.qs.data());
    } else {
      std::uint8_t scales[8];
      std::uint8_t minimums[8];
      for (std::size_t g = 0; g < 8; ++g) {
        scales[g] = lane_scales[2 * g];
        minimums[g] = lane_minimums[2 * g];
      }
      pack_scales_minimums(scales, minimums, block.scales.data());
      if constexpr (std::is_same_v<Block, BlockQ5_K>) pack_high_bits(codes, 4, block.qh.data());
      pack_4_bit(codes, block.qs.data());
    }
  }
};

}  // namespace

void fill_k_encoders(RowKernels& table) {
  auto& encode = table.encode;
  encode[id(Format::Q3_K)] = encode_tiles_or_feedback<SignedSuperCodec<BlockQ3_K, -4, -32>>;
  encode[id(Format::Q6_K)] = encode_tiles_or_feedback<SignedSuperCodec<BlockQ6_K, -32, -128>>;
  encode[id(Format::Q2_K)] = encode_tiles_or_feedback<MinimumSuperCodec<BlockQ2_K, 3, 15, 1>>;
  encode[id(Format::Q4_K)] = encode_tiles_or_feedback<MinimumSuperCodec<BlockQ4_K, 15, 63, 2>>;
  encode[id(Format::Q5_K)] = encode_tiles_or_feedback<MinimumSuperCodec<BlockQ5_K, 31, 63, 2>>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

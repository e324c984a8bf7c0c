// Decoders of every format: bytes of a row to binary32, bit for bit as block_formats.md defines them.
//
// In every format the products before the last operation are exact (at most 24 significant bits), so that one
// rounding happens per weight. Nothing is special-cased: zero scales keep the sign of the zero they produce.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/blocks.h"
#include "kernels/codebooks.h"
#include "kernels/lanes-inl.h"
#include "kernels/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// Applies a block decoder along a row. Blocks have alignment 1, so any address will do.
template <class Block, std::size_t kBlockLength, void (*kDecode)(const Block&, float*)>
void decode_row(const std::byte* in, std::size_t columns, float* out) {
  const auto* block = reinterpret_cast<const Block*>(in);
  for (std::size_t j = 0; j < columns; j += kBlockLength) kDecode(*block++, out + j);
}

constexpr std::size_t id(Format format) {
  return static_cast<std::size_t>(format);
}

HWY_INLINE I nibbles_low(I bytes) {
  return bytes & set(std::int32_t{15});
}
HWY_INLINE I nibbles_high(I bytes) {
  return shift_right<4>(bytes);
}
HWY_INLINE const std::uint8_t* bytes_of(const std::uint64_t& entry) {
  return reinterpret_cast<const std::uint8_t*>(&entry);
}
HWY_INLINE const std::uint8_t* bytes_of(const std::uint32_t& entry) {
  return reinterpret_cast<const std::uint8_t*>(&entry);
}
HWY_INLINE const std::int8_t* signed_bytes_of(const std::uint64_t& entry) {
  return reinterpret_cast<const std::int8_t*>(&entry);
}
// `value` where the bit of the lane is set.
HWY_INLINE I where_set(std::uint32_t lane_bits, std::int32_t value) {
  return select(mask_of_bits(lane_bits), set(value), set(std::int32_t{0}));
}
HWY_INLINE F negate_where_set(F a, std::uint32_t lane_bits) {
  return select(mask_of_bits(lane_bits), -a, a);
}

// ---- Plain floats: rows of any length
// --------------------------------------------------------------------------

void decode_f32(const std::byte* in, std::size_t columns, float* out) {
  if (columns != 0) std::memcpy(out, in, 4 * columns);
}

void decode_f16(const std::byte* in, std::size_t columns, float* out) {
  const auto* halves = reinterpret_cast<const Half*>(in);
  std::size_t j = 0;
  for (; j + 16 <= columns; j += 16) {
    HWY_ALIGN std::uint16_t patterns[16];
    std::memcpy(patterns, halves + j, sizeof(patterns));
    store(load_half(patterns), out + j);
  }
  for (; j < columns; ++j) out[j] = halves[j].get();
}

void decode_bf16(const std::byte* in, std::size_t columns, float* out) {
  const auto* patterns16 = reinterpret_cast<const U16*>(in);
  std::size_t j = 0;
  for (; j + 16 <= columns; j += 16) {
    HWY_ALIGN std::uint16_t patterns[16];
    std::memcpy(patterns, patterns16 + j, sizeof(patterns));
    store(load_bfloat16(patterns), out + j);
  }
  for (; j < columns; ++j) out[j] = bfloat16_to_float(patterns16[j].get());
}

// ---- Blocks of 32 to 128 weights
// -------------------------------------------------------------------------------

HWY_INLINE void decode_q4_0(const BlockQ4_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  const I bytes = load_u8(block.qs.data());
  const I offset = set(std::int32_t{8});
  store(to_float(nibbles_low(bytes) - offset) * d, out);
  store(to_float(nibbles_high(bytes) - offset) * d, out + 16);
}

HWY_INLINE void decode_q4_1(const BlockQ4_1& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  const F m = set_half(block.m.pattern.get());
  const I bytes = load_u8(block.qs.data());
  store(to_float(nibbles_low(bytes)) * d + m, out);
  store(to_float(nibbles_high(bytes)) * d + m, out + 16);
}

HWY_INLINE void decode_q5_0(const BlockQ5_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  const std::uint32_t high = block.qh.get();
  const I bytes = load_u8(block.qs.data());
  // 16 is subtracted where the fifth bit is clear.
  store(to_float(nibbles_low(bytes) + where_set(~high, -16)) * d, out);
  store(to_float(nibbles_high(bytes) + where_set(~high >> 16, -16)) * d, out + 16);
}

HWY_INLINE void decode_q5_1(const BlockQ5_1& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  const F m = set_half(block.m.pattern.get());
  const std::uint32_t high = block.qh.get();
  const I bytes = load_u8(block.qs.data());
  store(to_float(nibbles_low(bytes) | where_set(high, 16)) * d + m, out);
  store(to_float(nibbles_high(bytes) | where_set(high >> 16, 16)) * d + m, out + 16);
}

HWY_INLINE void decode_q8_0(const BlockQ8_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  store(to_float(load_i8(block.qs.data())) * d, out);
  store(to_float(load_i8(block.qs.data() + 16)) * d, out + 16);
}

HWY_INLINE void decode_q1_0(const BlockQ1_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  for (std::size_t g = 0; g < 8; ++g) {
    const std::uint32_t positive = block.qs[2 * g] | (std::uint32_t{block.qs[2 * g + 1]} << 8);
    store(negate_where_set(d, ~positive), out + 16 * g);
  }
}

HWY_INLINE void decode_q2_0(const BlockQ2_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  const I shifts = iota() + iota();
  for (std::size_t g = 0; g < 4; ++g) {
    std::uint32_t word;
    std::memcpy(&word, block.qs.data() + 4 * g, 4);
    const I codes = shift_right_by(set(static_cast<std::int32_t>(word)), shifts) & set(std::int32_t{3});
    store(to_float(codes - set(std::int32_t{1})) * d, out + 16 * g);
  }
}

HWY_INLINE void decode_iq4_nl(const BlockIQ4_NL& block, float* out) {
  const F levels = to_float(load_i8(kIq4nlValues.data()));
  const F d = set_half(block.d.pattern.get());
  const I bytes = load_u8(block.qs.data());
  store(d * lookup16(levels, nibbles_low(bytes)), out);
  store(d * lookup16(levels, nibbles_high(bytes)), out + 16);
}

HWY_INLINE void decode_mxfp4(const BlockMXFP4& block, float* out) {
  const F levels = to_float(load_i8(kFp4Values.data()));
  const F d = set(kE8m0HalfScale[block.e]);
  const I bytes = load_u8(block.qs.data());
  store(lookup16(levels, nibbles_low(bytes)) * d, out);
  store(lookup16(levels, nibbles_high(bytes)) * d, out + 16);
}

HWY_INLINE void decode_nvfp4(const BlockNVFP4& block, float* out) {
  const F levels = to_float(load_i8(kFp4Values.data()));
  // 0 in the lower eight lanes, 4 in the upper ones.
  const I shifts = shift_right<1>(iota() & set(std::int32_t{8}));
  for (std::size_t s = 0; s < 4; ++s) {
    const std::uint8_t* p = block.qs.data() + 8 * s;
    const I codes = nibbles_low(shift_right_by(load_u8_2x8(p, p), shifts));
    store(lookup16(levels, codes) * set(kUe4m3HalfScale[block.scales[s]]), out + 16 * s);
  }
}

// ---- Super-blocks of 256 weights
// -------------------------------------------------------------------------------

// Codes of weights 128 h + 32 j + 16 k .. + 15 in the order of pack_2_bit.
template <int kJ>
HWY_INLINE I codes_2_bit(I bytes) {
  return shift_right<2 * kJ>(bytes) & set(std::int32_t{3});
}

template <int kJ>
HWY_INLINE void decode_q2_k_group(I bytes, std::uint32_t scale_byte, float d, float dmin, float* out) {
  const F dl = set(d * static_cast<float>(scale_byte & 15U));
  const F ml = set(dmin * static_cast<float>(scale_byte >> 4));
  store(dl * to_float(codes_2_bit<kJ>(bytes)) - ml, out);
}

HWY_INLINE void decode_q2_k(const BlockQ2_K& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  const float dmin = half_value(block.dmin.pattern.get());
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t k = 0; k < 2; ++k) {
      const I bytes = load_u8(block.qs.data() + 32 * h + 16 * k);
      const std::uint8_t* scales = block.scales.data() + 8 * h + k;
      float* y = out + 128 * h + 16 * k;
      decode_q2_k_group<0>(bytes, scales[0], d, dmin, y);
      decode_q2_k_group<1>(bytes, scales[2], d, dmin, y + 32);
      decode_q2_k_group<2>(bytes, scales[4], d, dmin, y + 64);
      decode_q2_k_group<3>(bytes, scales[6], d, dmin, y + 96);
    }
  }
}

// `high` holds the bits of the group's half at positions kJ; the code is low + 4 bit - 4.
template <int kJ>
HWY_INLINE void decode_q3_k_group(I bytes, I high, std::uint32_t scale_code, float d, float* out) {
  const F dl = set(d * static_cast<float>(static_cast<int>(scale_code) - 32));
  const I four = set(std::int32_t{4});
  const I third_bit =
      kJ <= 2 ? shift_left<(kJ <= 2 ? 2 - kJ : 0)>(high) : shift_right<(kJ > 2 ? kJ - 2 : 0)>(high);
  store(dl * to_float((codes_2_bit<kJ>(bytes) | (third_bit & four)) - four), out);
}

HWY_INLINE void decode_q3_k(const BlockQ3_K& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  std::uint8_t codes[16];
  unpack_q3_k_scales(block.scales.data(), codes);
  for (std::size_t k = 0; k < 2; ++k) {
    I high = load_u8(block.hmask.data() + 16 * k);
    for (std::size_t h = 0; h < 2; ++h) {
      const I bytes = load_u8(block.qs.data() + 32 * h + 16 * k);
      const std::uint8_t* scales = codes + 8 * h + k;
      float* y = out + 128 * h + 16 * k;
      decode_q3_k_group<0>(bytes, high, scales[0], d, y);
      decode_q3_k_group<1>(bytes, high, scales[2], d, y + 32);
      decode_q3_k_group<2>(bytes, high, scales[4], d, y + 64);
      decode_q3_k_group<3>(bytes, high, scales[6], d, y + 96);
      high = shift_right<4>(high);
    }
  }
}

HWY_INLINE void decode_q4_k(const BlockQ4_K& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  const float dmin = half_value(block.dmin.pattern.get());
  std::uint8_t scales[8];
  std::uint8_t minimums[8];
  unpack_scales_minimums(block.scales.data(), scales, minimums);
  for (std::size_t c = 0; c < 4; ++c) {
    const F dl0 = set(d * static_cast<float>(scales[2 * c]));
    const F ml0 = set(dmin * static_cast<float>(minimums[2 * c]));
    const F dl1 = set(d * static_cast<float>(scales[2 * c + 1]));
    const F ml1 = set(dmin * static_cast<float>(minimums[2 * c + 1]));
    for (std::size_t k = 0; k < 2; ++k) {
      const I bytes = load_u8(block.qs.data() + 32 * c + 16 * k);
      float* y = out + 64 * c + 16 * k;
      store(dl0 * to_float(nibbles_low(bytes)) - ml0, y);
      store(dl1 * to_float(nibbles_high(bytes)) - ml1, y + 32);
    }
  }
}

HWY_INLINE void decode_q5_k(const BlockQ5_K& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  const float dmin = half_value(block.dmin.pattern.get());
  std::uint8_t scales[8];
  std::uint8_t minimums[8];
  unpack_scales_minimums(block.scales.data(), scales, minimums);
  const I sixteen = set(std::int32_t{16});
  I high[2] = {load_u8(block.qh.data()), load_u8(block.qh.data() + 16)};
  for (std::size_t c = 0; c < 4; ++c) {
    const F dl0 = set(d * static_cast<float>(scales[2 * c]));
    const F ml0 = set(dmin * static_cast<float>(minimums[2 * c]));
    const F dl1 = set(d * static_cast<float>(scales[2 * c + 1]));
    const F ml1 = set(dmin * static_cast<float>(minimums[2 * c + 1]));
    for (std::size_t k = 0; k < 2; ++k) {
      const I bytes = load_u8(block.qs.data() + 32 * c + 16 * k);
      float* y = out + 64 * c + 16 * k;
      const I low_codes = nibbles_low(bytes) | (shift_left<4>(high[k]) & sixteen);
      const I high_codes = nibbles_high(bytes) | (shift_left<3>(high[k]) & sixteen);
      store(dl0 * to_float(low_codes) - ml0, y);
      store(dl1 * to_float(high_codes) - ml1, y + 32);
      high[k] = shift_right<2>(high[k]);
    }
  }
}

HWY_INLINE void decode_q6_k(const BlockQ6_K& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  const I offset = set(std::int32_t{32});
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t k = 0; k < 2; ++k) {
      const I first = load_u8(block.ql.data() + 64 * h + 16 * k);
      const I second = load_u8(block.ql.data() + 64 * h + 32 + 16 * k);
      const I high = load_u8(block.qh.data() + 32 * h + 16 * k);
      const std::int8_t* scales = block.scales.data() + 8 * h + k;
      float* y = out + 128 * h + 16 * k;
      const I codes[4] = {nibbles_low(first) | shift_left<4>(codes_2_bit<0>(high)),
                          nibbles_low(second) | shift_left<4>(codes_2_bit<1>(high)),
                          nibbles_high(first) | shift_left<4>(codes_2_bit<2>(high)),
                          nibbles_high(second) | shift_left<4>(codes_2_bit<3>(high))};
      for (std::size_t j = 0; j < 4; ++j)
        store(set(d * static_cast<float>(scales[2 * j])) * to_float(codes[j] - offset), y + 32 * j);
    }
  }
}

// The sign bits of sixteen weights from two adjacent 7-bit indices.
HWY_INLINE std::uint32_t adjacent_sign_patterns(std::uint32_t indices) {
  return two_sign_patterns(indices & 127U, (indices >> 7) & 127U);
}

HWY_INLINE void decode_iq2_xxs(const BlockIQ2_XXS& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  for (std::size_t g = 0; g < 8; ++g) {
    const BlockIQ2_XXS::Record& record = block.records[g];
    const std::uint32_t word = record.signs_scale.get();
    const F db = set(d * (0.5F + static_cast<float>(word >> 28)) * 0.25F);
    for (std::size_t k = 0; k < 2; ++k) {
      const I grid = load_u8_2x8(bytes_of(kIq2xxsGrid[record.index[2 * k]]),
                                 bytes_of(kIq2xxsGrid[record.index[2 * k + 1]]));
      store(negate_where_set(db * to_float(grid), adjacent_sign_patterns(word >> (14 * k))),
            out + 32 * g + 16 * k);
    }
  }
}

HWY_INLINE void decode_iq2_xs(const BlockIQ2_XS& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  for (std::size_t b = 0; b < 16; ++b) {
    const std::uint32_t code = (block.scales[b / 2] >> (4 * (b % 2))) & 15U;
    const F db = set(d * (0.5F + static_cast<float>(code)) * 0.25F);
    const std::uint32_t first = block.qs[2 * b].get();
    const std::uint32_t second = block.qs[2 * b + 1].get();
    const I grid = load_u8_2x8(bytes_of(kIq2xsGrid[first & 511U]), bytes_of(kIq2xsGrid[second & 511U]));
    const std::uint32_t signs = two_sign_patterns(first >> 9, second >> 9);
    store(negate_where_set(db * to_float(grid), signs), out + 16 * b);
  }
}

HWY_INLINE void decode_iq2_s(const BlockIQ2_S& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  for (std::size_t b = 0; b < 16; ++b) {
    const std::uint32_t code = (block.scales[b / 2] >> (4 * (b % 2))) & 15U;
    const F db = set(d * (0.5F + static_cast<float>(code)) * 0.25F);
    const std::uint32_t high = unsigned{block.qh[b / 2]} >> (4 * (b % 2));
    const std::uint32_t first = block.qs[2 * b] | ((high & 3U) << 8);
    const std::uint32_t second = block.qs[2 * b + 1] | (((high >> 2) & 3U) << 8);
    const I grid = load_u8_2x8(bytes_of(kIq2sGrid[first]), bytes_of(kIq2sGrid[second]));
    const std::uint32_t signs = block.signs[2 * b] | (std::uint32_t{block.signs[2 * b + 1]} << 8);
    store(negate_where_set(db * to_float(grid), signs), out + 16 * b);
  }
}

HWY_INLINE void decode_iq3_xxs(const BlockIQ3_XXS& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  for (std::size_t g = 0; g < 8; ++g) {
    const std::uint32_t word = block.signs_scale[g].get();
    const F db = set(d * (0.5F + static_cast<float>(word >> 28)) * 0.5F);
    for (std::size_t k = 0; k < 2; ++k) {
      const std::uint8_t* index = block.qs.data() + 8 * g + 4 * k;
      const I grid = load_u8_4x4(bytes_of(kIq3xxsGrid[index[0]]), bytes_of(kIq3xxsGrid[index[1]]),
                                 bytes_of(kIq3xxsGrid[index[2]]), bytes_of(kIq3xxsGrid[index[3]]));
      store(negate_where_set(db * to_float(grid), adjacent_sign_patterns(word >> (14 * k))),
            out + 32 * g + 16 * k);
    }
  }
}

HWY_INLINE void decode_iq3_s(const BlockIQ3_S& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  for (std::size_t b = 0; b < 16; ++b) {
    const std::uint32_t code = (block.scales[b / 4] >> (4 * ((b / 2) % 2))) & 15U;
    const F db = set(d * static_cast<float>(1U + 2U * code));
    const std::uint8_t* low = block.qs.data() + 4 * b;
    const std::uint32_t high = unsigned{block.qh[b / 2]} >> (4 * (b % 2));
    const I grid = load_u8_4x4(
        bytes_of(kIq3sGrid[low[0] | ((high & 1U) << 8)]), bytes_of(kIq3sGrid[low[1] | ((high & 2U) << 7)]),
        bytes_of(kIq3sGrid[low[2] | ((high & 4U) << 6)]), bytes_of(kIq3sGrid[low[3] | ((high & 8U) << 5)]));
    const std::uint32_t signs = block.signs[2 * b] | (std::uint32_t{block.signs[2 * b + 1]} << 8);
    store(negate_where_set(db * to_float(grid), signs), out + 16 * b);
  }
}

HWY_INLINE void decode_iq1_s(const BlockIQ1_S& block, float* out) {
  const float d = half_value(block.d.pattern.get());
  for (std::size_t g = 0; g < 8; ++g) {
    const std::uint32_t word = block.qh[g].get();
    const F dl = set(d * static_cast<float>(2U * ((word >> 12) & 7U) + 1U));
    const F shift = set((word & 0x8000U) != 0 ? -kIq1Shift : kIq1Shift);
    for (std::size_t k = 0; k < 2; ++k) {
      const std::uint32_t first = block.qs[4 * g + 2 * k] | (((word >> (6 * k)) & 7U) << 8);
      const std::uint32_t second = block.qs[4 * g + 2 * k + 1] | (((word >> (6 * k + 3)) & 7U) << 8);
      const I grid = load_i8_2x8(signed_bytes_of(kIq1sGrid[first]), signed_bytes_of(kIq1sGrid[second]));
      store(dl * (to_float(grid) + shift), out + 32 * g + 16 * k);
    }
  }
}

HWY_INLINE void decode_iq1_m(const BlockIQ1_M& block, float* out) {
  const float d = half_value(block.d_pattern());
  for (std::size_t b = 0; b < 16; ++b) {
    const F dl = set(d * static_cast<float>(2U * block.scale(b) + 1U));
    const std::uint32_t nibbles = block.qh[b];
    const std::uint32_t first = block.qs[2 * b] | ((nibbles & 7U) << 8);
    const std::uint32_t second = block.qs[2 * b + 1] | ((nibbles & 0x70U) << 4);
    const std::uint32_t negative =
        ((nibbles & 8U) != 0 ? 0xFFU : 0U) | ((nibbles & 0x80U) != 0 ? 0xFF00U : 0U);
    const F shift = negate_where_set(set(kIq1Shift), negative);
    const I grid = load_i8_2x8(signed_bytes_of(kIq1sGrid[first]), signed_bytes_of(kIq1sGrid[second]));
    store(dl * (to_float(grid) + shift), out + 16 * b);
  }
}

HWY_INLINE void decode_iq4_xs(const BlockIQ4_XS& block, float* out) {
  const F levels = to_float(load_i8(kIq4nlValues.data()));
  const float d = half_value(block.d.pattern.get());
  for (std::size_t g = 0; g < 8; ++g) {
    const F dl = set(d * static_cast<float>(static_cast<int>(block.scale(g)) - 32));
    const I bytes = load_u8(block.qs.data() + 16 * g);
    store(dl * lookup16(levels, nibbles_low(bytes)), out + 32 * g);
    store(dl * lookup16(levels, nibbles_high(bytes)), out + 32 * g + 16);
  }
}

// Takes the top trit of sixteen bytes: tripling brings it above bit 8.
HWY_INLINE F next_trits(I& bytes) {
  const I tripled = bytes + bytes + bytes;
  bytes = tripled & set(std::int32_t{255});
  return to_float(shift_right<8>(tripled) - set(std::int32_t{1}));
}

HWY_INLINE void decode_tq1_0(const BlockTQ1_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  for (std::size_t k = 0; k < 3; ++k) {
    I bytes = load_u8(block.qs.data() + 16 * k);
    float* y = k < 2 ? out + 16 * k : out + 160;
    const std::size_t stride = k < 2 ? 32 : 16;
    for (std::size_t n = 0; n < 5; ++n) store(next_trits(bytes) * d, y + stride * n);
  }
  float trits[16];
  for (unsigned i = 0; i < 16; ++i) trits[i] = static_cast<float>(unpack_trit(block.qh[i % 4], i / 4) - 1);
  store(load(trits) * d, out + 240);
}

HWY_INLINE void decode_tq2_0(const BlockTQ2_0& block, float* out) {
  const F d = set_half(block.d.pattern.get());
  const I one = set(std::int32_t{1});
  for (std::size_t h = 0; h < 2; ++h) {
    for (std::size_t k = 0; k < 2; ++k) {
      const I bytes = load_u8(block.qs.data() + 32 * h + 16 * k);
      float* y = out + 128 * h + 16 * k;
      store(to_float(codes_2_bit<0>(bytes) - one) * d, y);
      store(to_float(codes_2_bit<1>(bytes) - one) * d, y + 32);
      store(to_float(codes_2_bit<2>(bytes) - one) * d, y + 64);
      store(to_float(codes_2_bit<3>(bytes) - one) * d, y + 96);
    }
  }
}

}  // namespace

void fill_decoders(RowKernels& table) {
  DecodeRow* const decoders = table.decode.data();
  decoders[id(Format::F32)] = decode_f32;
  decoders[id(Format::F16)] = decode_f16;
  decoders[id(Format::BF16)] = decode_bf16;
  decoders[id(Format::Q4_0)] = decode_row<BlockQ4_0, 32, decode_q4_0>;
  decoders[id(Format::Q4_1)] = decode_row<BlockQ4_1, 32, decode_q4_1>;
  decoders[id(Format::Q5_0)] = decode_row<BlockQ5_0, 32, decode_q5_0>;
  decoders[id(Format::Q5_1)] = decode_row<BlockQ5_1, 32, decode_q5_1>;
  decoders[id(Format::Q8_0)] = decode_row<BlockQ8_0, 32, decode_q8_0>;
  decoders[id(Format::Q1_0)] = decode_row<BlockQ1_0, 128, decode_q1_0>;
  decoders[id(Format::Q2_0)] = decode_row<BlockQ2_0, 64, decode_q2_0>;
  decoders[id(Format::IQ4_NL)] = decode_row<BlockIQ4_NL, 32, decode_iq4_nl>;
  decoders[id(Format::MXFP4)] = decode_row<BlockMXFP4, 32, decode_mxfp4>;
  decoders[id(Format::NVFP4)] = decode_row<BlockNVFP4, 64, decode_nvfp4>;
  decoders[id(Format::Q2_K)] = decode_row<BlockQ2_K, 256, decode_q2_k>;
  decoders[id(Format::Q3_K)] = decode_row<BlockQ3_K, 256, decode_q3_k>;
  decoders[id(Format::Q4_K)] = decode_row<BlockQ4_K, 256, decode_q4_k>;
  decoders[id(Format::Q5_K)] = decode_row<BlockQ5_K, 256, decode_q5_k>;
  decoders[id(Format::Q6_K)] = decode_row<BlockQ6_K, 256, decode_q6_k>;
  decoders[id(Format::IQ2_XXS)] = decode_row<BlockIQ2_XXS, 256, decode_iq2_xxs>;
  decoders[id(Format::IQ2_XS)] = decode_row<BlockIQ2_XS, 256, decode_iq2_xs>;
  decoders[id(Format::IQ2_S)] = decode_row<BlockIQ2_S, 256, decode_iq2_s>;
  decoders[id(Format::IQ3_XXS)] = decode_row<BlockIQ3_XXS, 256, decode_iq3_xxs>;
  decoders[id(Format::IQ3_S)] = decode_row<BlockIQ3_S, 256, decode_iq3_s>;
  decoders[id(Format::IQ1_S)] = decode_row<BlockIQ1_S, 256, decode_iq1_s>;
  decoders[id(Format::IQ1_M)] = decode_row<BlockIQ1_M, 256, decode_iq1_m>;
  decoders[id(Format::IQ4_XS)] = decode_row<BlockIQ4_XS, 256, decode_iq4_xs>;
  decoders[id(Format::TQ1_0)] = decode_row<BlockTQ1_0, 256, decode_tq1_0>;
  decoders[id(Format::TQ2_0)] = decode_row<BlockTQ2_0, 256, decode_tq2_0>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

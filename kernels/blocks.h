// The blocks of every format as structs, and the packing of their bit fields, written once for encoders and
// decoders. Bit positions in full: block_formats.md.
//
// All fields are bytes, so every block has alignment 1: a pointer into a file may be cast to a block pointer
// whatever its address. Multi-byte fields are little-endian and read through their get().
// Functions here are plain scalar code without target attributes; target code may inline them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/half.h"

namespace quantfit::kernels {

// Unaligned little-endian fields.
struct U16 {
  std::array<std::uint8_t, 2> bytes;
  [[nodiscard]] constexpr std::uint16_t get() const noexcept {
    return static_cast<std::uint16_t>(bytes[0] | (bytes[1] << 8));
  }
  constexpr void set(std::uint32_t value) noexcept {
    bytes = {static_cast<std::uint8_t>(value), static_cast<std::uint8_t>(value >> 8)};
  }
};

struct U32 {
  std::array<std::uint8_t, 4> bytes;
  [[nodiscard]] constexpr std::uint32_t get() const noexcept {
    return std::uint32_t{bytes[0]} | (std::uint32_t{bytes[1]} << 8) | (std::uint32_t{bytes[2]} << 16) |
           (std::uint32_t{bytes[3]} << 24);
  }
  constexpr void set(std::uint32_t value) noexcept {
    bytes = {static_cast<std::uint8_t>(value), static_cast<std::uint8_t>(value >> 8),
             static_cast<std::uint8_t>(value >> 16), static_cast<std::uint8_t>(value >> 24)};
  }
};

// A binary16 number.
struct Half {
  U16 pattern;
  [[nodiscard]] constexpr float get() const noexcept { return half_to_float(pattern.get()); }
  // Rounds to nearest even; the caller keeps |value| below 65520, from where it would become infinite.
  constexpr void set(float value) noexcept { pattern.set(float_to_half(value)); }
  // Exponent bits not all ones.
  [[nodiscard]] constexpr bool finite() const noexcept { return (pattern.get() & 0x7C00U) != 0x7C00U; }
};

// ---- Blocks of 32 to 128 weights
// -------------------------------------------------------------------------------

// Q4_0: w = d * (q - 8). 18 bytes per 32 weights = 4.5 bpw.
struct BlockQ4_0 {
  Half d;                           // scale, may be negative
  std::array<std::uint8_t, 16> qs;  // byte k: codes of k (low nibble) and k + 16 (high nibble)
};
static_assert(sizeof(BlockQ4_0) == 18 && 8.0 * sizeof(BlockQ4_0) / 32 == 4.5);

// Q4_1: w = d * q + m. 20 bytes per 32 weights = 5 bpw.
struct BlockQ4_1 {
  Half d;                           // step
  Half m;                           // value of code 0, added
  std::array<std::uint8_t, 16> qs;  // as Q4_0
};
static_assert(sizeof(BlockQ4_1) == 20 && 8.0 * sizeof(BlockQ4_1) / 32 == 5.0);

// Q5_0: w = d * (q - 16). 22 bytes per 32 weights = 5.5 bpw.
struct BlockQ5_0 {
  Half d;
  U32 qh;                           // bit i: fifth bit of code i
  std::array<std::uint8_t, 16> qs;  // low nibbles as Q4_0
};
static_assert(sizeof(BlockQ5_0) == 22 && 8.0 * sizeof(BlockQ5_0) / 32 == 5.5);

// Q5_1: w = d * q + m. 24 bytes per 32 weights = 6 bpw.
struct BlockQ5_1 {
  Half d;
  Half m;
  U32 qh;                           // bit i: fifth bit of code i
  std::array<std::uint8_t, 16> qs;  // low nibbles as Q4_0
};
static_assert(sizeof(BlockQ5_1) == 24 && 8.0 * sizeof(BlockQ5_1) / 32 == 6.0);

// Q8_0: w = d * q. 34 bytes per 32 weights = 8.5 bpw. Codes -127..127; -128 decodes but is not to be written.
struct BlockQ8_0 {
  Half d;
  std::array<std::int8_t, 32> qs;
};
static_assert(sizeof(BlockQ8_0) == 34 && 8.0 * sizeof(BlockQ8_0) / 32 == 8.5);

// Q1_0: w = d where the bit is set, else -d. 18 bytes per 128 weights = 1.125 bpw.
struct BlockQ1_0 {
  Half d;
  std::array<std::uint8_t, 16> qs;  // weight i: bit i % 8 of byte i / 8
};
static_assert(sizeof(BlockQ1_0) == 18 && 8.0 * sizeof(BlockQ1_0) / 128 == 1.125);

// Q2_0: w = d * (q - 1), q in 0..3. 18 bytes per 64 weights = 2.25 bpw.
struct BlockQ2_0 {
  Half d;
  std::array<std::uint8_t, 16> qs;  // weight i: bits 2 (i % 4) and up of byte i / 4
};
static_assert(sizeof(BlockQ2_0) == 18 && 8.0 * sizeof(BlockQ2_0) / 64 == 2.25);

// IQ4_NL: w = d * iq4nl_values[q]. 18 bytes per 32 weights = 4.5 bpw.
struct BlockIQ4_NL {
  Half d;
  std::array<std::uint8_t, 16> qs;  // as Q4_0
};
static_assert(sizeof(BlockIQ4_NL) == 18 && 8.0 * sizeof(BlockIQ4_NL) / 32 == 4.5);

// MXFP4: w = fp4_values[q] * 2^(e - 128). 17 bytes per 32 weights = 4.25 bpw.
struct BlockMXFP4 {
  std::uint8_t e;                   // E8M0 exponent, 255 is invalid
  std::array<std::uint8_t, 16> qs;  // as Q4_0
};
static_assert(sizeof(BlockMXFP4) == 17 && 8.0 * sizeof(BlockMXFP4) / 32 == 4.25);

// NVFP4: w = fp4_values[q] * ue4m3(scale) / 2. 36 bytes per 64 weights = 4.5 bpw.
struct BlockNVFP4 {
  std::array<std::uint8_t, 4> scales;  // UE4M3, one per 16 weights
  std::array<std::uint8_t, 32> qs;     // group s: bytes 8 s and up; byte k: codes of k (low) and k + 8 (high)
};
static_assert(sizeof(BlockNVFP4) == 36 && 8.0 * sizeof(BlockNVFP4) / 64 == 4.5);

// ---- Super-blocks of 256 weights
// -------------------------------------------------------------------------------

// Q2_K: 16 groups of 16; w = d * scale * q - dmin * min, scale and min in 0..15, q in 0..3.
// 84 bytes per 256 weights = 2.625 bpw.
struct BlockQ2_K {
  std::array<std::uint8_t, 16> scales;  // low nibble: scale of the group, high nibble: its minimum
  std::array<std::uint8_t, 64> qs;      // pack_2_bit
  Half d;
  Half dmin;
};
static_assert(sizeof(BlockQ2_K) == 84 && 8.0 * sizeof(BlockQ2_K) / 256 == 2.625);

// Q3_K: 16 groups of 16; w = d * (scale - 32) * (q - 4), q in 0..7. 110 bytes per 256 weights = 3.4375 bpw.
struct BlockQ3_K {
  std::array<std::uint8_t, 32> hmask;   // third bit of the codes, pack_high_bits
  std::array<std::uint8_t, 64> qs;      // low two bits of the codes, pack_2_bit
  std::array<std::uint8_t, 12> scales;  // pack_q3_k_scales
  Half d;
};
static_assert(sizeof(BlockQ3_K) == 110 && 8.0 * sizeof(BlockQ3_K) / 256 == 3.4375);

// Q4_K: 8 groups of 32; w = d * scale * q - dmin * min, scale and min in 0..63, q in 0..15.
// 144 bytes per 256 weights = 4.5 bpw.
struct BlockQ4_K {
  Half d;                               // scale of the group scales
  Half dmin;                            // scale of the group minimums
  std::array<std::uint8_t, 12> scales;  // pack_scales_minimums
  std::array<std::uint8_t, 128> qs;     // pack_4_bit
};
static_assert(sizeof(BlockQ4_K) == 144 && 8.0 * sizeof(BlockQ4_K) / 256 == 4.5);

// Q5_K: as Q4_K with q in 0..31. 176 bytes per 256 weights = 5.5 bpw.
struct BlockQ5_K {
  Half d;
  Half dmin;
  std::array<std::uint8_t, 12> scales;  // pack_scales_minimums
  std::array<std::uint8_t, 32> qh;      // fifth bit of the codes, pack_high_bits
  std::array<std::uint8_t, 128> qs;     // low nibbles, pack_4_bit
};
static_assert(sizeof(BlockQ5_K) == 176 && 8.0 * sizeof(BlockQ5_K) / 256 == 5.5);

// Q6_K: 16 groups of 16; w = d * scale * (q - 32), q in 0..63. 210 bytes per 256 weights = 6.5625 bpw.
struct BlockQ6_K {
  std::array<std::uint8_t, 128> ql;    // low nibbles, pack_q6_k
  std::array<std::uint8_t, 64> qh;     // upper two bits, pack_2_bit
  std::array<std::int8_t, 16> scales;  // full range -128..127
  Half d;
};
static_assert(sizeof(BlockQ6_K) == 210 && 8.0 * sizeof(BlockQ6_K) / 256 == 6.5625);

// IQ2_XXS: 8 records of 32 weights; |w| = d * (0.5 + scale) / 4 * grid. 66 bytes per 256 weights = 2.0625
// bpw.
struct BlockIQ2_XXS {
  struct Record {
    std::array<std::uint8_t, 4> index;  // into iq2xxs_grid, one per 8 weights
    U32 signs_scale;                    // bits 7 k .. 7 k + 6: sign pattern of the k-th eight; 28..31: scale
  };
  Half d;
  std::array<Record, 8> records;
};
static_assert(sizeof(BlockIQ2_XXS) == 66 && 8.0 * sizeof(BlockIQ2_XXS) / 256 == 2.0625);

// IQ2_XS: |w| = d * (0.5 + scale) / 4 * grid, a scale per 16. 74 bytes per 256 weights = 2.3125 bpw.
struct BlockIQ2_XS {
  Half d;
  std::array<U16, 32> qs;  // per 8 weights: bits 0..8 index into iq2xs_grid, 9..15 sign pattern
  std::array<std::uint8_t, 8>
      scales;  // byte g: low nibble for weights 32 g .. +15, high nibble for the next 16
};
static_assert(sizeof(BlockIQ2_XS) == 74 && 8.0 * sizeof(BlockIQ2_XS) / 256 == 2.3125);

// IQ2_S: as IQ2_XS with 1024 entries and free signs. 82 bytes per 256 weights = 2.5625 bpw.
struct BlockIQ2_S {
  Half d;
  std::array<std::uint8_t, 32> qs;     // low byte of the index into iq2s_grid of eight t
  std::array<std::uint8_t, 32> signs;  // bit j: weight j of eight t is negative
  std::array<std::uint8_t, 8> qh;      // bits 2 (t % 4) and up of byte t / 4: upper index bits
  std::array<std::uint8_t, 8> scales;  // as IQ2_XS
};
static_assert(sizeof(BlockIQ2_S) == 82 && 8.0 * sizeof(BlockIQ2_S) / 256 == 2.5625);

// IQ3_XXS: |w| = d * (0.5 + scale) / 2 * grid, a scale per 32. 98 bytes per 256 weights = 3.0625 bpw.
struct BlockIQ3_XXS {
  Half d;
  std::array<std::uint8_t, 64> qs;  // index into iq3xxs_grid, one per 4 weights
  std::array<U32, 8> signs_scale;   // as in IQ2_XXS
};
static_assert(sizeof(BlockIQ3_XXS) == 98 && 8.0 * sizeof(BlockIQ3_XXS) / 256 == 3.0625);

// IQ3_S: |w| = d * (1 + 2 scale) * grid, a scale per 32, free signs. 110 bytes per 256 weights = 3.4375 bpw.
struct BlockIQ3_S {
  Half d;
  std::array<std::uint8_t, 64> qs;     // low byte of the index into iq3s_grid of four u
  std::array<std::uint8_t, 8> qh;      // bit u % 8 of byte u / 8: ninth index bit
  std::array<std::uint8_t, 32> signs;  // bit i % 8 of byte i / 8: weight i is negative
  std::array<std::uint8_t, 4>
      scales;  // byte g / 2: low nibble for even groups of 32, high nibble for odd ones
};
static_assert(sizeof(BlockIQ3_S) == 110 && 8.0 * sizeof(BlockIQ3_S) / 256 == 3.4375);

// IQ1_S: w = d * (2 scale + 1) * (grid +- 1/8), scale and shift per 32. 50 bytes per 256 weights = 1.5625
// bpw.
struct BlockIQ1_S {
  Half d;
  std::array<std::uint8_t, 32> qs;  // low byte of the index into iq1s_grid of eight t
  std::array<U16, 8> qh;  // bits 3 k and up: upper index bits of eight k; 12..14 scale; 15 shift < 0
};
static_assert(sizeof(BlockIQ1_S) == 50 && 8.0 * sizeof(BlockIQ1_S) / 256 == 1.5625);

// IQ1_M: as IQ1_S with a scale per 16 and a shift per 8. 56 bytes per 256 weights = 1.75 bpw.
struct BlockIQ1_M {
  std::array<std::uint8_t, 32> qs;  // low byte of the index into iq1s_grid of eight t
  std::array<std::uint8_t, 16> qh;  // nibble t (low first): upper three index bits, bit 3: shift < 0
  std::array<U16, 4> scales;        // bits 3 (b % 4) and up of word b / 4: scale of sixteen b; top nibbles: d
  // The block scale, scattered over the top nibbles, lowest first.
  [[nodiscard]] constexpr std::uint16_t d_pattern() const noexcept {
    return static_cast<std::uint16_t>((scales[0].get() >> 12) | ((scales[1].get() >> 12) << 4) |
                                      ((scales[2].get() >> 12) << 8) | ((scales[3].get() >> 12) << 12));
  }
  [[nodiscard]] constexpr float d() const noexcept { return half_to_float(d_pattern()); }
  [[nodiscard]] constexpr std::uint32_t scale(std::size_t b) const noexcept {
    return (scales[b / 4].get() >> (3 * (b % 4))) & 7U;
  }
  // `scale_codes` 0..7 of the 16 groups and the bits of d.
  constexpr void set_scales(const std::uint8_t* scale_codes, std::uint16_t pattern) noexcept {
    for (std::size_t word = 0; word < 4; ++word) {
      std::uint32_t value = ((pattern >> (4 * word)) & 15U) << 12;
      for (std::size_t k = 0; k < 4; ++k) value |= std::uint32_t{scale_codes[4 * word + k]} << (3 * k);
      scales[word].set(value);
    }
  }
};
static_assert(sizeof(BlockIQ1_M) == 56 && 8.0 * sizeof(BlockIQ1_M) / 256 == 1.75);

// IQ4_XS: w = d * (scale - 32) * iq4nl_values[q], a scale per 32. 136 bytes per 256 weights = 4.25 bpw.
struct BlockIQ4_XS {
  Half d;
  U16 scales_high;                         // bits 2 g and up: upper bits of the scale of group g
  std::array<std::uint8_t, 4> scales_low;  // nibble g (low first): low bits of the scale
  std::array<std::uint8_t, 128> qs;        // group g: 16 bytes as in Q4_0
  [[nodiscard]] constexpr std::uint32_t scale(std::size_t g) const noexcept {
    return ((scales_low[g / 2] >> (4 * (g % 2))) & 15U) | (((scales_high.get() >> (2 * g)) & 3U) << 4);
  }
  // `codes` 0..63 of the 8 groups.
  constexpr void set_scales(const std::uint8_t* codes) noexcept {
    std::uint32_t high = 0;
    for (std::size_t g = 0; g < 8; ++g)
      high |= std::uint32_t{static_cast<std::uint8_t>(codes[g] >> 4)} << (2 * g);
    scales_high.set(high);
    for (std::size_t k = 0; k < 4; ++k)
      scales_low[k] = static_cast<std::uint8_t>((codes[2 * k] & 15) | ((codes[2 * k + 1] & 15) << 4));
  }
};
static_assert(sizeof(BlockIQ4_XS) == 136 && 8.0 * sizeof(BlockIQ4_XS) / 256 == 4.25);

// TQ1_0: w = d * (trit - 1), five trits per byte. 54 bytes per 256 weights = 1.6875 bpw.
struct BlockTQ1_0 {
  std::array<std::uint8_t, 48> qs;  // bytes 0..31: weights m + 32 n; 32..47: weights 160 + m + 16 n; n = 0..4
  std::array<std::uint8_t, 4> qh;   // weights 240 + m + 4 n, n = 0..3; the fifth trit is 0
  Half d;
};
static_assert(sizeof(BlockTQ1_0) == 54 && 8.0 * sizeof(BlockTQ1_0) / 256 == 1.6875);

// TQ2_0: w = d * (q - 1), q in 0..2. 66 bytes per 256 weights = 2.0625 bpw.
struct BlockTQ2_0 {
  std::array<std::uint8_t, 64> qs;  // pack_2_bit
  Half d;
};
static_assert(sizeof(BlockTQ2_0) == 66 && 8.0 * sizeof(BlockTQ2_0) / 256 == 2.0625);

// ---- Packing of bit fields
// ------------------------------------------------------------------------------------- `codes` are one byte
// per weight; bits above the field must be zero unless stated.

// Nibble order of all 4-bit formats: byte k of `bytes` holds code k (low) and code k + count / 2 (high).
// count = 32: Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS, MXFP4; 64: Q4_K, Q5_K; 16: NVFP4.
// Takes the low four bits of each code.
constexpr void pack_nibbles(const std::uint8_t* codes, std::size_t count, std::uint8_t* bytes) noexcept {
  for (std::size_t k = 0; k < count / 2; ++k)
    bytes[k] = static_cast<std::uint8_t>((codes[k] & 15) | ((codes[k + count / 2] & 15) << 4));
}
constexpr void unpack_nibbles(const std::uint8_t* bytes, std::size_t count, std::uint8_t* codes) noexcept {
  for (std::size_t k = 0; k < count / 2; ++k) {
    codes[k] = bytes[k] & 15;
    codes[k + count / 2] = static_cast<std::uint8_t>(bytes[k] >> 4);
  }
}

// 256 low nibbles into 128 bytes, chunks of 64 (Q4_K, Q5_K).
constexpr void pack_4_bit(const std::uint8_t* codes, std::uint8_t* qs) noexcept {
  for (std::size_t c = 0; c < 4; ++c) pack_nibbles(codes + 64 * c, 64, qs + 32 * c);
}
constexpr void unpack_4_bit(const std::uint8_t* qs, std::uint8_t* codes) noexcept {
  for (std::size_t c = 0; c < 4; ++c) unpack_nibbles(qs + 32 * c, 64, codes + 64 * c);
}

// 256 codes of two bits into 64 bytes: in each half of 128, weight 32 j + l sits in bits 2 j and up of byte l
// (Q2_K, TQ2_0, the low bits of Q3_K, the upper bits of Q6_K). Takes the low two bits of each code.
constexpr void pack_2_bit(const std::uint8_t* codes, std::uint8_t* qs) noexcept {
  for (std::size_t h = 0; h < 2; ++h)
    for (std::size_t l = 0; l < 32; ++l) {
      const std::uint8_t* c = codes + 128 * h + l;
      qs[32 * h + l] = static_cast<std::uint8_t>((c[0] & 3) | ((c[32] & 3) << 2) | ((c[64] & 3) << 4) |
                                                 ((c[96] & 3) << 6));
    }
}
constexpr void unpack_2_bit(const std::uint8_t* qs, std::uint8_t* codes) noexcept {
  for (std::size_t h = 0; h < 2; ++h)
    for (std::size_t j = 0; j < 4; ++j)
      for (std::size_t l = 0; l < 32; ++l) codes[128 * h + 32 * j + l] = (qs[32 * h + l] >> (2 * j)) & 3;
}

// Bit `bit` of 256 codes into 32 bytes: weight i goes to bit i / 32 of byte i % 32
// (Q3_K: bit 2, Q5_K: bit 4).
constexpr void pack_high_bits(const std::uint8_t* codes, unsigned bit, std::uint8_t* bytes) noexcept {
  for (std::size_t l = 0; l < 32; ++l) {
    unsigned byte = 0;
    for (std::size_t g = 0; g < 8; ++g) byte |= ((unsigned{codes[32 * g + l]} >> bit) & 1U) << g;
    bytes[l] = static_cast<std::uint8_t>(byte);
  }
}
// Sets bit `bit` of the codes where the packed bit is set, leaves the others.
constexpr void unpack_high_bits(const std::uint8_t* bytes, unsigned bit, std::uint8_t* codes) noexcept {
  for (std::size_t g = 0; g < 8; ++g)
    for (std::size_t l = 0; l < 32; ++l)
      codes[32 * g + l] = static_cast<std::uint8_t>(codes[32 * g + l] | (((bytes[l] >> g) & 1U) << bit));
}

// Bit 4 of 32 codes as one word (Q5_0, Q5_1).
[[nodiscard]] constexpr std::uint32_t pack_fifth_bits(const std::uint8_t* codes) noexcept {
  std::uint32_t word = 0;
  for (unsigned i = 0; i < 32; ++i) word |= ((std::uint32_t{codes[i]} >> 4) & 1U) << i;
  return word;
}

// 256 codes 0..63 of Q6_K.
constexpr void pack_q6_k(const std::uint8_t* codes, BlockQ6_K& block) noexcept {
  std::uint8_t high[256] = {};
  for (std::size_t i = 0; i < 256; ++i) high[i] = static_cast<std::uint8_t>(codes[i] >> 4);
  // In each half, weights 0..63 are low nibbles and 64..127 high nibbles of the same 64 bytes.
  for (std::size_t h = 0; h < 2; ++h) pack_nibbles(codes + 128 * h, 128, block.ql.data() + 64 * h);
  pack_2_bit(high, block.qh.data());
}
constexpr void unpack_q6_k(const BlockQ6_K& block, std::uint8_t* codes) noexcept {
  std::uint8_t high[256] = {};
  unpack_2_bit(block.qh.data(), high);
  for (std::size_t h = 0; h < 2; ++h) unpack_nibbles(block.ql.data() + 64 * h, 128, codes + 128 * h);
  for (std::size_t i = 0; i < 256; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | (high[i] << 4));
}

// Eight 6-bit scales and eight 6-bit minimums in 12 bytes (Q4_K, Q5_K): groups 0..3 in the low six bits of
// bytes g (scale) and g + 4 (minimum); groups 4..7 with four bits in byte g + 4 (scale low, minimum high
// nibble) and their upper two bits on top of bytes g - 4 (scale) and g (minimum).
constexpr void pack_scales_minimums(const std::uint8_t* scales, const std::uint8_t* minimums,
                                    std::uint8_t* packed) noexcept {
  for (std::size_t g = 0; g < 4; ++g) {
    packed[g] = static_cast<std::uint8_t>((scales[g] & 63) | ((scales[g + 4] >> 4) << 6));
    packed[g + 4] = static_cast<std::uint8_t>((minimums[g] & 63) | ((minimums[g + 4] >> 4) << 6));
    packed[g + 8] = static_cast<std::uint8_t>((scales[g + 4] & 15) | ((minimums[g + 4] & 15) << 4));
  }
}
constexpr void unpack_scales_minimums(const std::uint8_t* packed, std::uint8_t* scales,
                                      std::uint8_t* minimums) noexcept {
  for (std::size_t g = 0; g < 4; ++g) {
    scales[g] = packed[g] & 63;
    minimums[g] = packed[g + 4] & 63;
    scales[g + 4] = static_cast<std::uint8_t>((packed[g + 8] & 15) | ((packed[g] >> 6) << 4));
    minimums[g + 4] = static_cast<std::uint8_t>((packed[g + 8] >> 4) | ((packed[g + 4] >> 6) << 4));
  }
}

// Sixteen 6-bit scale codes (scale + 32) in 12 bytes (Q3_K): low four bits of group g in a nibble of byte g %
// 8 (low nibble for g < 8), upper two bits in bits 2 (g / 4) and up of byte 8 + g % 4.
constexpr void pack_q3_k_scales(const std::uint8_t* codes, std::uint8_t* packed) noexcept {
  for (std::size_t k = 0; k < 8; ++k)
    packed[k] = static_cast<std::uint8_t>((codes[k] & 15) | ((codes[k + 8] & 15) << 4));
  for (std::size_t k = 0; k < 4; ++k)
    packed[8 + k] = static_cast<std::uint8_t>((codes[k] >> 4) | ((codes[k + 4] >> 4) << 2) |
                                              ((codes[k + 8] >> 4) << 4) | ((codes[k + 12] >> 4) << 6));
}
constexpr void unpack_q3_k_scales(const std::uint8_t* packed, std::uint8_t* codes) noexcept {
  for (std::size_t g = 0; g < 16; ++g) {
    const unsigned low = g < 8 ? packed[g] & 15U : unsigned{packed[g - 8]} >> 4;
    codes[g] = static_cast<std::uint8_t>(low | (((packed[8 + g % 4] >> (2 * (g / 4))) & 3U) << 4));
  }
}

// Five trits (0..2), t0 first, in one byte: the fraction v / 243 rounded up to 256ths, so that multiplying by
// 3 brings one trit after the other out on top.
[[nodiscard]] constexpr std::uint8_t pack_trits(unsigned t0, unsigned t1, unsigned t2, unsigned t3,
                                                unsigned t4) noexcept {
  const unsigned v = (((t0 * 3 + t1) * 3 + t2) * 3 + t3) * 3 + t4;
  return static_cast<std::uint8_t>((v * 256 + 242) / 243);
}
[[nodiscard]] constexpr std::uint8_t unpack_trit(std::uint8_t byte, unsigned n) noexcept {
  constexpr std::uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  const auto shifted = static_cast<std::uint8_t>(byte * kPowers[n]);
  return static_cast<std::uint8_t>((unsigned{shifted} * 3) >> 8);
}
// 256 trits 0..2 of TQ1_0.
constexpr void pack_tq1_0(const std::uint8_t* trits, BlockTQ1_0& block) noexcept {
  for (std::size_t m = 0; m < 32; ++m)
    block.qs[m] = pack_trits(trits[m], trits[m + 32], trits[m + 64], trits[m + 96], trits[m + 128]);
  for (std::size_t m = 0; m < 16; ++m)
    block.qs[32 + m] =
        pack_trits(trits[160 + m], trits[176 + m], trits[192 + m], trits[208 + m], trits[224 + m]);
  for (std::size_t m = 0; m < 4; ++m)
    block.qh[m] = pack_trits(trits[240 + m], trits[244 + m], trits[248 + m], trits[252 + m], 0);
}

// The sign pattern of eight weights from its index: the index in the low seven bits, its parity in bit 7, so
// that the number of negative signs is even (IQ2_XXS, IQ2_XS, IQ3_XXS).
[[nodiscard]] constexpr std::uint8_t sign_pattern(std::uint32_t index) noexcept {
  std::uint32_t parity = index ^ (index >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return static_cast<std::uint8_t>(index | ((parity & 1U) << 7));
}

// The patterns of two adjacent eights, the first in the low byte: both parities at once.
[[nodiscard]] constexpr std::uint32_t two_sign_patterns(std::uint32_t first, std::uint32_t second) noexcept {
  const std::uint32_t both = first | (second << 8);
  // Bit 0 of each byte collects the byte's parity; shifts carry foreign bits only into bits that are dropped.
  std::uint32_t parity = both ^ (both >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return both | ((parity & 0x0101U) << 7);
}

}  // namespace quantfit::kernels

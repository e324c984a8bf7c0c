// The constant tables of the block formats. Their entries and the order of the
// entries are part of the formats.
//
// Grid entries are integers whose byte j, the least significant first, is element j of the vector. On
// little-endian machines (all that this program supports) the tables may thus be read as bytes.
// The data are generated from kernels/codebooks/*.txt by scripts/generate_codebooks.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace quantfit::kernels {

static_assert(std::endian::native == std::endian::little, "codebooks are read as bytes");

extern const std::array<std::uint64_t, 256> kIq2xxsGrid;  // magnitudes 8, 25, 43; ascending
extern const std::array<std::uint64_t, 512> kIq2xsGrid;   // magnitudes 8, 25, 43; ascending
extern const std::array<std::uint64_t, 1024> kIq2sGrid;   // magnitudes 8, 25, 43; ascending
extern const std::array<std::uint32_t, 256>
    kIq3xxsGrid;                                        // magnitudes 4, 12, 20, 28, 36, 44, 52, 62; ascending
extern const std::array<std::uint32_t, 512> kIq3sGrid;  // magnitudes 1, 3, ..., 15; ascending
extern const std::array<std::uint64_t, 2048> kIq1sGrid;  // signed -1, 0, 1; no order

// Added to or subtracted from the grid values of IQ1_S and IQ1_M.
inline constexpr float kIq1Shift = 0.125F;

extern const std::array<std::int8_t, 16> kIq4nlValues;  // levels of IQ4_NL and IQ4_XS, ascending, none zero
extern const std::array<std::int8_t, 16> kFp4Values;    // levels of MXFP4 and NVFP4: E2M1 numbers times 2

// Scales of MXFP4 and NVFP4 by their byte, halved because the levels are doubled.
extern const std::array<float, 256> kE8m0HalfScale;   // 2^(byte - 128); entry 255 is no valid byte
extern const std::array<float, 256> kUe4m3HalfScale;  // bit 7 is ignored, but 0x7F gives 0

}  // namespace quantfit::kernels

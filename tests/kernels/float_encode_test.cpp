// F16 and BF16 as targets: nearest even, never infinite, rows of any length.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "kernels/row_quantizer.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

std::vector<std::uint16_t> encode(const RowKernels& kernels, Format format, const std::vector<float>& row) {
  const ColumnMetric metric(row.size(), {}, {}, 1.0F);
  RowQuantizer quantizer(kernels, row.size());
  const auto loaded = quantizer.load(Format::F32, std::as_bytes(std::span(row)), metric);
  EXPECT_TRUE(loaded);
  // One byte before the row and some behind it: unaligned output, and nothing written beyond.
  std::vector<std::byte> bytes(1 + 2 * row.size() + 8, std::byte{0x5A});
  quantizer.encode(format, Effort::Default, bytes.data() + 1);
  EXPECT_EQ(bytes.front(), std::byte{0x5A});
  for (std::size_t k = 1 + 2 * row.size(); k < bytes.size(); ++k) EXPECT_EQ(bytes[k], std::byte{0x5A});
  std::vector<std::uint16_t> out(row.size());
  std::memcpy(out.data(), bytes.data() + 1, 2 * row.size());
  return out;
}

TEST(FloatEncodeTest, RoundsLikeTheScalarConversionsAndStaysFinite) {
  auto patterns =
      test::read_array<std::uint32_t>(test::data_dir() / "golden/convert/round_in_f32_every_307th.bin");
  std::mt19937 random(9);
  for (int k = 0; k < 20000; ++k) patterns.push_back(static_cast<std::uint32_t>(random()));
  for (const float edge : {65503.9F, 65504.0F, 65519.996F, 65520.0F, 1e30F, 3.4028235e38F, 3.39e38F, 0.0F,
                           -0.0F, 6.1035156e-05F, 6.1e-05F, 2.9802322e-08F, 2.9802326e-08F, 1e-40F}) {
    patterns.push_back(std::bit_cast<std::uint32_t>(edge));
    patterns.push_back(std::bit_cast<std::uint32_t>(-edge));
  }
  std::vector<float> row;
  for (const std::uint32_t pattern : patterns)
    if ((pattern & 0x7F800000U) != 0x7F800000U) row.push_back(std::bit_cast<float>(pattern));
  for (const RowKernels& kernels : runnable_kernels()) {
    const auto halves = encode(kernels, Format::F16, row);
    const auto bfloats = encode(kernels, Format::BF16, row);
    for (std::size_t j = 0; j < row.size(); ++j) {
      std::uint16_t half = float_to_half(row[j]);
      if ((half & 0x7FFFU) == 0x7C00U) half = static_cast<std::uint16_t>((half & 0x8000U) | 0x7BFFU);
      std::uint16_t bfloat = float_to_bfloat16(row[j]);
      if ((bfloat & 0x7FFFU) == 0x7F80U) bfloat = static_cast<std::uint16_t>((bfloat & 0x8000U) | 0x7F7FU);
      ASSERT_EQ(halves[j], half) << row[j] << " on " << kernels.isa;
      ASSERT_EQ(bfloats[j], bfloat) << row[j] << " on " << kernels.isa;
    }
  }
}

TEST(FloatEncodeTest, RowsOfAnyLength) {
  for (const RowKernels& kernels : runnable_kernels()) {
    for (const std::size_t columns : {1U, 2U, 15U, 16U, 17U, 31U, 33U, 100U}) {
      std::vector<float> row(columns);
      for (std::size_t j = 0; j < columns; ++j) row[j] = std::sin(static_cast<float>(j) + 1.0F);
      const auto halves = encode(kernels, Format::F16, row);
      for (std::size_t j = 0; j < columns; ++j) EXPECT_EQ(halves[j], float_to_half(row[j]));
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels

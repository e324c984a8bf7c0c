#include "kernels/block_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/row_kernels.h"

namespace quantfit::kernels {
namespace {

std::vector<std::byte> random_block(const FormatTraits& format, std::mt19937& random) {
  std::vector<std::byte> block(format.block_bytes);
  for (std::byte& byte : block) byte = static_cast<std::byte>(random() & 0xFFU);
  return block;
}

TEST(BlockScales, WeightsAreLinearInThem) {
  const RowKernels& kernels = *default_kernels().value();
  std::mt19937 random(3);
  std::size_t seen = 0;
  for (const FormatTraits& format : all_formats()) {
    const std::size_t count = block_scales(format.format);
    if (count == 0) continue;
    ++seen;
    const DecodeRow decode = kernels.decode[static_cast<std::size_t>(format.format)];
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<std::byte> block = random_block(format, random);
      const std::vector<float> scales = {0.0173F, -0.0481F};
      std::vector<double> expected(format.block_len, 0.0), size(format.block_len, 0.0);
      std::vector<float> decoded(format.block_len);
      for (std::size_t k = 0; k < count; ++k) {
        for (std::size_t other = 0; other < count; ++other)
          set_block_scale(format.format, block.data(), other, other == k ? 1.0F : 0.0F);
        decode(block.data(), decoded.size(), decoded.data());
        set_block_scale(format.format, block.data(), k, scales[k]);
        const double stored = block_scale(format.format, block.data(), k);
        EXPECT_NEAR(stored, scales[k], std::abs(scales[k]) * 0x1p-11) << format.name;
        for (std::size_t i = 0; i < decoded.size(); ++i)
          expected[i] += stored * decoded[i], size[i] += std::abs(stored * decoded[i]);
      }
      for (std::size_t k = 0; k < count; ++k) set_block_scale(format.format, block.data(), k, scales[k]);
      decode(block.data(), decoded.size(), decoded.data());
      for (std::size_t i = 0; i < decoded.size(); ++i)
        EXPECT_NEAR(decoded[i], expected[i], size[i] * 1e-6) << format.name << " " << i;
    }
  }
  EXPECT_EQ(seen, 23U);
}

TEST(BlockScales, NothingElseChanges) {
  std::mt19937 random(4);
  for (const FormatTraits& format : all_formats()) {
    for (std::size_t k = 0; k < block_scales(format.format); ++k) {
      std::vector<std::byte> block = random_block(format, random);
      set_block_scale(format.format, block.data(), k, 1.5F);
      const std::vector<std::byte> before = block;
      set_block_scale(format.format, block.data(), k, -0.25F);
      EXPECT_NE(before, block) << format.name;
      set_block_scale(format.format, block.data(), k, 1.5F);
      EXPECT_EQ(before, block) << format.name;
    }
  }
}

TEST(BlockScales, FormatsWithoutSuchNumbersHaveNone) {
  for (const Format format : {Format::MXFP4, Format::NVFP4, Format::F16, Format::F32, Format::I32})
    EXPECT_EQ(block_scales(format), 0U);
}

}  // namespace
}  // namespace quantfit::kernels

#include "kernels/block_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/block_scales.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels {
namespace {

struct Case {
  const FormatTraits* format;
  const CodeShape* shape;
  std::size_t codes;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const FormatTraits& format : all_formats())
    if (const CodeShape& shape = code_shape(format.format); shape.count != 0)
      out.push_back({&format, &shape, format.block_len / shape.group});
  return out;
}

std::vector<std::byte> random_block(const Case& one, std::mt19937& random) {
  std::vector<std::byte> block(one.format->block_bytes);
  for (std::byte& byte : block) byte = static_cast<std::byte>(random() & 0xFFU);
  for (std::size_t k = 0; k < block_scales(one.format->format); ++k)
    set_block_scale(one.format->format, block.data(), k, k == 0 ? 0.0173F : -0.0481F);
  if (one.format->format == Format::MXFP4) block[0] = std::byte{120};
  return block;
}

TEST(BlockCodes, ComeBackAndChangeNothingElse) {
  std::mt19937 random(7);
  for (const Case& one : cases()) {
    const Format format = one.format->format;
    for (int repeat = 0; repeat < 20; ++repeat) {
      const std::vector<std::byte> block = random_block(one, random);
      std::vector<std::uint16_t> codes(one.codes), other(one.codes), back(one.codes);
      get_codes(format, block.data(), codes.data());
      for (const std::uint16_t code : codes) EXPECT_LT(code, one.shape->count) << one.format->name;
      for (std::uint16_t& code : other) code = static_cast<std::uint16_t>(random() % one.shape->count);
      std::vector<std::byte> changed = block;
      set_codes(format, changed.data(), other.data());
      get_codes(format, changed.data(), back.data());
      EXPECT_EQ(back, other) << one.format->name;
      set_codes(format, changed.data(), codes.data());
      EXPECT_EQ(changed, block) << one.format->name;
    }
  }
}

// With any codes a weight is slope * level + base, slope and base being the block's.
TEST(BlockCodes, WeightsAreLinearInLevels) {
  const RowKernels& kernels = *default_kernels().value();
  std::mt19937 random(8);
  std::size_t seen = 0;
  for (const Case& one : cases()) {
    ++seen;
    const Format format = one.format->format;
    const std::size_t n = one.format->block_len, group = one.shape->group;
    const auto decode = kernels.decode[static_cast<std::size_t>(format)];
    std::vector<std::byte> block = random_block(one, random);
    const auto weights = [&](const std::vector<std::uint16_t>& codes) {
      set_codes(format, block.data(), codes.data());
      std::vector<float> out(n);
      decode(block.data(), n, out.data());
      return out;
    };
    const auto level = [&](const std::vector<std::uint16_t>& codes, std::size_t i) {
      return static_cast<double>(one.shape->levels[codes[i / group] * group + i % group]);
    };
    std::vector<std::uint16_t> low(one.codes, 0), high(one.codes, 7), any(one.codes);
    for (std::uint16_t& code : low) code = static_cast<std::uint16_t>(random() % one.shape->count);
    for (std::uint16_t& code : any) code = static_cast<std::uint16_t>(random() % one.shape->count);
    if (one.shape->count < 8) high.assign(one.codes, 3);
    const auto w_low = weights(low), w_high = weights(high), w_any = weights(any);
    for (std::size_t i = 0; i < n; ++i) {
      if (level(high, i) == level(low, i)) continue;
      const double slope =
          (static_cast<double>(w_high[i]) - static_cast<double>(w_low[i])) / (level(high, i) - level(low, i));
      const double base = static_cast<double>(w_low[i]) - slope * level(low, i);
      if (group > 1) {
        EXPECT_NEAR(base, 0, 1e-4 * std::abs(static_cast<double>(w_low[i]))) << one.format->name;
      }
      EXPECT_NEAR(w_any[i], slope * level(any, i) + base,
                  1e-4 * (std::abs(slope) * one.shape->spacing * 8 + std::abs(base)))
          << one.format->name << " " << i;
    }
  }
  EXPECT_EQ(seen, 19U);
}

}  // namespace
}  // namespace quantfit::kernels

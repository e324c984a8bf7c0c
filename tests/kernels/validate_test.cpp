#include "kernels/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels {
namespace {

constexpr std::uint8_t kInfinity[2] = {0x00, 0x7C};
constexpr std::uint8_t kNegativeInfinity[2] = {0x00, 0xFC};
constexpr std::uint8_t kNan[2] = {0x01, 0x7C};

std::vector<std::byte> zeros(Format format, std::size_t blocks) {
  return std::vector<std::byte>(blocks * traits(format).block_bytes);
}

struct HalfField {
  Format format;
  std::size_t offset;  // of a half that must be finite
};

const std::vector<HalfField> kHalfFields = {
    {Format::F16, 0},     {Format::Q4_0, 0},   {Format::Q4_1, 0},   {Format::Q4_1, 2},   {Format::Q5_0, 0},
    {Format::Q5_1, 0},    {Format::Q5_1, 2},   {Format::Q8_0, 0},   {Format::Q1_0, 0},   {Format::Q2_0, 0},
    {Format::Q2_K, 80},   {Format::Q2_K, 82},  {Format::Q3_K, 108}, {Format::Q4_K, 0},   {Format::Q4_K, 2},
    {Format::Q5_K, 0},    {Format::Q5_K, 2},   {Format::Q6_K, 208}, {Format::TQ1_0, 52}, {Format::TQ2_0, 64},
    {Format::IQ2_XXS, 0}, {Format::IQ2_XS, 0}, {Format::IQ2_S, 0},  {Format::IQ3_S, 0},  {Format::IQ3_XXS, 0},
    {Format::IQ1_S, 0},   {Format::IQ4_NL, 0}, {Format::IQ4_XS, 0},
};

TEST(ValidateTest, EveryHalfFieldMustBeFinite) {
  for (const HalfField& field : kHalfFields) {
    for (const auto& pattern : {kInfinity, kNegativeInfinity, kNan}) {
      for (const std::size_t bad : {0U, 1U, 299U}) {
        std::vector<std::byte> bytes = zeros(field.format, 300);
        EXPECT_FALSE(first_invalid_block(field.format, bytes));
        std::memcpy(bytes.data() + bad * traits(field.format).block_bytes + field.offset, pattern, 2);
        EXPECT_EQ(first_invalid_block(field.format, bytes), bad)
            << name_of(field.format) << " " << field.offset;
      }
    }
  }
}

// All bits set everywhere else is fine: no code can be out of range.
TEST(ValidateTest, CodesAreNeverInvalid) {
  for (const HalfField& field : kHalfFields) {
    std::vector<std::byte> bytes = zeros(field.format, 1);
    std::fill(bytes.begin(), bytes.end(), std::byte{0xFF});
    for (const HalfField& other : kHalfFields)
      if (other.format == field.format) std::memset(bytes.data() + other.offset, 0x12, 2);
    EXPECT_FALSE(first_invalid_block(field.format, bytes)) << name_of(field.format);
  }
}

TEST(ValidateTest, FormatsWithOtherRules) {
  std::vector<std::byte> mxfp4 = zeros(Format::MXFP4, 3);
  mxfp4[2 * 17] = std::byte{254};
  EXPECT_FALSE(first_invalid_block(Format::MXFP4, mxfp4));
  mxfp4[2 * 17] = std::byte{255};
  EXPECT_EQ(first_invalid_block(Format::MXFP4, mxfp4), 2U);

  BlockIQ1_M block{};
  const std::uint8_t codes[16] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};
  std::vector<std::byte> iq1(sizeof(block));
  block.set_scales(codes, 0x7BFF);  // 65504
  std::memcpy(iq1.data(), &block, sizeof(block));
  EXPECT_FALSE(first_invalid_block(Format::IQ1_M, iq1));
  block.set_scales(codes, 0x7C00);
  std::memcpy(iq1.data(), &block, sizeof(block));
  EXPECT_EQ(first_invalid_block(Format::IQ1_M, iq1), 0U);

  const std::vector<std::byte> ones(36 * 8, std::byte{0xFF});
  for (const Format format : {Format::NVFP4, Format::I8, Format::I16, Format::I32, Format::I64})
    EXPECT_FALSE(first_invalid_block(format, ones)) << name_of(format);
  for (const Format format : {Format::F32, Format::F64, Format::BF16, Format::F16})
    EXPECT_EQ(first_invalid_block(format, ones), 0U) << name_of(format);
}

TEST(ValidateTest, PlainFloats) {
  std::vector<double> doubles = {0.0, -1e308, std::numeric_limits<double>::denorm_min(), 1.0};
  EXPECT_FALSE(first_invalid_block(Format::F64, std::as_bytes(std::span(doubles))));
  doubles[3] = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(first_invalid_block(Format::F64, std::as_bytes(std::span(doubles))), 3U);
  std::vector<float> floats = {0.0F, std::numeric_limits<float>::max(), -1e-45F};
  EXPECT_FALSE(first_invalid_block(Format::F32, std::as_bytes(std::span(floats))));
  floats[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(first_invalid_block(Format::F32, std::as_bytes(std::span(floats))), 1U);
}

// The rule says exactly which blocks decode to finite numbers: random blocks, checked one by one.
TEST(ValidateTest, ValidMeansThatEveryWeightIsFinite) {
  std::mt19937 random(12);
  for (const FormatTraits& format : all_formats()) {
    const DecodeRow decode = runnable_kernels().front().decode[static_cast<std::size_t>(format.format)];
    if (decode == nullptr) continue;
    std::size_t invalid = 0;
    for (int round = 0; round < 3000; ++round) {
      std::vector<std::byte> bytes(format.block_bytes);
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
      // Exponents that overflow although the format calls them valid.
      if (format.format == Format::MXFP4 && (bytes[0] == std::byte{253} || bytes[0] == std::byte{254}))
        continue;
      std::vector<float> out(format.block_len);
      decode(bytes.data(), out.size(), out.data());
      const bool finite = std::all_of(out.begin(), out.end(), [](float v) { return std::isfinite(v); });
      // An E8M0 of 255 is refused as a code, its decoded value overflows only for the larger codes.
      if (format.format == Format::MXFP4 && bytes[0] == std::byte{255}) {
        EXPECT_TRUE(first_invalid_block(format.format, bytes));
      } else {
        EXPECT_EQ(!first_invalid_block(format.format, bytes), finite) << format.name;
      }
      invalid += first_invalid_block(format.format, bytes) ? 1U : 0U;
    }
    if (format.format != Format::NVFP4) {
      EXPECT_GT(invalid, 0U) << format.name;  // the rule was really tried
    }
  }
}

TEST(ValidateTest, ErrorsNameTheBlockAndTheSize) {
  std::vector<std::byte> bytes = zeros(Format::Q6_K, 4);
  EXPECT_TRUE(validate_blocks(Format::Q6_K, bytes));
  std::memcpy(bytes.data() + 3 * 210 + 208, kNan, 2);
  const auto invalid = validate_blocks(Format::Q6_K, bytes);
  ASSERT_FALSE(invalid);
  EXPECT_EQ(invalid.error().code, ErrorCode::Malformed);
  EXPECT_THAT(invalid.error().message, testing::HasSubstr("Q6_K block 3"));
  bytes.pop_back();
  const auto cut = validate_blocks(Format::Q6_K, bytes);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().code, ErrorCode::ShapeMismatch);
}

}  // namespace
}  // namespace quantfit::kernels

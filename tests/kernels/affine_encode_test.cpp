// Encoders of the formats with linear or table levels: equal bytes on every instruction set, errors against
// ggml's encoder on golden rows, hostile rows, and what is left of the bias term.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "kernels/validate.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

constexpr Format kFormats[] = {Format::Q4_0,   Format::Q4_1,   Format::Q5_0,  Format::Q5_1,  Format::Q8_0,
                               Format::Q2_K,   Format::Q3_K,   Format::Q4_K,  Format::Q5_K,  Format::Q6_K,
                               Format::IQ4_NL, Format::IQ4_XS, Format::MXFP4, Format::NVFP4, Format::TQ1_0,
                               Format::TQ2_0,  Format::Q1_0,   Format::Q2_0};
constexpr Effort kEfforts[] = {Effort::Fast, Effort::Default, Effort::Max};

// Formats of blocks of 256 only take rows of whole blocks.
bool fits(Format format, std::size_t columns) {
  return columns % traits(format).block_len == 0;
}

std::vector<float> random_row(std::size_t columns, std::uint32_t seed, double scale = 0.02) {
  std::mt19937 random(seed);
  std::student_t_distribution<double> heavy(4.0);
  std::vector<float> row(columns);
  for (float& x : row) x = static_cast<float>(scale * heavy(random));
  return row;
}

// Second moments over two decades and means that make up a tenth of them.
struct Inputs {
  std::vector<float> second_moment, mean;
  Inputs(std::size_t columns, std::uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (std::size_t j = 0; j < columns; ++j) {
      const double a = std::exp(1.2 * normal(random));
      second_moment.push_back(static_cast<float>(a));
      mean.push_back(static_cast<float>(std::sqrt(a) * std::clamp(0.3 * normal(random), -0.9, 0.9)));
    }
  }
};

std::span<const std::byte> bytes_of(std::span<const float> row) {
  return std::as_bytes(row);
}

std::vector<std::byte> encode(const RowKernels& kernels, const ColumnMetric& metric,
                              std::span<const float> row, Format format, Effort effort) {
  RowQuantizer quantizer(kernels, row.size());
  EXPECT_TRUE(quantizer.load(Format::F32, bytes_of(row), metric));
  std::vector<std::byte> out(row_bytes(format, row.size()).value());
  quantizer.encode(format, effort, out.data());
  return out;
}

TEST(AffineEncodeTest, EveryInstructionSetGivesTheSameBytes) {
  const RowKernels& scalar = runnable_kernels().back();
  for (const std::size_t columns : {32U, 64U, 256U, 288U, 640U, 768U}) {
    const Inputs inputs(columns, 5);
    const ColumnMetric with_means(columns, inputs.second_moment, inputs.mean, 2.5F);
    const ColumnMetric plain(columns, {}, {}, 1.0F);
    for (const ColumnMetric* metric : {&with_means, &plain}) {
      const std::vector<float> row = random_row(columns, static_cast<std::uint32_t>(columns));
      for (const Format format : kFormats) {
        if (!fits(format, columns)) continue;
        for (const Effort effort : kEfforts) {
          const auto expected = encode(scalar, *metric, row, format, effort);
          EXPECT_FALSE(first_invalid_block(format, expected));
          for (const RowKernels& kernels : runnable_kernels())
            EXPECT_EQ(encode(kernels, *metric, row, format, effort), expected)
                << name_of(format) << " on " << kernels.isa << ", " << columns << " columns";
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels

// Encoders of the formats with codebooks: the search over codebook and signs is exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "core/format.h"
#include "kernels/blocks.h"
#include "kernels/codebooks.h"
#include "tests/kernels/encoder_rows.h"

namespace quantfit::kernels {
namespace {

// The least of sum w (x - s g)^2 over a whole codebook and the signs that its format
// allows, for eight weights.
double least_cost_of_eight(Format format, const float* x, const float* w, double s) {
  const auto error = [&](int k, double level) { return w[k] * (x[k] - s * level) * (x[k] - s * level); };
  double least = 1e300;
  if (format == Format::IQ1_M) {
    for (const double shift : {0.125, -0.125})
      for (const std::uint64_t entry : kIq1sGrid) {
        double cost = 0;
        for (int k = 0; k < 8; ++k) cost += error(k, static_cast<std::int8_t>(entry >> (8 * k)) + shift);
        least = std::min(least, cost);
      }
    return least;
  }
  for (unsigned pattern = 0; pattern < 128; ++pattern) {
    const unsigned negative = sign_pattern(pattern);
    const auto signed_error = [&](int k, std::uint64_t level) {
      return error(k, ((negative >> k) & 1U) != 0 ? -static_cast<double>(level) : static_cast<double>(level));
    };
    if (format == Format::IQ2_XXS) {
      for (const std::uint64_t entry : kIq2xxsGrid) {
        double cost = 0;
        for (int k = 0; k < 8; ++k) cost += signed_error(k, (entry >> (8 * k)) & 255U);
        least = std::min(least, cost);
      }
    } else {
      double total = 0;
      for (int half = 0; half < 2; ++half) {
        double best_half = 1e300;
        for (const std::uint32_t entry : kIq3xxsGrid) {
          double cost = 0;
          for (int k = 0; k < 4; ++k) cost += signed_error(4 * half + k, (entry >> (8 * k)) & 255U);
          best_half = std::min(best_half, cost);
        }
        total += best_half;
      }
      least = std::min(least, total);
    }
  }
  return least;
}

// Scale of eight `t` of the first block.
double scale_of_eight(Format format, const std::byte* bytes, std::size_t t) {
  if (format == Format::IQ1_M) {
    const auto* block = reinterpret_cast<const BlockIQ1_M*>(bytes);
    return double{block->d()} * (2 * block->scale(t / 2) + 1);
  }
  if (format == Format::IQ2_XXS) {
    const auto* block = reinterpret_cast<const BlockIQ2_XXS*>(bytes);
    return double{block->d.get()} * (0.5 + (block->records[t / 4].signs_scale.get() >> 28)) * 0.25;
  }
  const auto* block = reinterpret_cast<const BlockIQ3_XXS*>(bytes);
  return double{block->d.get()} * (0.5 + (block->signs_scale[t / 4].get() >> 28)) * 0.5;
}

TEST(CodebookEncodeTest, TheSearchIsExactForTheScalesChosen) {
  constexpr std::size_t kColumns = 256;
  std::mt19937 generator(9);
  std::normal_distribution<float> normal;
  std::vector<float> w(kColumns);
  for (float& v : w) v = std::exp(normal(generator));
  const ColumnMetric metric(kColumns, w, {}, 1);
  for (const Format format : {Format::IQ1_M, Format::IQ2_XXS, Format::IQ3_XXS}) {
    double ours = 0;
    double least = 0;
    for (int r = 0; r < 6; ++r) {
      std::vector<float> x(kColumns);
      for (float& v : x) v = 0.02F * normal(generator);
      const EncodedRow encoded = encode_row(best(), format, Effort::Max, x, metric);
      for (std::size_t t = 0; t < kColumns / 8; ++t) {
        ours += squared_error(std::span(w).subspan(8 * t, 8), std::span(x).subspan(8 * t, 8),
                              std::span(encoded.values).subspan(8 * t, 8));
        least += least_cost_of_eight(format, x.data() + 8 * t, w.data() + 8 * t,
                                     scale_of_eight(format, encoded.bytes.data(), t));
      }
    }
    // The last fit of the block scale comes after the last search.
    EXPECT_LE(ours, least * 1.0005) << name_of(format);
    EXPECT_GE(ours, least * 0.99999) << name_of(format);
  }
}

}  // namespace
}  // namespace quantfit::kernels

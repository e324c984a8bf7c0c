// Encoders of the formats with linear or table levels: never worse than plain rounding.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/codebooks.h"
#include "kernels/half.h"
#include "tests/kernels/encoder_rows.h"

namespace quantfit::kernels {
namespace {

float nearest_of(std::span<const float> levels, float scaled) {
  float nearest = levels.front();
  for (const float level : levels)
    if (std::fabs(level - scaled) < std::fabs(nearest - scaled)) nearest = level;
  return nearest;
}

// Sum of v e^2 of a row whose blocks of 32 are rounded to d * level with d = half(largest / furthest level),
// or, for an affine format, to d * code + m over the range of the block.
double plain_error(Format format, std::span<const float> x, const float* v) {
  std::vector<float> levels;
  const bool affine = format == Format::Q4_1 || format == Format::Q5_1;
  if (format == Format::IQ4_NL) levels.assign(kIq4nlValues.begin(), kIq4nlValues.end());
  const int low = format == Format::Q4_0   ? -8
                  : format == Format::Q5_0 ? -16
                  : format == Format::Q8_0 ? -127
                                           : 0;
  const int high = format == Format::Q4_0   ? 7
                   : format == Format::Q5_0 ? 15
                   : format == Format::Q8_0 ? 127
                   : format == Format::Q4_1 ? 15
                                            : 31;
  if (levels.empty())
    for (int c = low; c <= high; ++c) levels.push_back(static_cast<float>(c));
  double error = 0;
  for (std::size_t b = 0; b < x.size(); b += 32) {
    const auto block = x.subspan(b, 32);
    const float most = *std::max_element(block.begin(), block.end());
    const float least = *std::min_element(block.begin(), block.end());
    const float furthest = most > -least ? most : least;
    const float d =
        affine ? round_to_half((most - least) / levels.back()) : round_to_half(furthest / levels.front());
    const float m = affine ? round_to_half(least) : 0.0F;
    for (std::size_t j = 0; j < 32; ++j) {
      const float level = d == 0.0F ? (affine ? 0.0F : levels[0]) : nearest_of(levels, (block[j] - m) / d);
      const double e = double{d} * level + m - block[j];
      error += v[b + j] * e * e;
    }
  }
  return error;
}

// A super-block format: groups whose scale (and minimum) is an integer times a half.
struct SuperFormat {
  Format format;
  std::size_t group;
  int low;  // of the codes; 0: with a minimum per group
  int high;
  int scale_low;  // of the integers
  int scale_high;
};
constexpr SuperFormat kSuperFormats[] = {
    {Format::Q3_K, 16, -4, 3, -32, 31}, {Format::Q6_K, 16, -32, 31, -128, 127},
    {Format::Q2_K, 16, 0, 3, 0, 15},    {Format::Q4_K, 32, 0, 15, 0, 63},
    {Format::Q5_K, 32, 0, 31, 0, 63},   {Format::IQ4_XS, 32, -127, 113, -32, 31}};

float rounded_integer(float value, float unit, int low, int high) {
  return unit == 0.0F
             ? 0.0F
             : std::clamp(std::nearbyint(value / unit), static_cast<float>(low), static_cast<float>(high));
}

// Sum of v e^2 of a row whose groups are rounded so that their codes span the range of the group, the
// integers so that the largest group has the largest one.
double plain_super_error(const SuperFormat& f, std::span<const float> x, const float* v) {
  std::vector<float> levels;
  if (f.format == Format::IQ4_XS) levels.assign(kIq4nlValues.begin(), kIq4nlValues.end());
  if (levels.empty())
    for (int c = f.low; c <= f.high; ++c) levels.push_back(static_cast<float>(c));
  const std::size_t groups = 256 / f.group;
  double error = 0;
  for (std::size_t b = 0; b < x.size(); b += 256) {
    std::vector<float> scales(groups);
    std::vector<float> minimums(groups, 0.0F);
    for (std::size_t g = 0; g < groups; ++g) {
      const auto group = x.subspan(b + g * f.group, f.group);
      const float most = std::max(*std::max_element(group.begin(), group.end()), 0.0F);
      const float least = std::min(*std::min_element(group.begin(), group.end()), 0.0F);
      if (f.low == 0) {
        scales[g] = (most - least) / levels.back();
        minimums[g] = -least;
      } else {
        scales[g] = (most > -least ? most : least) / levels.front();
      }
    }
    const auto furthest = [](float a, float c) { return std::fabs(a) < std::fabs(c); };
    const float widest = *std::max_element(scales.begin(), scales.end(), furthest);
    const float d = round_to_half(widest / static_cast<float>(f.low == 0 ? f.scale_high : f.scale_low));
    const float dmin =
        round_to_half(*std::max_element(minimums.begin(), minimums.end()) / static_cast<float>(f.scale_high));
    for (std::size_t g = 0; g < groups; ++g) {
      const float step = d * rounded_integer(scales[g], d, f.scale_low, f.scale_high);
      const float minimum = dmin * rounded_integer(minimums[g], dmin, f.scale_low, f.scale_high);
      for (std::size_t j = b + g * f.group; j < b + (g + 1) * f.group; ++j) {
        const float level = step == 0.0F ? 0.0F : nearest_of(levels, (x[j] + minimum) / step);
        const double e = double{step} * level - minimum - x[j];
        error += v[j] * e * e;
      }
    }
  }
  return error;
}

TEST(AffineEncodeTest, NeverWorseThanPlainRounding) {
  constexpr std::size_t kColumns = 512;
  const auto all_metrics = metrics(kColumns);
  for (const NamedRow& row : hard_rows(kColumns)) {
    if (row.name == "beyond halves" || row.name == "huge") continue;  // plain scales would be infinite
    for (const NamedMetric& metric : all_metrics) {
      if (metric.metric.has_mean() || metric.metric.kappa() > 1) continue;
      for (const Format format :
           {Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4_1, Format::Q5_1, Format::IQ4_NL})
        for (const Effort effort : {Effort::Fast, Effort::Default, Effort::Max}) {
          const double plain = plain_error(format, row.x, metric.metric.variance()) * metric.metric.scale();
          const double ours = encode_row(best(), format, effort, row.x, metric.metric).error.variance;
          EXPECT_LE(ours, plain * 1.0001 + 1e-30)
              << name_of(format) << ", " << row.name << ", " << metric.name;
        }
      for (const SuperFormat& format : kSuperFormats)
        for (const Effort effort : {Effort::Fast, Effort::Default, Effort::Max}) {
          const double plain =
              plain_super_error(format, row.x, metric.metric.variance()) * metric.metric.scale();
          const double ours = encode_row(best(), format.format, effort, row.x, metric.metric).error.variance;
          EXPECT_LE(ours, plain * 1.0001 + 1e-30)
              << name_of(format.format) << ", " << row.name << ", " << metric.name;
        }
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels

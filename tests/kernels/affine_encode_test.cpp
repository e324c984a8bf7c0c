// Encoders of the formats with linear or table levels: equal bytes on every instruction set, errors against
// ggml's encoder on golden rows, hostile rows, plain rounding, and what the row sums are worth.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/codebooks.h"
#include "kernels/half.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "kernels/validate.h"
#include "tests/support/golden_rows.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

using test::encode_row;
using test::EncodedRow;
using test::GoldenSet;
using test::read_golden;
using test::squared_error;

struct TestedFormat {
  Format format;
  std::size_t golden_index;  // place in the error files of the golden data
};
constexpr TestedFormat kFormats[] = {
    {Format::Q4_0, 1},    {Format::Q4_1, 2},    {Format::Q5_0, 3},   {Format::Q5_1, 4},   {Format::Q8_0, 5},
    {Format::Q2_K, 6},    {Format::Q3_K, 7},    {Format::Q4_K, 8},   {Format::Q5_K, 9},   {Format::Q6_K, 10},
    {Format::IQ4_NL, 15}, {Format::IQ4_XS, 18}, {Format::TQ1_0, 21}, {Format::TQ2_0, 22}, {Format::MXFP4, 23},
    {Format::NVFP4, 24},  {Format::Q1_0, 25},   {Format::Q2_0, 26}};
constexpr Effort kEfforts[] = {Effort::Fast, Effort::Default, Effort::Max};

const RowKernels& best() {
  return runnable_kernels().front();
}
const RowKernels& scalar() {
  return runnable_kernels().back();
}

// ---- Rows and metrics
// -------------------------------------------------------------------------------------------

struct NamedRow {
  std::string name;
  std::vector<float> x;
};

std::vector<NamedRow> hard_rows(std::size_t columns) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::student_t_distribution<float> student(3.0F);
  const auto random = [&](float scale) {
    std::vector<float> x(columns);
    for (float& v : x) v = scale * normal(generator);
    return x;
  };
  std::vector<NamedRow> rows;
  rows.push_back({"gaussian", random(0.02F)});
  std::vector<float> heavy(columns);
  for (float& v : heavy) v = 0.02F * student(generator);
  rows.push_back({"heavy tails", heavy});
  rows.push_back({"zeros", std::vector<float>(columns, 0.0F)});
  rows.push_back({"negative zeros", std::vector<float>(columns, -0.0F)});
  rows.push_back({"constant", std::vector<float>(columns, -0.3F)});
  rows.push_back({"subnormal", random(1e-40F)});
  rows.push_back({"below halves", random(1e-9F)});
  rows.push_back({"tiny", random(1e-7F)});
  rows.push_back({"large", random(6e4F)});
  rows.push_back({"beyond halves", random(1e6F)});
  rows.push_back({"huge", random(1e37F)});
  std::vector<float> spike(columns, 0.0F);
  spike[columns / 3] = 3.0F;
  rows.push_back({"spike", spike});
  std::vector<float> spike_in_noise = random(1e-3F);
  spike_in_noise[columns - 5] = -40.0F;
  rows.push_back({"spike in noise", spike_in_noise});
  std::vector<float> offset = random(1e-3F);
  for (float& v : offset) v += 0.3F;
  rows.push_back({"offset", offset});
  std::vector<float> mixed = random(1.0F);
  for (std::size_t j = 0; j < columns; ++j)
    mixed[j] *= std::ldexp(1.0F, static_cast<int>(j / 16 % 16) * 2 - 24);
  rows.push_back({"scales apart", mixed});
  return rows;
}

struct NamedMetric {
  std::string name;
  ColumnMetric metric;
};

// Second moments over two decades, means that make up about a tenth of them.
void draw_inputs(std::size_t columns, std::uint32_t seed, std::vector<float>& a, std::vector<float>& m) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  a.resize(columns);
  m.resize(columns);
  for (std::size_t j = 0; j < columns; ++j) {
    a[j] = std::exp(1.2F * normal(generator));
    m[j] = std::clamp(0.3F * normal(generator), -0.95F, 0.95F) * std::sqrt(a[j]);
  }
}

std::vector<NamedMetric> metrics(std::size_t columns) {
  std::vector<float> a;
  std::vector<float> m;
  draw_inputs(columns, 11, a, m);
  std::vector<float> sparse(columns, 0.0F);
  std::vector<float> constant_input = m;
  for (std::size_t j = 0; j < columns; ++j)
    if (j % 3 == 0) sparse[j] = a[j];
  constant_input[columns / 2] = std::sqrt(a[columns / 2]);  // no variance at all: errors there are bias alone
  std::vector<NamedMetric> list;
  list.push_back({"unit", ColumnMetric(columns, {}, {}, 1)});
  list.push_back({"importance", ColumnMetric(columns, a, {}, 1)});
  list.push_back({"row sums", ColumnMetric(columns, a, m, 3)});
  list.push_back({"constant input", ColumnMetric(columns, a, constant_input, 1)});
  list.push_back({"gain", ColumnMetric(columns, a, {}, 4)});
  list.push_back({"zero importance in places", ColumnMetric(columns, sparse, {}, 2)});
  list.push_back({"zero importance", ColumnMetric(columns, std::vector<float>(columns, 0.0F), {}, 2)});
  return list;
}

bool fits(Format format, std::size_t columns) {
  return columns % traits(format).block_len == 0;
}

// ---- Equal bytes, valid blocks
// ----------------------------------------------------------------------------------

TEST(AffineEncodeTest, EveryInstructionSetGivesTheSameBytes) {
  // Less than a tile, a tile, a tile and a bit, tiles.
  for (const std::size_t columns : {32U, 192U, 256U, 288U, 640U, 768U}) {
    const auto all_metrics = metrics(columns);
    for (const NamedRow& row : hard_rows(columns))
      for (const NamedMetric& metric : all_metrics) {
        if (metric.name != "row sums" && columns != 288 && columns != 768) continue;
        for (const TestedFormat& format : kFormats) {
          if (!fits(format.format, columns)) continue;
          for (const Effort effort : kEfforts) {
            if (effort == Effort::Max && (metric.name != "row sums" || columns > 288)) continue;
            const EncodedRow reference = encode_row(scalar(), format.format, effort, row.x, metric.metric);
            for (const RowKernels& kernels : runnable_kernels())
              ASSERT_EQ(encode_row(kernels, format.format, effort, row.x, metric.metric).bytes,
                        reference.bytes)
                  << kernels.isa << ", " << name_of(format.format) << ", " << row.name << ", " << metric.name
                  << ", " << columns << " columns";
          }
        }
      }
  }
}

TEST(AffineEncodeTest, EveryBlockIsValidAndFinite) {
  constexpr std::size_t kColumns = 768;
  const auto all_metrics = metrics(kColumns);
  for (const NamedRow& row : hard_rows(kColumns))
    for (const NamedMetric& metric : all_metrics)
      for (const TestedFormat& format : kFormats)
        for (const Effort effort : kEfforts) {
          const EncodedRow encoded = encode_row(best(), format.format, effort, row.x, metric.metric);
          const std::string what = std::string(name_of(format.format)) + ", " + row.name + ", " + metric.name;
          EXPECT_TRUE(validate_blocks(format.format, encoded.bytes)) << what;
          EXPECT_TRUE(std::all_of(encoded.values.begin(), encoded.values.end(), [](float v) {
            return std::isfinite(v);
          })) << what;
          // Rows that the fields' range can hold are never worse than nothing. (Q1_0 has no zero.)
          if (row.name == "huge" || format.format == Format::Q1_0) continue;
          RowQuantizer quantizer(best(), kColumns);
          ASSERT_TRUE(quantizer.load(Format::F32, std::as_bytes(std::span(row.x)), metric.metric));
          const std::vector<float> zeros(kColumns, 0.0F);
          EXPECT_LE(encoded.error.total(), 1.0001 * best().measure(quantizer.row(), zeros.data()).total())
              << what;
        }
}

TEST(AffineEncodeTest, ZeroRowsHaveZeroScales) {
  constexpr std::size_t kColumns = 256;
  const std::vector<float> zeros(kColumns, 0.0F);
  for (const NamedMetric& metric : metrics(kColumns))
    for (const TestedFormat& format : kFormats)
      for (const Effort effort : kEfforts)
        for (const float v : encode_row(best(), format.format, effort, zeros, metric.metric).values)
          ASSERT_EQ(v, 0.0F) << name_of(format.format) << ", " << metric.name;
}

// ---- Plain rounding
// ---------------------------------------------------------------------------------------------

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

TEST(AffineEncodeTest, NeverWorseThanPlainRounding) {
  constexpr std::size_t kColumns = 512;
  const auto all_metrics = metrics(kColumns);
  for (const NamedRow& row : hard_rows(kColumns)) {
    if (row.name == "beyond halves" || row.name == "huge") continue;  // plain scales would be infinite
    for (const NamedMetric& metric : all_metrics) {
      if (metric.metric.has_mean() || metric.metric.kappa() > 1) continue;
      for (const Format format :
           {Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4_1, Format::Q5_1, Format::IQ4_NL})
        for (const Effort effort : kEfforts) {
          const double plain = plain_error(format, row.x, metric.metric.variance()) * metric.metric.scale();
          const double ours = encode_row(best(), format, effort, row.x, metric.metric).error.variance;
          EXPECT_LE(ours, plain * 1.0001 + 1e-30)
              << name_of(format) << ", " << row.name << ", " << metric.name;
        }
    }
  }
}

// ---- Against ggml's encoder
// -------------------------------------------------------------------------------------

// Total error of every set over the reference's, with the importance vector and with unit weights.
void expect_totals_below_reference(const std::filesystem::path& folder, Effort effort, double bound) {
  for (const char* name : {"attn_like", "ffn_like", "moe_like", "gaussian"}) {
    const GoldenSet set = read_golden(folder, name);
    ASSERT_GT(set.rows, 0U);
    for (const bool weighted : {true, false}) {
      const std::span<const float> weights = set.weights(weighted);
      const ColumnMetric metric(set.columns, weights, {}, 1);
      for (const TestedFormat& format : kFormats) {
        double ours = 0;
        double reference[3] = {};
        for (std::size_t r = 0; r < set.rows; ++r) {
          ours += squared_error(weights, set.row(r),
                                encode_row(best(), format.format, effort, set.row(r), metric).values);
          for (std::size_t mode = 0; mode < 3; ++mode)
            reference[mode] += set.error(format.golden_index, mode, r);
        }
        // Q1_0 has one number per block to choose: nothing to gain with unit weights but the last bits.
        const double allowed = format.format == Format::Q1_0 ? std::max(bound, 1.0001) : bound;
        EXPECT_LE(ours, allowed * (weighted ? reference[0] : std::min(reference[1], reference[2])))
            << name_of(format.format) << " " << name << (weighted ? " weighted" : "");
      }
    }
  }
}

TEST(AffineEncodeTest, GoldenTotalsAreBelowTheReference) {
  expect_totals_below_reference(test::data_dir() / "golden/encode", Effort::Default, 0.995);
  expect_totals_below_reference(test::data_dir() / "golden/encode", Effort::Max, 0.99);
}

TEST(AffineEncodeTest, AllGoldenTotalsAreBelowTheReference) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the conformance data are not here: only the first rows of each set were compared";
  expect_totals_below_reference(*shared / "formats/golden/encode", Effort::Default, 0.99);
}

TEST(AffineEncodeTest, EveryGoldenEdgeRowIsAtLeastAsGoodAsTheReference) {
  test::expect_edge_rows_below_reference(best(), kFormats);
}

// ---- Row sums
// ---------------------------------------------------------------------------------------------------

struct Shares {
  double bias = 0;
  double total = 0;
};
Shares total_error(Format format, Effort effort, std::size_t columns, const ColumnMetric& encoded_for,
                   const ColumnMetric& judged_by) {
  Shares shares;
  std::mt19937 generator(3);
  std::student_t_distribution<float> student(5.0F);
  std::vector<float> x(columns);
  for (int r = 0; r < 24; ++r) {
    for (float& value : x) value = 0.02F * student(generator);
    const EncodedRow encoded = encode_row(best(), format, effort, x, encoded_for);
    RowQuantizer judge(best(), columns);
    EXPECT_TRUE(judge.load(Format::F32, std::as_bytes(std::span(x)), judged_by));
    const RowError error = judge.measure(format, encoded.bytes.data());
    shares.bias += error.bias;
    shares.total += error.total();
  }
  return shares;
}

TEST(AffineEncodeTest, LittleBiasIsLeft) {
  for (const std::size_t columns : {256U, 2048U}) {
    std::vector<float> a;
    std::vector<float> m;
    draw_inputs(columns, 5, a, m);
    const ColumnMetric metric(columns, a, m, 3);
    for (const TestedFormat& format : kFormats)
      for (const Effort effort : kEfforts) {
        const Shares shares = total_error(format.format, effort, columns, metric, metric);
        const double bound = bits_per_weight(format.format) >= 4 ? 0.01 : 0.03;
        EXPECT_LE(shares.bias, bound * shares.total)
            << name_of(format.format) << ", " << columns << " columns";
      }
  }
}

TEST(AffineEncodeTest, PayingForTheRowSumsLowersTheWholeError) {
  constexpr std::size_t kColumns = 1024;
  std::vector<float> a;
  std::vector<float> m;
  draw_inputs(kColumns, 5, a, m);
  const ColumnMetric whole(kColumns, a, m, 3);
  const ColumnMetric diagonal(kColumns, a, {}, 1);
  for (const TestedFormat& format : kFormats) {
    const double with = total_error(format.format, Effort::Default, kColumns, whole, whole).total;
    const double without = total_error(format.format, Effort::Default, kColumns, diagonal, whole).total;
    EXPECT_LT(with, 0.97 * without) << name_of(format.format);
  }
}

TEST(AffineEncodeTest, MoreEffortIsNotWorse) {
  constexpr std::size_t kColumns = 1024;
  std::vector<float> a;
  std::vector<float> m;
  draw_inputs(kColumns, 5, a, m);
  const ColumnMetric metric(kColumns, a, m, 3);
  for (const TestedFormat& format : kFormats) {
    const double fast = total_error(format.format, Effort::Fast, kColumns, metric, metric).total;
    const double middle = total_error(format.format, Effort::Default, kColumns, metric, metric).total;
    const double max = total_error(format.format, Effort::Max, kColumns, metric, metric).total;
    EXPECT_LE(middle, 1.002 * fast) << name_of(format.format);
    EXPECT_LE(max, 1.002 * middle) << name_of(format.format);
  }
}

}  // namespace
}  // namespace quantfit::kernels

// What holds for the encoders of all formats: equal bytes on every instruction set, valid blocks, errors
// against ggml's encoder on golden rows, hostile rows, little bias, and what the row sums are worth.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "kernels/validate.h"
#include "tests/kernels/encoder_rows.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

struct TestedFormat {
  Format format;
  std::size_t golden_index;  // place in the error files of the golden data
  // Sums over golden sets may reach this share of the reference's; all are lower than one.
  double bound = 0.995;
  friend void PrintTo(const TestedFormat& tested, std::ostream* out) { *out << name_of(tested.format); }
};
// Q1_0 has one number per block to choose: nothing to gain with unit weights but the last bits.
constexpr TestedFormat kFormats[] = {
    {Format::Q4_0, 1},           {Format::Q4_1, 2},           {Format::Q5_0, 3},
    {Format::Q5_1, 4},           {Format::Q8_0, 5},           {Format::Q2_K, 6},
    {Format::Q3_K, 7},           {Format::Q4_K, 8},           {Format::Q5_K, 9},
    {Format::Q6_K, 10},          {Format::IQ2_XXS, 11, 0.96}, {Format::IQ2_XS, 12, 0.96},
    {Format::IQ3_XXS, 13, 0.97}, {Format::IQ1_S, 14, 0.96},   {Format::IQ4_NL, 15},
    {Format::IQ3_S, 16, 0.96},   {Format::IQ2_S, 17, 0.96},   {Format::IQ4_XS, 18},
    {Format::IQ1_M, 19, 0.96},   {Format::TQ1_0, 21},         {Format::TQ2_0, 22},
    {Format::MXFP4, 23},         {Format::NVFP4, 24},         {Format::Q1_0, 25, 1.0001},
    {Format::Q2_0, 26}};
constexpr Effort kEfforts[] = {Effort::Fast, Effort::Default, Effort::Max};

bool fits(Format format, std::size_t columns) {
  return columns % traits(format).block_len == 0;
}
// Formats with codebooks take long at the highest effort.
bool has_codebook(Format format) {
  return traits(format).block_len == 256 && name_of(format).starts_with("IQ") && format != Format::IQ4_XS;
}

// ---- Equal bytes, valid blocks
// ----------------------------------------------------------------------------------

// One test for each format, so that each ends in reasonable time where machines are slow or emulated.
class EveryInstructionSet : public testing::TestWithParam<TestedFormat> {};

TEST_P(EveryInstructionSet, GivesTheSameBytes) {
  const Format format = GetParam().format;
  const std::span<const RowKernels> others = runnable_kernels().first(runnable_kernels().size() - 1);
  if (others.empty()) GTEST_SKIP() << "this build has one instruction set, or this CPU runs no other";
  // Less than a tile, a tile, a tile and a bit, tiles.
  for (const std::size_t columns : {32U, 192U, 256U, 288U, 640U, 768U}) {
    if (!fits(format, columns)) continue;
    const auto all_metrics = metrics(columns);
    for (const NamedRow& row : hard_rows(columns))
      for (const NamedMetric& metric : all_metrics) {
        if (metric.name != "row sums" && columns != 288 && columns != 768) continue;
        for (const Effort effort : kEfforts) {
          if (effort != Effort::Fast && has_codebook(format) && metric.name != "row sums") continue;
          if (effort == Effort::Max && (metric.name != "row sums" || columns > 288)) continue;
          const EncodedRow reference = encode_row(scalar(), format, effort, row.x, metric.metric);
          for (const RowKernels& kernels : others)
            ASSERT_EQ(encode_row(kernels, format, effort, row.x, metric.metric).bytes, reference.bytes)
                << kernels.isa << ", " << row.name << ", " << metric.name << ", " << columns << " columns";
        }
      }
  }
}

INSTANTIATE_TEST_SUITE_P(EncodeTest, EveryInstructionSet, testing::ValuesIn(kFormats),
                         [](const auto& each) { return std::string(name_of(each.param.format)); });

TEST(EncodeTest, EveryBlockIsValidAndFinite) {
  constexpr std::size_t kColumns = 768;
  const auto all_metrics = metrics(kColumns);
  for (const NamedRow& row : hard_rows(kColumns))
    for (const NamedMetric& metric : all_metrics)
      for (const TestedFormat& format : kFormats)
        for (const Effort effort : kEfforts) {
          if (effort == Effort::Max && has_codebook(format.format) && metric.name != "row sums") continue;
          const EncodedRow encoded = encode_row(best(), format.format, effort, row.x, metric.metric);
          const std::string what = std::string(name_of(format.format)) + ", " + row.name + ", " + metric.name;
          EXPECT_TRUE(validate_blocks(format.format, encoded.bytes)) << what;
          EXPECT_TRUE(std::all_of(encoded.values.begin(), encoded.values.end(), [](float v) {
            return std::isfinite(v);
          })) << what;
          // Rows that the fields' range can hold are never worse than nothing. (Q1_0 has no zero.)
          if (row.name == "huge" || format.format == Format::Q1_0) continue;
          if (row.name == "subnormal" && has_codebook(format.format)) continue;
          RowQuantizer quantizer(best(), kColumns);
          ASSERT_TRUE(quantizer.load(Format::F32, std::as_bytes(std::span(row.x)), metric.metric));
          const std::vector<float> zeros(kColumns, 0.0F);
          EXPECT_LE(encoded.error.total(), 1.0001 * best().measure(quantizer.row(), zeros.data()).total())
              << what;
        }
}

TEST(EncodeTest, ZeroRowsHaveZeroScales) {
  constexpr std::size_t kColumns = 256;
  const std::vector<float> zeros(kColumns, 0.0F);
  for (const NamedMetric& metric : metrics(kColumns))
    for (const TestedFormat& format : kFormats)
      for (const Effort effort : kEfforts)
        for (const float v : encode_row(best(), format.format, effort, zeros, metric.metric).values)
          ASSERT_EQ(v, 0.0F) << name_of(format.format) << ", " << metric.name;
}

// ---- Against ggml's encoder
// -------------------------------------------------------------------------------------

// Total error of every set over the reference's, with the importance vector and with unit weights.
void expect_totals_below_reference(const std::filesystem::path& folder, Effort effort) {
  for (const char* name : {"attn_like", "ffn_like", "moe_like", "gaussian"}) {
    const GoldenSet set = read_golden(folder, name);
    ASSERT_GT(set.rows, 0U);
    for (const bool weighted : {true, false}) {
      const std::span<const float> weights = set.weights(weighted);
      const ColumnMetric metric(set.columns, weights, {}, 1);
      for (const TestedFormat& format : kFormats) {
        if (effort == Effort::Fast && !has_codebook(format.format)) continue;  // Q5_K is up to 2 % above
        double ours = 0;
        double reference[3] = {};
        for (std::size_t r = 0; r < set.rows; ++r) {
          ours += squared_error(weights, set.row(r),
                                encode_row(best(), format.format, effort, set.row(r), metric).values);
          for (std::size_t mode = 0; mode < 3; ++mode)
            reference[mode] += set.error(format.golden_index, mode, r);
        }
        EXPECT_LE(ours, format.bound * (weighted ? reference[0] : std::fmin(reference[1], reference[2])))
            << name_of(format.format) << " " << name << (weighted ? " weighted" : "");
      }
    }
  }
}

TEST(EncodeTest, GoldenTotalsAreBelowTheReference) {
  for (const Effort effort : kEfforts)
    expect_totals_below_reference(test::data_dir() / "golden/encode", effort);
}

TEST(EncodeTest, AllGoldenTotalsAreBelowTheReference) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the conformance data are not here: only the first rows of each set were compared";
  expect_totals_below_reference(*shared / "formats/golden/encode", Effort::Default);
}

// Every golden row of hard cases against the reference's error. Ratios of linear and table levels are judged
// to two decimals: 1.005 is allowed.
TEST(EncodeTest, EveryGoldenEdgeRowIsAtLeastAsGoodAsTheReference) {
  const GoldenSet set = read_golden(test::data_dir() / "golden/encode", "edge");
  ASSERT_EQ(set.rows, 16U);
  for (const Effort effort : {Effort::Default, Effort::Max})
    for (const bool weighted : {true, false}) {
      const ColumnMetric metric(set.columns, set.weights(weighted), {}, 1);
      for (const TestedFormat& format : kFormats)
        for (std::size_t r = 0; r < set.rows; ++r) {
          const EncodedRow encoded = encode_row(best(), format.format, effort, set.row(r), metric);
          const double allowed = has_codebook(format.format) ? 1.0 : 1.005;
          // Below a millionth of a millionth of the row, only the last bits of the arithmetic differ.
          const double negligible =
              1e-12 * squared_error(set.weights(weighted), set.row(r), std::vector<float>(set.columns));
          EXPECT_LE(squared_error(set.weights(weighted), set.row(r), encoded.values),
                    set.reference(format.golden_index, weighted, r) * allowed + negligible)
              << name_of(format.format) << " row " << r << (weighted ? " weighted" : "")
              << (effort == Effort::Max ? " max" : " default");
        }
    }
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

TEST(EncodeTest, LittleBiasIsLeft) {
  // Means of one sign are the worst case for an encoder that shrinks; one super-block alone cannot make up
  // for it.
  for (const bool one_sign : {false, true})
    for (const std::size_t columns : {256U, 2048U}) {
      if (one_sign && columns == 256) continue;
      std::vector<float> a;
      std::vector<float> m;
      draw_inputs(columns, 5, a, m);
      for (std::size_t j = 0; one_sign && j < columns; ++j) m[j] = 0.5F * std::sqrt(a[j]);
      const ColumnMetric metric(columns, a, m, 3);
      for (const TestedFormat& format : kFormats)
        for (const Effort effort : kEfforts) {
          const Shares shares = total_error(format.format, effort, columns, metric, metric);
          // A row of one super-block leaves the fast search of codebooks little room.
          const bool cramped = columns == 256 && effort == Effort::Fast;
          const double bound = bits_per_weight(format.format) >= 4 ? 0.01 : cramped ? 0.04 : 0.03;
          EXPECT_LE(shares.bias, bound * shares.total)
              << name_of(format.format) << ", " << columns << " columns" << (one_sign ? ", one sign" : "");
        }
    }
}

TEST(EncodeTest, PayingForTheRowSumsLowersTheWholeError) {
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

TEST(EncodeTest, MoreEffortIsNotWorse) {
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

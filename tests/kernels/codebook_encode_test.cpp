#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/codebooks.h"
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

struct CodebookFormat {
  Format format;
  std::size_t golden_index;  // place in the error files of the golden data
};
constexpr std::array<CodebookFormat, 7> kFormats = {{{Format::IQ1_S, 14},
                                                     {Format::IQ1_M, 19},
                                                     {Format::IQ2_XXS, 11},
                                                     {Format::IQ2_XS, 12},
                                                     {Format::IQ2_S, 17},
                                                     {Format::IQ3_XXS, 13},
                                                     {Format::IQ3_S, 16}}};
constexpr std::array<Effort, 3> kEfforts = {Effort::Fast, Effort::Default, Effort::Max};

const RowKernels& scalar() {
  return runnable_kernels().back();
}
const RowKernels& best() {
  return runnable_kernels().front();
}

void expect_totals_below_reference(const std::filesystem::path& folder, Effort effort) {
  for (const char* name : {"attn_like", "ffn_like", "moe_like", "gaussian"}) {
    const GoldenSet set = read_golden(folder, name);
    ASSERT_GT(set.rows, 0U);
    for (const bool weighted : {true, false}) {
      const ColumnMetric metric(set.columns, set.weights(weighted), {}, 1);
      for (const CodebookFormat& format : kFormats) {
        double ours = 0;
        double reference = 0;
        for (std::size_t r = 0; r < set.rows; ++r) {
          const EncodedRow encoded = encode_row(best(), format.format, effort, set.row(r), metric);
          ours += squared_error(set.weights(weighted), set.row(r), encoded.values);
          reference += set.reference(format.golden_index, weighted, r);
        }
        // Measured 0.54 to 0.94.
        EXPECT_LT(ours, 0.97 * reference)
            << name_of(format.format) << " " << name << (weighted ? " weighted" : "");
      }
    }
  }
}

TEST(CodebookEncodeTest, GoldenTotalsAreBelowTheReference) {
  expect_totals_below_reference(test::data_dir() / "golden/encode", Effort::Fast);
  expect_totals_below_reference(test::data_dir() / "golden/encode", Effort::Default);
}

TEST(CodebookEncodeTest, AllGoldenTotalsAreBelowTheReference) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the conformance data are not here: only the first rows of each set were compared";
  expect_totals_below_reference(*shared / "formats/golden/encode", Effort::Default);
}

TEST(CodebookEncodeTest, EveryGoldenEdgeRowIsAtLeastAsGoodAsTheReference) {
  test::expect_edge_rows_below_reference(best(), kFormats);
}

// Rows of every kind that has hurt an encoder somewhere.
struct NamedRow {
  std::string name;
  std::vector<float> x;
};

std::vector<NamedRow> hard_rows(std::size_t columns) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  const auto random = [&](float scale) {
    std::vector<float> x(columns);
    for (float& v : x) v = scale * normal(generator);
    return x;
  };
  std::vector<NamedRow> rows;
  rows.push_back({"gaussian", random(0.02F)});
  rows.push_back({"zeros", std::vector<float>(columns, 0.0F)});
  rows.push_back({"constant", std::vector<float>(columns, -0.3F)});
  rows.push_back({"subnormal", random(1e-40F)});
  rows.push_back({"tiny", random(1e-7F)});
  rows.push_back({"large", random(1e6F)});
  rows.push_back({"huge", random(1e37F)});
  std::vector<float> spike(columns, 0.0F);
  spike[77] = 3.0F;
  rows.push_back({"spike", spike});
  std::vector<float> spike_in_noise = random(1e-3F);
  spike_in_noise[columns - 5] = -40.0F;
  rows.push_back({"spike in noise", spike_in_noise});
  std::vector<float> heavy = random(0.02F);
  for (float& v : heavy) v *= std::exp(1.5F * normal(generator));
  rows.push_back({"heavy tails", heavy});
  std::vector<float> half_zero = random(1.0F);
  std::fill(half_zero.begin(), half_zero.begin() + static_cast<std::ptrdiff_t>(columns / 2), 0.0F);
  rows.push_back({"half zero", half_zero});
  std::vector<float> mixed = random(1.0F);
  for (std::size_t j = 0; j < columns; ++j)
    mixed[j] *= std::ldexp(1.0F, static_cast<int>(j / 16 % 16) * 3 - 24);
  rows.push_back({"scales apart", mixed});
  std::vector<float> negative_zero(columns, -0.0F);
  rows.push_back({"negative zeros", negative_zero});
  return rows;
}

struct NamedMetric {
  std::string name;
  ColumnMetric metric;
};

std::vector<NamedMetric> metrics(std::size_t columns) {
  std::mt19937 generator(11);
  std::normal_distribution<float> normal;
  std::vector<float> a(columns);
  std::vector<float> m(columns);
  std::vector<float> sparse(columns, 0.0F);
  for (std::size_t j = 0; j < columns; ++j) {
    a[j] = std::exp(1.2F * normal(generator));
    m[j] = 0.4F * normal(generator) * std::sqrt(a[j]);
    if (m[j] * m[j] > a[j]) m[j] = std::sqrt(a[j]);
    if (j % 3 == 0) sparse[j] = a[j];
  }
  std::vector<NamedMetric> list;
  list.push_back({"unit", ColumnMetric(columns, {}, {}, 1)});
  list.push_back({"importance", ColumnMetric(columns, a, {}, 1)});
  list.push_back({"row sums", ColumnMetric(columns, a, m, 3)});
  list.push_back({"gain", ColumnMetric(columns, a, {}, 4)});
  list.push_back({"zero importance in places", ColumnMetric(columns, sparse, {}, 2)});
  list.push_back({"zero importance", ColumnMetric(columns, std::vector<float>(columns, 0.0F), {}, 2)});
  return list;
}

TEST(CodebookEncodeTest, EveryInstructionSetGivesTheSameBytes) {
  constexpr std::size_t kColumns = 512;
  const auto all_metrics = metrics(kColumns);
  for (const NamedRow& row : hard_rows(kColumns))
    for (const NamedMetric& metric : all_metrics)
      for (const CodebookFormat& format : kFormats)
        for (const Effort effort : kEfforts) {
          if (effort == Effort::Max && metric.name != "row sums") continue;
          const EncodedRow reference = encode_row(scalar(), format.format, effort, row.x, metric.metric);
          for (const RowKernels& kernels : runnable_kernels())
            ASSERT_EQ(encode_row(kernels, format.format, effort, row.x, metric.metric).bytes, reference.bytes)
                << kernels.isa << ", " << name_of(format.format) << ", " << row.name << ", " << metric.name;
        }
}

TEST(CodebookEncodeTest, EveryBlockIsValidAndNoRowIsWorseThanZeros) {
  constexpr std::size_t kColumns = 768;
  const auto all_metrics = metrics(kColumns);
  for (const NamedRow& row : hard_rows(kColumns))
    for (const NamedMetric& metric : all_metrics)
      for (const CodebookFormat& format : kFormats)
        for (const Effort effort : kEfforts) {
          if (effort == Effort::Max && metric.name != "row sums") continue;
          const EncodedRow encoded = encode_row(best(), format.format, effort, row.x, metric.metric);
          const std::string what = std::string(name_of(format.format)) + ", " + row.name + ", " + metric.name;
          EXPECT_TRUE(validate_blocks(format.format, encoded.bytes).has_value()) << what;
          // Halves end at 65504 and begin at 2^-24: such rows can only be clipped or dropped.
          if (row.name == "huge" || row.name == "subnormal") continue;
          RowQuantizer quantizer(best(), kColumns);
          ASSERT_TRUE(
              quantizer.load(Format::F32, std::as_bytes(std::span(row.x)), metric.metric).has_value());
          const std::vector<float> zeros(kColumns, 0.0F);
          EXPECT_LE(encoded.error.total(), 1.0001 * best().measure(quantizer.row(), zeros.data()).total())
              << what;
        }
}

TEST(CodebookEncodeTest, ZeroRowsDecodeToZeros) {
  constexpr std::size_t kColumns = 256;
  const std::vector<float> zeros(kColumns, 0.0F);
  for (const NamedMetric& metric : metrics(kColumns))
    for (const CodebookFormat& format : kFormats)
      for (const float v : encode_row(best(), format.format, Effort::Default, zeros, metric.metric).values)
        ASSERT_EQ(v, 0.0F) << name_of(format.format);
}

// The least of sum w (x - s g)^2 over a whole codebook and the signs that its format allows, for eight
// weights.
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

TEST(CodebookEncodeTest, MoreEffortIsNotWorse) {
  constexpr std::size_t kColumns = 2048;
  std::mt19937 generator(3);
  std::student_t_distribution<float> heavy(4);
  const auto all_metrics = metrics(kColumns);
  for (const CodebookFormat& format : kFormats)
    for (const NamedMetric& metric : all_metrics) {
      std::array<double, 3> total{};
      for (int r = 0; r < 6; ++r) {
        std::vector<float> x(kColumns);
        for (float& v : x) v = 0.01F * heavy(generator);
        for (std::size_t i = 0; i < kEfforts.size(); ++i)
          total[i] += encode_row(best(), format.format, kEfforts[i], x, metric.metric).error.total();
      }
      // The search is greedy: a better start may end in a slightly worse place now and then.
      EXPECT_LE(total[1], 1.005 * total[0]) << name_of(format.format) << ", " << metric.name;
      EXPECT_LE(total[2], 1.005 * total[1]) << name_of(format.format) << ", " << metric.name;
    }
}

TEST(CodebookEncodeTest, RowSumsAreKeptSmall) {
  constexpr std::size_t kColumns = 1024;
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  std::vector<float> a(kColumns);
  std::vector<float> m(kColumns);
  for (std::size_t j = 0; j < kColumns; ++j) {
    a[j] = std::exp(normal(generator));
    m[j] = 0.5F * std::sqrt(a[j]);  // means of one sign: the worst case for a shrinking encoder
  }
  const ColumnMetric coupled(kColumns, a, m, 3);
  const ColumnMetric diagonal(kColumns, a, {}, 1);
  for (const CodebookFormat& format : kFormats) {
    RowError with;
    double uncoupled_total = 0;
    for (int r = 0; r < 8; ++r) {
      std::vector<float> x(kColumns);
      for (float& v : x) v = 0.02F * normal(generator);
      const EncodedRow encoded = encode_row(best(), format.format, Effort::Default, x, coupled);
      with.variance += encoded.error.variance;
      with.bias += encoded.error.bias;
      with.gain += encoded.error.gain;
      RowQuantizer quantizer(best(), kColumns);
      ASSERT_TRUE(quantizer.load(Format::F32, std::as_bytes(std::span<const float>(x)), coupled).has_value());
      uncoupled_total +=
          quantizer
              .measure(format.format,
                       encode_row(best(), format.format, Effort::Default, x, diagonal).bytes.data())
              .total();
    }
    EXPECT_LT(with.bias, 0.03 * with.total()) << name_of(format.format);
    EXPECT_LT(with.total(), uncoupled_total) << name_of(format.format);
  }
}

}  // namespace
}  // namespace quantfit::kernels

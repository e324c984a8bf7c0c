// Factoring of full second moments, and rounding with error feedback through them.
#include "kernels/covariance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/format.h"
#include "core/model.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"
#include "kernels/validate.h"
#include "tests/support/reference_library.h"
#include "tests/support/second_moments.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

constexpr Format kFeedbackFormats[] = {
    Format::Q4_0,    Format::Q4_1,   Format::Q5_0,  Format::Q5_1,    Format::Q8_0,
    Format::Q2_K,    Format::Q3_K,   Format::Q4_K,  Format::Q5_K,    Format::Q6_K,
    Format::IQ4_NL,  Format::IQ4_XS, Format::MXFP4, Format::NVFP4,   Format::Q1_0,
    Format::Q2_0,    Format::TQ1_0,  Format::TQ2_0, Format::IQ1_S,   Format::IQ1_M,
    Format::IQ2_XXS, Format::IQ2_XS, Format::IQ2_S, Format::IQ3_XXS, Format::IQ3_S};

// Inputs of a few strong directions and noise: E[x x^T] with correlations as layers have them.
std::vector<float> correlated_moments(std::size_t columns, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  constexpr std::size_t kDirections = 24;
  std::vector<double> directions(kDirections * columns);
  for (double& value : directions) value = normal(generator);
  std::vector<float> moments(columns * columns);
  for (std::size_t i = 0; i < columns; ++i)
    for (std::size_t j = 0; j < columns; ++j) {
      double sum = i == j ? 4.0 : 0.0;
      for (std::size_t k = 0; k < kDirections; ++k)
        sum += directions[k * columns + i] * directions[k * columns + j];
      moments[i * columns + j] = static_cast<float>(sum);
    }
  return moments;
}

std::vector<float> diagonal_of(const std::vector<float>& moments, std::size_t columns) {
  std::vector<float> diagonal(columns);
  for (std::size_t j = 0; j < columns; ++j) diagonal[j] = moments[j * columns + j];
  return diagonal;
}

// e^T C e of a decoded row.
double output_error(const std::vector<float>& moments, std::span<const float> x, std::span<const float> y) {
  const std::size_t n = x.size();
  double total = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double product = 0;
    for (std::size_t j = 0; j < n; ++j) product += double{moments[i * n + j]} * (double{y[j]} - double{x[j]});
    total += product * (double{y[i]} - double{x[i]});
  }
  return total;
}

struct Encoded {
  std::vector<std::byte> bytes;
  std::vector<float> values;
};
Encoded encode(const RowKernels& kernels, Format format, Effort effort, std::span<const float> x,
               const ColumnMetric& metric) {
  RowQuantizer quantizer(kernels, x.size());
  EXPECT_TRUE(quantizer.load(Format::F32, std::as_bytes(x), metric));
  Encoded encoded;
  encoded.bytes.resize(row_bytes(format, x.size()).value());
  quantizer.encode(format, effort, encoded.bytes.data());
  encoded.values.resize(x.size());
  kernels.decode[static_cast<std::size_t>(format)](encoded.bytes.data(), x.size(), encoded.values.data());
  return encoded;
}

std::vector<float> random_row(std::size_t columns, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::student_t_distribution<float> student(5.0F);
  std::vector<float> x(columns);
  for (float& value : x) value = 0.02F * student(generator);
  return x;
}

TEST(CovarianceTest, TheFactorsMultiplyToTheMoments) {
  for (const std::size_t n : {32U, 256U, 320U}) {
    const std::vector<float> moments = correlated_moments(n, 1);
    const auto factor = CovarianceFactor::make(n, moments, 0.01F);
    ASSERT_TRUE(factor);
    double mean = 0;
    for (const float a : diagonal_of(moments, n)) mean += a / static_cast<double>(n);
    for (std::size_t i = 0; i < n; i += 7)
      for (std::size_t j = 0; j < n; j += 5) {
        double product = 0;
        for (std::size_t k = 0; k < n; ++k) {
          const float d = factor.value().innovation_tiles()[k / 256 * 256 + 16 * (k % 16) + k % 256 / 16];
          product += double{*factor.value().feedback(i, k)} * d * *factor.value().feedback(j, k);
        }
        EXPECT_NEAR(product, moments[i * n + j] / mean + (i == j ? 0.01 : 0.0), 2e-5) << i << ", " << j;
      }
    // Within the last tile nothing comes after: its cost is the block of the matrix itself.
    const std::size_t first = (n - 1) / 256 * 256;
    EXPECT_NEAR(factor.value().tile_cost(first)[3], moments[first * n + first + 3] / mean, 2e-5);
  }
}

// Blocks of the matrix, one after another, as make_blocks takes them.
std::vector<float> blocks_of(const std::vector<float>& moments, std::size_t columns, std::size_t block) {
  std::vector<float> blocks;
  for (std::size_t first = 0; first < columns; first += block)
    for (std::size_t i = first; i < std::min(first + block, columns); ++i)
      for (std::size_t j = first; j < std::min(first + block, columns); ++j)
        blocks.push_back(moments[i * columns + j]);
  return blocks;
}

// The lower triangles of such blocks, as make_packed takes them.
std::vector<float> triangles_of(const std::vector<float>& moments, std::size_t columns, std::size_t block) {
  std::vector<float> triangles;
  for (std::size_t first = 0; first < columns; first += block)
    for (std::size_t i = first; i < std::min(first + block, columns); ++i)
      for (std::size_t j = first; j <= i; ++j) triangles.push_back(moments[i * columns + j]);
  return triangles;
}

// Block-diagonal: the factor of the matrix whose other elements are zero.
TEST(CovarianceTest, BlocksAreAMatrixWithoutTheRest) {
  constexpr std::size_t kColumns = 800;
  std::vector<float> moments = correlated_moments(kColumns, 3);
  const auto blocks = CovarianceFactor::make_blocks(kColumns, 512, blocks_of(moments, kColumns, 512));
  ASSERT_TRUE(blocks) << blocks.error().message;
  for (std::size_t i = 0; i < kColumns; ++i)
    for (std::size_t j = 0; j < kColumns; ++j)
      if (i / 512 != j / 512) moments[i * kColumns + j] = 0.0F;
  const auto full = CovarianceFactor::make(kColumns, moments);
  ASSERT_TRUE(full);
  EXPECT_EQ(blocks.value().reach(511), 512U);
  EXPECT_EQ(blocks.value().reach(512), kColumns);
  const std::vector<float> diagonal = diagonal_of(moments, kColumns);
  const ColumnMetric with_blocks(kColumns, diagonal, {}, 1, &blocks.value());
  const ColumnMetric with_full(kColumns, diagonal, {}, 1, &full.value());
  const std::vector<float> x = random_row(kColumns, 8);
  const RowKernels& kernels = runnable_kernels().front();
  for (const Format format : {Format::Q4_0, Format::IQ4_NL})
    EXPECT_EQ(encode(kernels, format, Effort::Fast, x, with_blocks).bytes,
              encode(kernels, format, Effort::Fast, x, with_full).bytes);
  EXPECT_EQ(CovarianceFactor::make_blocks(kColumns, 300, moments).error().code, ErrorCode::ShapeMismatch);
  EXPECT_EQ(CovarianceFactor::make_blocks(kColumns, 512, moments).error().code, ErrorCode::ShapeMismatch);
}

TEST(CovarianceTest, ShrinkageLeavesOutAShareBesideTheDiagonal) {
  constexpr std::size_t n = 300;
  std::vector<float> moments = correlated_moments(n, 11);
  const auto shrunk = CovarianceFactor::make(n, moments, 0.03F, 0.25F);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      if (i != j) moments[i * n + j] *= 0.75F;
  const auto expected = CovarianceFactor::make(n, moments, 0.03F);
  ASSERT_TRUE(shrunk);
  ASSERT_TRUE(expected);
  EXPECT_EQ(shrunk.value().scale(), expected.value().scale());
  for (const std::size_t i : {0U, 17U, 255U}) {
    EXPECT_NEAR(shrunk.value().innovations()[i], expected.value().innovations()[i], 1e-5);
    EXPECT_NEAR(shrunk.value().feedback(i, 255)[0], expected.value().feedback(i, 255)[0], 1e-5);
  }
}

// Whoever does which part of the work, and when: the same bits.
TEST(CovarianceTest, IsTheSameHoweverItIsMade) {
  constexpr std::size_t n = 800;
  const std::vector<float> moments = correlated_moments(n, 12);
  const ForEach backwards = [](std::size_t count, const std::function<void(std::size_t)>& body) {
    std::vector<std::thread> threads;
    for (std::size_t i = count; i-- > 0;) threads.emplace_back([&body, i] { body(i); });
    for (std::thread& thread : threads) thread.join();
  };
  const auto same = [&](const CovarianceFactor& a, const CovarianceFactor& b) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t first = i / 256 * 256;
      ASSERT_EQ(std::memcmp(a.feedback(i, first), b.feedback(i, first), 256 * sizeof(float)), 0) << i;
      ASSERT_EQ(std::memcmp(a.tile_cost(i), b.tile_cost(i), 256 * sizeof(float)), 0) << i;
      ASSERT_EQ(a.innovations()[i], b.innovations()[i]) << i;
    }
  };
  same(CovarianceFactor::make(n, moments).value(),
       CovarianceFactor::make(n, moments, 0.03F, 0, backwards).value());
  const std::vector<float> blocks = blocks_of(moments, n, 256);
  const CovarianceFactor one = CovarianceFactor::make_blocks(n, 256, blocks).value();
  same(one, CovarianceFactor::make_blocks(n, 256, blocks, 0.03F, 0, backwards).value());
  same(one, CovarianceFactor::make_packed(n, 256, triangles_of(moments, n, 256)).value());
  same(CovarianceFactor::make(n, moments).value(),
       CovarianceFactor::make_packed(n, 1024, triangles_of(moments, n, 1024), 0.03F, 0, backwards).value());
  EXPECT_EQ(CovarianceFactor::make_packed(n, 256, blocks).error().code, ErrorCode::ShapeMismatch);
  EXPECT_EQ(CovarianceFactor::make_packed(n, 100, triangles_of(moments, n, 100)).error().code,
            ErrorCode::ShapeMismatch);
  std::vector<float> wanted = diagonal_of(moments, n);
  std::ranges::reverse(wanted);
  same(one.with_diagonal(wanted).value(), one.with_diagonal(wanted, backwards).value());
}

// With another diagonal: the factor of S C S.
TEST(CovarianceTest, ADiagonalOfItsOwnScalesTheMatrix) {
  constexpr std::size_t n = 320;
  const std::vector<float> moments = correlated_moments(n, 4);
  const auto layer = CovarianceFactor::make(n, moments);
  ASSERT_TRUE(layer);
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  std::vector<float> wanted = diagonal_of(moments, n);
  for (float& a : wanted) a *= std::exp(normal(generator));
  wanted[7] = 0.0F;  // an input that this expert never sees
  const auto own = layer.value().with_diagonal(wanted);
  ASSERT_TRUE(own) << own.error().message;
  double mean = 0;
  double layer_mean = 0;
  for (std::size_t i = 0; i < n; ++i) {
    mean += wanted[i] / static_cast<double>(n);
    layer_mean += moments[i * n + i] / static_cast<double>(n);
  }
  EXPECT_NEAR(own.value().scale(), mean, 1e-5 * mean);
  const auto stretch = [&](std::size_t i) {
    return std::sqrt((wanted[i] / mean + 0.03) / (moments[i * n + i] / layer_mean + 0.03));
  };
  for (std::size_t i = 0; i < n; i += 7)
    for (std::size_t j = 0; j < n; j += 5) {
      double product = 0;
      for (std::size_t k = std::max(i, j); k < n; ++k)
        product +=
            double{*own.value().feedback(i, k)} * own.value().innovations()[k] * *own.value().feedback(j, k);
      const double expected =
          (moments[i * n + j] / layer_mean + (i == j ? 0.03 : 0.0)) * stretch(i) * stretch(j);
      EXPECT_NEAR(product, expected, 1e-4 * (1 + std::abs(expected))) << i << ", " << j;
    }
  EXPECT_EQ(layer.value().with_diagonal(std::vector<float>(n - 1, 1.0F)).error().code,
            ErrorCode::ShapeMismatch);
  EXPECT_EQ(layer.value().with_diagonal(std::vector<float>(n, 0.0F)).error().code, ErrorCode::Malformed);
  wanted[3] = -1.0F;
  EXPECT_EQ(layer.value().with_diagonal(wanted).error().code, ErrorCode::Malformed);
}

// The error of a row under a covariance is e^T C e, damping included, on every instruction set.
TEST(CovarianceTest, TheMeasuredErrorIsTheQuadraticForm) {
  constexpr std::size_t n = 320;
  std::vector<float> moments = correlated_moments(n, 6);
  const auto factor = std::make_shared<const CovarianceFactor>(CovarianceFactor::make(n, moments).value());
  const ColumnMetric metric(n, diagonal_of(moments, n), {}, 5);
  const std::vector<float> x = random_row(n, 1);
  for (std::size_t i = 0; i < n; ++i) moments[i * n + i] += static_cast<float>(0.03 * factor->scale());
  double first = 0;
  for (const RowKernels& kernels : runnable_kernels()) {
    RowQuantizer quantizer(kernels, n);
    ASSERT_TRUE(quantizer.load(Format::F32, std::as_bytes(std::span(x)), metric, factor));
    std::vector<std::byte> bytes(row_bytes(Format::Q4_0, n).value());
    quantizer.encode(Format::Q4_0, Effort::Fast, bytes.data());
    std::vector<float> y(n);
    kernels.decode[static_cast<std::size_t>(Format::Q4_0)](bytes.data(), n, y.data());
    const RowError error = quantizer.measure(Format::Q4_0, bytes.data());
    const double expected = output_error(moments, x, y);
    EXPECT_NEAR(error.total(), expected, 1e-4 * expected);
    EXPECT_EQ(error.gain, 0.0);
    if (&kernels == &runnable_kernels().front()) first = error.total();
    EXPECT_EQ(error.total(), first) << kernels.isa;
    // Without one again: the row loaded next does not keep it.
    ASSERT_TRUE(quantizer.load(Format::F32, std::as_bytes(std::span(x)), metric));
    EXPECT_NE(quantizer.measure(Format::Q4_0, bytes.data()).total(), error.total());
    const ColumnMetric shorter(n - 32, {}, {}, 1);
    EXPECT_EQ(quantizer.load(Format::F32, std::as_bytes(std::span(x)).first(4 * (n - 32)), shorter, factor)
                  .error()
                  .code,
              ErrorCode::ShapeMismatch);
  }
}

TEST(CovarianceTest, BadMomentsAreRefused) {
  std::vector<float> moments = correlated_moments(32, 1);
  EXPECT_EQ(CovarianceFactor::make(33, moments).error().code, ErrorCode::ShapeMismatch);
  EXPECT_EQ(CovarianceFactor::make(0, {}).error().code, ErrorCode::ShapeMismatch);
  std::vector<float> indefinite = moments;
  indefinite[5 * 32 + 4] = indefinite[4 * 32 + 5] = 1e6F;
  EXPECT_EQ(CovarianceFactor::make(32, indefinite).error().code, ErrorCode::Malformed);
  moments[7 * 32 + 3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(CovarianceFactor::make(32, moments).error().code, ErrorCode::Malformed);
  EXPECT_EQ(CovarianceFactor::make(32, std::vector<float>(32 * 32, 0.0F)).error().code, ErrorCode::Malformed);
}

TEST(CovarianceTest, FeedbackLowersTheOutputErrorAndIsTheSameEverywhere) {
  for (const std::size_t columns : {32U, 256U, 288U, 512U}) {
    const std::vector<float> moments = correlated_moments(columns, 2);
    const auto factor = CovarianceFactor::make(columns, moments);
    ASSERT_TRUE(factor);
    const std::vector<float> diagonal = diagonal_of(moments, columns);
    const ColumnMetric with(columns, diagonal, {}, 1, &factor.value());
    const ColumnMetric without(columns, diagonal, {}, 1);
    for (const Format format : kFeedbackFormats) {
      if (columns % traits(format).block_len != 0) continue;
      double feedback = 0;
      double plain = 0;
      for (std::uint32_t r = 0; r < 6; ++r) {
        const std::vector<float> x = random_row(columns, r);
        for (const Effort effort : {Effort::Fast, Effort::Default}) {
          const Encoded ours = encode(runnable_kernels().front(), format, effort, x, with);
          EXPECT_TRUE(validate_blocks(format, ours.bytes));
          for (const RowKernels& kernels : runnable_kernels().subspan(r < 2 ? 0 : runnable_kernels().size()))
            ASSERT_EQ(encode(kernels, format, effort, x, with).bytes, ours.bytes)
                << name_of(format) << " on " << kernels.isa << ", " << columns << " columns";
          if (effort == Effort::Default) feedback += output_error(moments, x, ours.values);
        }
        plain += output_error(moments, x,
                              encode(runnable_kernels().front(), format, Effort::Default, x, without).values);
      }
      // In 32 columns the 24 strong directions of these inputs leave little room.
      if (columns > 32) {
        EXPECT_LT(feedback, 0.6 * plain) << name_of(format) << ", " << columns << " columns";
      }
    }
  }
}

// Without correlations nothing is fed on, and the search by columns finds what the search by blocks finds.
TEST(CovarianceTest, ADiagonalCovarianceIsNoWorseThanNone) {
  constexpr std::size_t kColumns = 512;
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> diagonal(kColumns);
  for (float& a : diagonal) a = std::exp(normal(generator));
  std::vector<float> moments(kColumns * kColumns, 0.0F);
  for (std::size_t j = 0; j < kColumns; ++j) moments[j * kColumns + j] = diagonal[j];
  const auto factor = CovarianceFactor::make(kColumns, moments, 0.0F);
  ASSERT_TRUE(factor);
  const ColumnMetric with(kColumns, diagonal, {}, 1, &factor.value());
  const ColumnMetric without(kColumns, diagonal, {}, 1);
  for (const Format format : kFeedbackFormats) {
    double feedback = 0;
    double plain = 0;
    for (std::uint32_t r = 0; r < 12; ++r) {
      const std::vector<float> x = random_row(kColumns, r);
      const RowKernels& kernels = runnable_kernels().front();
      feedback += output_error(moments, x, encode(kernels, format, Effort::Default, x, with).values);
      plain += output_error(moments, x, encode(kernels, format, Effort::Default, x, without).values);
    }
    // Where weights are enlarged to keep the row's gain, that costs up to its square.
    const double bound = format == Format::IQ1_S || format == Format::IQ1_M ? 1.15
                         : bits_per_weight(format) < 2.6                    ? 1.05
                                                                            : 1.01;
    EXPECT_LT(feedback, bound * plain) << name_of(format);
    EXPECT_GT(feedback, 0.8 * plain) << name_of(format);
  }
}

TEST(CovarianceTest, FormatsWithFeedbackUseItAndOthersDoNot) {
  constexpr std::size_t kColumns = 512;
  const std::vector<float> moments = correlated_moments(kColumns, 2);
  const auto factor = CovarianceFactor::make(kColumns, moments);
  ASSERT_TRUE(factor);
  const std::vector<float> diagonal = diagonal_of(moments, kColumns);
  const ColumnMetric with(kColumns, diagonal, {}, 1, &factor.value());
  const ColumnMetric without(kColumns, diagonal, {}, 1);
  const RowKernels& kernels = runnable_kernels().front();
  const std::vector<float> x = random_row(kColumns, 3);
  std::size_t formats = 0;
  for (const FormatTraits& format : all_formats()) {
    if (!is_quantized(format.format) || kernels.encode[static_cast<std::size_t>(format.format)] == nullptr) {
      EXPECT_FALSE(has_error_feedback(format.format)) << format.name;
      continue;
    }
    const bool differs = encode(kernels, format.format, Effort::Fast, x, with).bytes !=
                         encode(kernels, format.format, Effort::Fast, x, without).bytes;
    EXPECT_EQ(differs, has_error_feedback(format.format)) << format.name;
    formats += differs ? 1 : 0;
  }
  EXPECT_EQ(formats, std::size(kFeedbackFormats));
}

// The covariance is the whole objective: mean and correlation along the row are part of E[x x^T] already.
TEST(CovarianceTest, NeitherMeansNorKappaMatterWithFeedback) {
  constexpr std::size_t kColumns = 512;
  const std::vector<float> moments = correlated_moments(kColumns, 2);
  const auto factor = CovarianceFactor::make(kColumns, moments);
  ASSERT_TRUE(factor);
  const std::vector<float> diagonal = diagonal_of(moments, kColumns);
  std::vector<float> mean(kColumns);
  for (std::size_t j = 0; j < kColumns; ++j) mean[j] = 0.3F * std::sqrt(diagonal[j]);
  const ColumnMetric plain(kColumns, diagonal, {}, 1, &factor.value());
  const ColumnMetric rich(kColumns, diagonal, mean, 5, &factor.value());
  const RowKernels& kernels = runnable_kernels().front();
  const std::vector<float> x = random_row(kColumns, 4);
  for (const Format format : kFeedbackFormats) {
    EXPECT_EQ(encode(kernels, format, Effort::Default, x, plain).bytes,
              encode(kernels, format, Effort::Default, x, rich).bytes)
        << name_of(format);
  }
}

TEST(CovarianceTest, HostileRowsStayValid) {
  constexpr std::size_t kColumns = 512;
  const std::vector<float> moments = correlated_moments(kColumns, 2);
  const auto factor = CovarianceFactor::make(kColumns, moments);
  ASSERT_TRUE(factor);
  const ColumnMetric metric(kColumns, diagonal_of(moments, kColumns), {}, 1, &factor.value());
  for (const float scale : {0.0F, 1e-40F, 1e-9F, 1e6F, 1e36F}) {
    std::vector<float> x = random_row(kColumns, 9);
    for (float& value : x) value *= scale;
    for (const Format format : kFeedbackFormats)
      for (const Effort effort : {Effort::Fast, Effort::Default, Effort::Max}) {
        const Encoded encoded = encode(runnable_kernels().front(), format, effort, x, metric);
        EXPECT_TRUE(validate_blocks(format, encoded.bytes)) << name_of(format) << ", scale " << scale;
        for (const float value : encoded.values)
          ASSERT_TRUE(scale == 0.0F ? value == 0.0F : std::isfinite(value));
        EXPECT_EQ(encode(runnable_kernels().back(), format, effort, x, metric).bytes, encoded.bytes);
      }
  }
}

// A trained layer: factor from calibration moments, error under held-out moments, against ggml's encoder with
// the diagonal of the calibration moments as importance.
TEST(CovarianceTest, TrainedLayersGainOnHeldOutMoments) {
  const auto shared = test::shared_dir();
  if (!shared) GTEST_SKIP() << "the conformance data are not here: no second moments of a trained model";
  const auto reference = test::ReferenceLibrary::load();
  if (!reference) GTEST_SKIP() << test::kReferenceLibraryAbsent;
  const std::filesystem::path folder = *shared / "models";
  const auto model = Model::open(folder / "tale-dense-F16.gguf");
  ASSERT_TRUE(model);
  std::vector<test::SecondMoments> sets;
  for (const char* name : {"calibration", "heldout"}) {
    auto set = test::SecondMoments::open(folder / "tale-dense-moments", name);
    ASSERT_TRUE(set) << set.error().message;
    sets.push_back(std::move(set).value());
  }
  struct Layer {
    const char* tensor;
    std::size_t columns;
  };
  const RowKernels& kernels = runnable_kernels().front();
  for (const auto& [format, bound] :
       {std::pair(Format::Q4_K, 0.55), std::pair(Format::Q2_K, 0.62), std::pair(Format::IQ4_XS, 0.5),
        std::pair(Format::IQ3_S, 0.45), std::pair(Format::IQ2_XS, 0.55), std::pair(Format::IQ1_M, 0.72)}) {
    double ours = 0;
    double theirs = 0;
    for (const Layer& layer : {Layer{"blk.1.attn_q.weight", 256}, Layer{"blk.3.ffn_up.weight", 256},
                               Layer{"blk.4.ffn_down.weight", 768}}) {
      const std::size_t n = layer.columns;
      std::vector<float> moments[2];
      for (std::size_t s = 0; s < 2; ++s) {
        const test::SecondMoments::Input* input = sets[s].find(layer.tensor);
        ASSERT_NE(input, nullptr);
        ASSERT_EQ(input->columns, n);
        auto read = sets[s].read(*input);
        ASSERT_TRUE(read) << read.error().message;
        moments[s] = std::move(read).value();
      }
      const auto factor = CovarianceFactor::make(n, moments[0]);
      ASSERT_TRUE(factor);
      const std::vector<float> importance = diagonal_of(moments[0], n);
      const ColumnMetric metric(n, importance, {}, 1, &factor.value());
      const TensorInfo* info = model.value().find(layer.tensor);
      ASSERT_NE(info, nullptr);
      double layer_ours = 0;
      double layer_theirs = 0;
      double energy = 0;
      for (std::size_t r = 0; r < 32; ++r) {
        std::vector<float> x(n);
        kernels.decode[static_cast<std::size_t>(info->format)](model.value().row(*info, 7 * r).data(), n,
                                                               x.data());
        std::vector<std::byte> bytes(row_bytes(format, n).value());
        std::vector<float> decoded(n);
        ASSERT_TRUE(reference.value()->quantize_chunk(format, x, 1, n, importance, bytes));
        kernels.decode[static_cast<std::size_t>(format)](bytes.data(), n, decoded.data());
        layer_theirs += output_error(moments[1], x, decoded);
        layer_ours += output_error(moments[1], x, encode(kernels, format, Effort::Default, x, metric).values);
        for (std::size_t j = 0; j < n; ++j) energy += double{importance[j]} * x[j] * x[j];
      }
      ours += layer_ours / energy;
      theirs += layer_theirs / energy;
    }
    EXPECT_LT(ours, bound * theirs) << name_of(format);
  }
}

}  // namespace
}  // namespace quantfit::kernels

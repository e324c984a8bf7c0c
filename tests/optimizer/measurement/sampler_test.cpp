#include "optimizer/measurement/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

TEST(RowSample, VisitsEveryRowOnce) {
  for (const std::uint64_t rows : {1U, 2U, 3U, 7U, 64U, 100U, 255U, 1000U})
    for (const std::uint64_t matrices : {1U, 2U, 8U, 13U}) {
      const RowSample sample("blk.0.ffn_up.weight", rows, matrices, 1);
      std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
      for (std::uint64_t i = 0; i < sample.size(); ++i) {
        const RowSample::Row row = sample.at(i);
        ASSERT_LT(row.matrix, matrices);
        ASSERT_LT(row.row, rows);
        seen.emplace(row.matrix, row.row);
      }
      EXPECT_EQ(seen.size(), rows * matrices) << rows << " x " << matrices;
    }
}

TEST(RowSample, ReachesEveryMatrixBeforeAnyTwice) {
  const RowSample sample("blk.0.ffn_up_exps.weight", 500, 128, 1);
  std::set<std::uint64_t> matrices;
  for (std::uint64_t i = 0; i < 128; ++i) matrices.insert(sample.at(i).matrix);
  EXPECT_EQ(matrices.size(), 128U);
}

TEST(RowSample, PrefixesAreSpreadOverTheRows) {
  // Among the first n rows no gap is much longer than rows / n (three-distance theorem for the golden ratio).
  const std::uint64_t rows = 10000;
  const RowSample sample("output.weight", rows, 1, 1);
  std::set<std::uint64_t> taken;
  for (std::uint64_t i = 0; i < 100; ++i) taken.insert(sample.at(i).row);
  std::uint64_t previous = *taken.rbegin();
  for (const std::uint64_t row : taken) {
    const std::uint64_t gap = row > previous ? row - previous : row + rows - previous;
    EXPECT_LE(gap, 3 * rows / 100);
    previous = row;
  }
}

TEST(RowSample, DependsOnNameAndSeed) {
  const auto first = [](std::string_view name, std::uint64_t seed) {
    return RowSample(name, 100000, 1, seed).at(0).row;
  };
  EXPECT_EQ(first("a", 1), first("a", 1));
  EXPECT_NE(first("a", 1), first("b", 1));
  EXPECT_NE(first("a", 1), first("a", 2));
}

TEST(SamplingParameters, TextNamesEveryParameter) {
  SamplingParameters sampling;
  const std::string text = sampling.to_text();
  sampling.seed = 2;
  EXPECT_NE(sampling.to_text(), text);
  sampling = {};
  sampling.precision = 0.5;
  EXPECT_NE(sampling.to_text(), text);
}

using Samples = std::map<std::string, SampledTensor>;

const kernels::RowKernels& best_kernels() {
  return kernels::runnable_kernels().front();
}

std::vector<SamplingTask> all_tensors(const Model& model, const std::vector<Format>& formats) {
  std::vector<SamplingTask> tasks;
  for (const TensorInfo& tensor : model.tensors()) tasks.push_back({&tensor, formats});
  return tasks;
}

Samples sample(const test::SmallModel& small, const std::vector<Format>& formats,
               const SamplerOptions& options, const kernels::RowKernels& kernels = best_kernels()) {
  NoProgress progress;
  const CancellationToken cancel;
  Samples samples;
  const auto done = sample_tensors(
      small.model(), small.importance(), all_tensors(small.model(), formats), options, kernels, progress,
      cancel, [&](const SamplingTask& task, const SampledTensor& sampled) -> Result<void> {
        EXPECT_TRUE(samples.emplace(task.tensor->name, sampled).second) << "reported twice";
        return outcome::success();
      });
  EXPECT_TRUE(done) << done.error().message;
  return samples;
}

// Equal in every bit, times apart.
void expect_equal(const Samples& a, const Samples& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, sampled] : a) {
    const SampledTensor& other = b.at(name);
    EXPECT_EQ(sampled.rows_sampled, other.rows_sampled) << name;
    ASSERT_EQ(sampled.errors.size(), other.errors.size()) << name;
    for (std::size_t f = 0; f < sampled.errors.size(); ++f) {
      const std::string what = name + " " + std::string(name_of(sampled.errors[f].format));
      EXPECT_EQ(sampled.errors[f].format, other.errors[f].format) << what;
      EXPECT_EQ(sampled.errors[f].nmse, other.errors[f].nmse) << what;
      EXPECT_EQ(sampled.errors[f].standard_error, other.errors[f].standard_error) << what;
      EXPECT_EQ(sampled.errors[f].bias_share, other.errors[f].bias_share) << what;
    }
  }
}

std::vector<test::SmallTensor> three_tensors() {
  return {{"blk.0.attn_q.weight", {256, 300, 1}, Format::F16, {}, {1000}},
          {"blk.0.ffn_up_exps.weight", {256, 40, 4}, Format::F16, {}, {500, 300, 200, 0}},
          {"output.weight", {512, 700, 1}, Format::F16, {}, {}}};
}

TEST(Sampler, NumbersDoNotDependOnThreads) {
  const test::SmallModel small(three_tensors());
  SamplerOptions options;
  options.threads = 1;
  const std::vector<Format> formats = {Format::IQ2_XXS, Format::Q4_0, Format::Q8_0};
  const Samples one = sample(small, formats, options);
  EXPECT_EQ(one.size(), 3U);
  for (const unsigned threads : {2U, 5U}) {
    options.threads = threads;
    expect_equal(one, sample(small, formats, options));
  }
}

TEST(Sampler, NumbersDoNotDependOnTheInstructionSet) {
  const test::SmallModel small(three_tensors());
  SamplerOptions options;
  options.threads = 2;
  options.sampling.precision = 0.2;
  options.sampling.min_rows = 6;
  const std::vector<Format> formats = {Format::IQ2_XXS, Format::Q4_K, Format::Q8_0};
  const Samples best = sample(small, formats, options);
  for (const kernels::RowKernels& kernels : kernels::runnable_kernels()) {
    SCOPED_TRACE(kernels.isa);
    expect_equal(best, sample(small, formats, options, kernels));
  }
}

TEST(Sampler, ReachesThePrecisionOrMeasuresAllRows) {
  const test::SmallModel small(three_tensors());
  const std::vector<Format> formats = {Format::Q4_0, Format::Q8_0};
  SamplerOptions options;
  options.threads = 2;
  SamplerOptions everything = options;
  everything.sampling.precision = 0;
  const Samples whole = sample(small, formats, everything);
  for (const double precision : {0.1, 0.02}) {
    options.sampling.precision = precision;
    const Samples part = sample(small, formats, options);
    for (const TensorInfo& tensor : small.model().tensors()) {
      const SampledTensor& sampled = part.at(tensor.name);
      const SampledTensor& exact = whole.at(tensor.name);
      EXPECT_EQ(exact.rows_sampled, tensor.rows());
      EXPECT_GE(sampled.rows_sampled, options.sampling.min_rows);
      EXPECT_LT(sampled.rows_sampled, tensor.rows()) << tensor.name;
      for (std::size_t f = 0; f < formats.size(); ++f) {
        EXPECT_EQ(exact.errors[f].standard_error, 0) << tensor.name;
        EXPECT_GT(sampled.errors[f].standard_error, 0) << tensor.name;
        EXPECT_LE(sampled.errors[f].standard_error, precision * sampled.errors[f].nmse) << tensor.name;
        EXPECT_NEAR(sampled.errors[f].nmse, exact.errors[f].nmse, 4 * precision * exact.errors[f].nmse)
            << tensor.name;
      }
    }
  }
}

TEST(Sampler, AFormatsNumbersDoNotDependOnTheOthers) {
  const test::SmallModel small(
      {{"blk.0.attn_q.weight", {256, 2000, 1}, Format::F16, {}, {1000}},
       {"blk.0.ffn_up_exps.weight", {256, 200, 4}, Format::F16, {}, {500, 300, 200, 0}}});
  const std::vector<Format> formats = {Format::Q4_0, Format::IQ2_XXS, Format::Q4_K, Format::Q2_K,
                                       Format::Q8_0};
  SamplerOptions options;
  options.threads = 2;
  options.sampling.precision = 0.03;
  const Samples together = sample(small, formats, options);
  std::set<std::uint64_t> rows;
  for (std::size_t f = 0; f < formats.size(); ++f) {
    const Samples alone = sample(small, {formats[f]}, options);
    for (const auto& [name, sampled] : alone) {
      const FormatMeasurement& expected = together.at(name).errors[f];
      EXPECT_EQ(sampled.errors[0].nmse, expected.nmse) << name << ' ' << name_of(formats[f]);
      EXPECT_EQ(sampled.errors[0].standard_error, expected.standard_error) << name;
      EXPECT_EQ(sampled.errors[0].bias_share, expected.bias_share) << name;
      rows.insert(sampled.rows_sampled);
    }
  }
  EXPECT_GT(rows.size(), 2U);  // formats did stop at different rows
}

TEST(Sampler, StandardErrorIsWhatRepetitionShows) {
  // The same rows in another order each time: another sample of the same population.
  constexpr std::uint64_t kColumns = 256;
  constexpr std::uint64_t kRows = 600;
  const std::vector<float> values = test::heavy_tailed(kRows, kColumns, 11);
  const std::vector<Format> formats = {Format::Q4_0, Format::Q8_0};
  const auto measure = [&](unsigned seed, double precision) {
    std::vector<std::uint64_t> order(kRows);
    std::iota(order.begin(), order.end(), 0U);
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    std::vector<float> shuffled;
    for (const std::uint64_t row : order)
      shuffled.insert(shuffled.end(), &values[row * kColumns], &values[row * kColumns] + kColumns);
    const test::SmallModel small(
        {{"blk.0.attn_output.weight", {kColumns, kRows, 1}, Format::F16, shuffled, {1000}}});
    SamplerOptions options;
    options.threads = 2;
    options.sampling.precision = precision;
    return sample(small, formats, options).begin()->second;
  };
  const SampledTensor exact = measure(0, 0);
  constexpr unsigned kSamples = 60;
  std::vector<double> squares(formats.size());
  for (unsigned seed = 1; seed <= kSamples; ++seed) {
    const SampledTensor sampled = measure(seed, 0.05);
    ASSERT_LT(sampled.rows_sampled, kRows / 2);
    for (std::size_t f = 0; f < formats.size(); ++f) {
      const FormatMeasurement& error = sampled.errors[f];
      const double deviation = (error.nmse - exact.errors[f].nmse) / error.standard_error;
      squares[f] += deviation * deviation / kSamples;
    }
  }
  for (std::size_t f = 0; f < formats.size(); ++f) {
    // Chi-square with 60 degrees of freedom, divided by 60: 0.54 to 1.66 in 99.9 % of cases.
    EXPECT_GT(squares[f], 0.54) << name_of(formats[f]);
    EXPECT_LT(squares[f], 1.66) << name_of(formats[f]);
  }
}

TEST(Sampler, ExpertsCountByTheirTokens) {
  // Three experts alike; the fourth one, all in a few huge weights, is far easier to spoil.
  constexpr std::uint64_t kColumns = 256;
  constexpr std::uint64_t kRows = 16;
  std::vector<float> values = test::heavy_tailed(3 * kRows, kColumns, 5);
  std::vector<float> spiky = test::heavy_tailed(kRows, kColumns, 6);
  for (std::uint64_t i = 0; i < spiky.size(); ++i)
    if (i % 32 == 0) spiky[i] = 2.0F;
  std::vector<float> all = values;
  all.insert(all.end(), spiky.begin(), spiky.end());
  const auto nmse = [&](std::uint64_t experts, const std::vector<float>& weights, std::vector<float> tokens) {
    const test::SmallModel small(
        {{"blk.0.ffn_up_exps.weight", {kColumns, kRows, experts}, Format::F16, weights, std::move(tokens)}});
    SamplerOptions options;
    options.sampling.precision = 0;
    options.error_model.kappa = 1;
    return sample(small, {Format::Q4_0}, options).begin()->second.errors[0].nmse;
  };
  const double without = nmse(3, values, {10000, 10000, 10000});
  const double unseen = nmse(4, all, {10000, 10000, 10000, 0});
  const double seen = nmse(4, all, {10000, 10000, 10000, 10000});
  // One token in 30,000, with some thirty times the energy of the others'.
  EXPECT_NEAR(unseen, without, 0.1 * without);
  EXPECT_GT(std::abs(seen - without), 0.3 * without);
}

TEST(Sampler, ZerosAreExact) {
  const test::SmallModel small(
      {{"blk.0.ffn_up.weight", {256, 40, 1}, Format::F16, std::vector<float>(256 * 40), {}}});
  const SampledTensor sampled = sample(small, {Format::Q4_0, Format::IQ2_XXS}, {}).begin()->second;
  for (const FormatMeasurement& error : sampled.errors) {
    EXPECT_EQ(error.nmse, 0);
    EXPECT_EQ(error.standard_error, 0);
  }
}

TEST(Sampler, HugeAndTinyWeightsAreMeasuredOrRefused) {
  const auto measure = [](float huge) -> Result<SampledTensor> {
    std::vector<float> values = test::heavy_tailed(80, 256, 3);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] *= i / 256 % 2 == 0 ? huge : 1.0F / huge;
    const test::SmallModel small({{"blk.0.ffn_up.weight", {256, 80, 1}, Format::F32, values, {1000}}});
    NoProgress progress;
    const CancellationToken cancel;
    SampledTensor result;
    QF_TRY(sample_tensors(small.model(), small.importance(), all_tensors(small.model(), {Format::Q8_0}), {},
                          best_kernels(), progress, cancel,
                          [&](const SamplingTask&, const SampledTensor& sampled) -> Result<void> {
                            result = sampled;
                            return outcome::success();
                          }));
    return result;
  };
  const auto measured = measure(1e6F);
  ASSERT_TRUE(measured) << measured.error().message;
  EXPECT_GT(measured.value().errors[0].nmse, 0);
  EXPECT_TRUE(std::isfinite(measured.value().errors[0].nmse));
  // Sums of squares leave single precision: no number is better than a wrong one.
  const auto refused = measure(1e30F);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Unsupported);
  EXPECT_THAT(refused.error().message, ::testing::HasSubstr("'blk.0.ffn_up.weight'"));
}

TEST(Sampler, CancellationReportsFinishedTensorsOnly) {
  std::vector<test::SmallTensor> tensors;
  for (int i = 0; i < 20; ++i)
    tensors.push_back(
        {"blk." + std::to_string(i) + ".ffn_up.weight", {256, 100, 1}, Format::F16, {}, {1000}});
  const test::SmallModel small(tensors);
  const auto tasks = all_tensors(small.model(), {Format::Q4_0});
  for (const unsigned threads : {1U, 2U}) {
    NoProgress progress;
    CancellationToken cancel;
    SamplerOptions options;
    options.threads = threads;
    Samples reported;
    const auto done =
        sample_tensors(small.model(), small.importance(), tasks, options, best_kernels(), progress, cancel,
                       [&](const SamplingTask& task, const SampledTensor& sampled) -> Result<void> {
                         reported.emplace(task.tensor->name, sampled);
                         if (reported.size() == 3) cancel.cancel();
                         return outcome::success();
                       });
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, ErrorCode::Interrupted);
    EXPECT_GE(reported.size(), 3U);
    EXPECT_LE(reported.size(), 3U + threads);
    const Samples whole = sample(small, {Format::Q4_0}, options);
    for (const auto& [name, sampled] : reported)
      EXPECT_EQ(sampled.errors[0].nmse, whole.at(name).errors[0].nmse) << name;
  }
}

TEST(Sampler, ErrorOfTheCallerStopsIt) {
  const test::SmallModel small(three_tensors());
  NoProgress progress;
  const CancellationToken cancel;
  int calls = 0;
  const auto done =
      sample_tensors(small.model(), nullptr, all_tensors(small.model(), {Format::Q4_0}), {}, best_kernels(),
                     progress, cancel, [&](const SamplingTask&, const SampledTensor&) -> Result<void> {
                       ++calls;
                       return fail(ErrorCode::NoSpace, "the disk is full");
                     });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::NoSpace);
  EXPECT_EQ(calls, 1);
}

TEST(Sampler, SourceThatWasCutShortIsAnErrorAndNothingIsReported) {
  const test::SmallModel small({{"blk.0.ffn_up.weight", {256, 600, 1}, Format::F16, {}, {}}});
  std::filesystem::resize_file(small.path(), 4096);
  NoProgress progress;
  const CancellationToken cancel;
  const auto tasks = all_tensors(small.model(), {Format::Q4_0});
  const auto done = sample_tensors(small.model(), nullptr, tasks, {}, best_kernels(), progress, cancel,
                                   [](const SamplingTask&, const SampledTensor&) -> Result<void> {
                                     ADD_FAILURE() << "reported";
                                     return outcome::success();
                                   });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::Io);
  EXPECT_THAT(done.error().message, ::testing::HasSubstr("changed its size"));
}

TEST(Sampler, NamesTensorAndRowOfAWeightThatIsNoNumber) {
  std::vector<float> values = test::heavy_tailed(8, 256, 3);
  values[5 * 256 + 17] = std::numeric_limits<float>::quiet_NaN();
  const test::SmallModel small({{"blk.0.ffn_up.weight", {256, 8, 1}, Format::F32, values, {}}});
  NoProgress progress;
  const CancellationToken cancel;
  const auto done =
      sample_tensors(small.model(), nullptr, all_tensors(small.model(), {Format::Q4_0}), {}, best_kernels(),
                     progress, cancel, [](const SamplingTask&, const SampledTensor&) -> Result<void> {
                       ADD_FAILURE() << "reported";
                       return outcome::success();
                     });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::Malformed);
  EXPECT_THAT(done.error().message, ::testing::HasSubstr("'blk.0.ffn_up.weight', row 5: column 17"));
}

}  // namespace
}  // namespace quantfit::optimizer

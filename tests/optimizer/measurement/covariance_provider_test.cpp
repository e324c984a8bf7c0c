// Sampling and writing with covariances: what is predicted is what is written.
#include "optimizer/measurement/covariance_provider.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "optimizer/measurement/interaction.h"
#include "optimizer/measurement/measure.h"
#include "optimizer/measurement/sampler.h"
#include "optimizer/output/model_writer.h"
#include "state/state_store.h"
#include "tests/optimizer/small_covariances.h"
#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

const kernels::RowKernels& best_kernels() {
  return kernels::runnable_kernels().front();
}

std::vector<test::SmallTensor> tensors() {
  return {{"blk.0.attn_q.weight", {256, 60, 1}, Format::F16, {}, {1000}},
          {"blk.0.ffn_up_exps.weight", {256, 10, 4}, Format::F16, {}, {500, 300, 200, 100}},
          {"output.weight", {512, 20, 1}, Format::F16, {}, {1000}}};
}

const std::vector<Format> kFormats = {Format::IQ2_XS, Format::IQ3_XXS, Format::Q4_K, Format::IQ4_XS};

std::map<std::string, SampledTensor> sample(const test::SmallModel& small, const SamplerOptions& options,
                                            const kernels::RowKernels& kernels = best_kernels()) {
  std::vector<SamplingTask> tasks;
  for (const TensorInfo& tensor : small.model().tensors()) tasks.push_back({&tensor, kFormats});
  NoProgress progress;
  const CancellationToken cancel;
  std::map<std::string, SampledTensor> samples;
  const auto done =
      sample_tensors(small.model(), small.importance(), tasks, options, kernels, progress, cancel,
                     [&](const SamplingTask& task, const SampledTensor& sampled) -> Result<void> {
                       samples.emplace(task.tensor->name, sampled);
                       return outcome::success();
                     });
  EXPECT_TRUE(done) << done.error().message;
  return samples;
}

void expect_equal(const std::map<std::string, SampledTensor>& a,
                  const std::map<std::string, SampledTensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, sampled] : a)
    for (std::size_t f = 0; f < kFormats.size(); ++f)
      EXPECT_EQ(sampled.errors[f].nmse, b.at(name).errors[f].nmse) << name << " " << name_of(kFormats[f]);
}

// e^T C e of what the writer wrote over the diagonal energy is the NMSE that sampling every row predicts.
TEST(CovarianceProvider, TheSamplerPredictsWhatTheWriterWrites) {
  const test::SmallModel small(tensors());
  const test::SmallCovariances covariances;
  SamplerOptions options;
  options.sampling.precision = 0;  // every row
  options.covariances = &covariances;
  const auto samples = sample(small, options);
  ASSERT_EQ(samples.size(), 3U);
  for (std::size_t f = 0; f < kFormats.size(); ++f) {
    Recipe recipe;
    for (const TensorInfo& tensor : small.model().tensors())
      recipe.entries.push_back({tensor.name, kFormats[f]});
    WriterOptions writer;
    writer.covariances = &covariances;
    writer.existing = Existing::Replace;
    NoProgress progress;
    const CancellationToken cancel;
    const auto path = small.folder() / "out.gguf";
    ASSERT_TRUE(write_model(small.model(), small.importance(), recipe, path, writer, best_kernels(), progress,
                            cancel));
    const auto written = Model::open(path);
    ASSERT_TRUE(written);
    for (const TensorInfo& source : small.model().tensors()) {
      const auto metric = make_tensor_metric(source, small.importance(), options.error_model).value();
      const TensorInfo& output = *written.value().find(source.name);
      const std::size_t n = source.row_length();
      double error = 0;
      double energy = 0;
      for (std::uint64_t row = 0; row < source.rows(); ++row) {
        const std::uint64_t matrix = row / source.ne[1];
        std::vector<float> x(n);
        std::vector<float> y(n);
        best_kernels().decode[static_cast<std::size_t>(source.format)](small.model().row(source, row).data(),
                                                                       n, x.data());
        best_kernels().decode[static_cast<std::size_t>(output.format)](
            written.value().row(output, row).data(), n, y.data());
        const auto moments = test::correlated_moments(n, static_cast<std::uint32_t>(7 + matrix));
        double mean = 0;
        for (std::size_t i = 0; i < n; ++i) mean += moments[i * n + i] / static_cast<double>(n);
        double row_error = 0;
        double row_energy = 0;
        for (std::size_t i = 0; i < n; ++i) {
          const double e = y[i] - x[i];
          double product = kernels::CovarianceFactor::kDamping * mean * e;
          for (std::size_t j = 0; j < n; ++j) product += double{moments[i * n + j]} * (y[j] - x[j]);
          row_error += product * e;
          const auto& column = metric.of(matrix);
          row_energy += column.scale() * column.second_moment()[i] * x[i] * x[i];
        }
        energy += metric.weight(matrix) * row_energy;
        error += metric.weight(matrix) * row_energy * interacting(row_error / row_energy);
      }
      const double predicted = samples.at(source.name).errors[f].nmse;
      EXPECT_NEAR(error / energy, predicted, 1e-3 * predicted) << source.name << " " << name_of(kFormats[f]);
    }
  }
}

TEST(CovarianceProvider, NumbersDoNotDependOnThreadsOrInstructionSet) {
  const test::SmallModel small(tensors());
  const test::SmallCovariances covariances;
  SamplerOptions options;
  options.sampling.min_rows = 8;
  options.sampling.max_rows = 8;
  options.effort = kernels::Effort::Fast;
  options.covariances = &covariances;
  options.threads = 1;
  const auto one = sample(small, options);
  options.threads = 4;
  expect_equal(one, sample(small, options));
  for (const kernels::RowKernels& kernels : kernels::runnable_kernels())
    expect_equal(one, sample(small, options, kernels));
}

TEST(CovarianceProvider, TensorsWithoutOneAreMeasuredByTheDiagonal) {
  const test::SmallModel small(tensors());
  const test::SmallCovariances covariances({"output.weight"});
  SamplerOptions options;
  options.sampling.max_rows = 16;
  options.sampling.min_rows = 16;
  const auto diagonal = sample(small, options);
  options.covariances = &covariances;
  const auto with = sample(small, options);
  for (std::size_t f = 0; f < kFormats.size(); ++f) {
    // As every error of such a run, it counts for more beside others.
    const double expected = interacting(diagonal.at("output.weight").errors[f].nmse);
    EXPECT_NEAR(with.at("output.weight").errors[f].nmse, expected, 0.1 * expected);
    EXPECT_NE(with.at("blk.0.attn_q.weight").errors[f].nmse,
              diagonal.at("blk.0.attn_q.weight").errors[f].nmse);
  }
}

// Rows of both kinds never mix in a state file.
TEST(CovarianceProvider, IsPartOfTheIdentityOfARun) {
  const test::SmallModel small(tensors());
  const test::SmallCovariances covariances;
  const auto measure = [&](const CovarianceProvider* provider) {
    auto store = state::StateStore::open(small.folder() / "state", {"aa11", "model.gguf", 1});
    EXPECT_TRUE(store);
    std::vector<SamplingTask> tasks;
    for (const TensorInfo& tensor : small.model().tensors()) tasks.push_back({&tensor, {Format::Q4_K}});
    SamplerOptions options;
    options.sampling.max_rows = 8;
    options.sampling.min_rows = 8;
    options.covariances = provider;
    NoProgress progress;
    const CancellationToken cancel;
    auto report = measure_tensors(small.model(), small.importance(), tasks, options, best_kernels(),
                                  &store.value(), "bb22", "1", progress, cancel);
    EXPECT_TRUE(report);
    return std::move(report).value();
  };
  const MeasureReport diagonal = measure(nullptr);
  const MeasureReport with = measure(&covariances);
  EXPECT_EQ(diagonal.tensors_sampled, 3U);
  EXPECT_EQ(with.tensors_sampled, 3U);
  EXPECT_NE(diagonal.run, with.run);
  const MeasureReport again = measure(&covariances);
  EXPECT_EQ(again.tensors_known, 3U);
  EXPECT_EQ(again.run, with.run);
  EXPECT_EQ(again.measurements.at("output.weight").errors[0].nmse,
            with.measurements.at("output.weight").errors[0].nmse);
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/measurement/measure.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "state/merge.h"
#include "tests/optimizer/small_model.h"

namespace quantfit::optimizer {
namespace {

const std::vector<Format> kNarrow = {Format::Q4_0, Format::Q8_0};
const std::vector<Format> kWide = {Format::Q4_0, Format::Q4_K, Format::IQ2_XXS, Format::Q8_0};

test::SmallModel model_case() {
  std::vector<test::SmallTensor> tensors;
  for (int i = 0; i < 6; ++i)
    tensors.push_back(
        {"blk." + std::to_string(i) + ".ffn_up.weight", {256, 200U + 100U * i, 1}, Format::F16, {}, {1000}});
  return test::SmallModel(tensors);
}

struct Measuring {
  const test::SmallModel& small;
  const std::filesystem::path path;
  SamplerOptions options{};
  CancellationToken cancel{};
  Shard shard{};

  [[nodiscard]] Result<MeasureReport> run(const std::vector<Format>& formats) {
    QF_ASSIGN(auto store, state::StateStore::open(path, {"aa11", "model.gguf", 1}));
    std::vector<SamplingTask> tasks;
    for (const TensorInfo& tensor : small.model().tensors()) tasks.push_back({&tensor, formats});
    NoProgress progress;
    return measure_tensors(small.model(), small.importance(), tasks, options,
                           kernels::runnable_kernels().front(), &store, "bb22", "1", progress, cancel, shard);
  }
};

void expect_equal(const Measurements& a, const Measurements& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, measurement] : a) {
    const state::TensorMeasurement& other = b.at(name);
    EXPECT_EQ(measurement.rows_sampled, other.rows_sampled) << name;
    ASSERT_EQ(measurement.errors.size(), other.errors.size()) << name;
    for (std::size_t f = 0; f < measurement.errors.size(); ++f) {
      EXPECT_EQ(measurement.errors[f].format, other.errors[f].format) << name;
      EXPECT_EQ(measurement.errors[f].nmse, other.errors[f].nmse) << name;
      EXPECT_EQ(measurement.errors[f].standard_error, other.errors[f].standard_error) << name;
      EXPECT_EQ(measurement.errors[f].bias_share, other.errors[f].bias_share) << name;
    }
  }
}

// The same numbers whatever was measured before: a pool of formats that grew, and one that was whole at once.
TEST(Measure, NumbersDoNotDependOnTheHistoryOfTheStateFile) {
  const test::SmallModel small = model_case();
  Measuring grown{small, small.folder() / "grown"};
  ASSERT_EQ(grown.run(kNarrow).value().tensors_sampled, 6U);
  const MeasureReport wider = grown.run(kWide).value();
  EXPECT_EQ(wider.tensors_sampled, 6U);
  const MeasureReport again = grown.run(kWide).value();
  EXPECT_EQ(again.tensors_sampled, 0U);
  EXPECT_EQ(again.tensors_known, 6U);
  Measuring at_once{small, small.folder() / "at once"};
  const MeasureReport whole = at_once.run(kWide).value();
  expect_equal(wider.measurements, whole.measurements);
  expect_equal(again.measurements, whole.measurements);
  // Nor do honest files differ when they are merged.
  const auto merged = state::merge_files(small.folder() / "grown", {small.folder() / "at once"});
  ASSERT_TRUE(merged) << merged.error().message;
  EXPECT_EQ(merged.value().differing, 0U);
  EXPECT_EQ(merged.value().errors_added, 0U);
}

// Parts measured into files of their own, or into one file, give what one process measures.
TEST(Measure, ShardsMergedInAnyOrderAreTheWhole) {
  const test::SmallModel small = model_case();
  Measuring whole{small, small.folder() / "whole"};
  const MeasureReport expected = whole.run(kWide).value();
  std::vector<std::filesystem::path> parts;
  for (std::uint32_t index = 1; index <= 3; ++index) {
    Measuring part{small, small.folder() / fmt::format("part {}", index)};
    part.shard = {index, 3};
    const MeasureReport report = part.run(kWide).value();
    EXPECT_GT(report.tensors_sampled, 0U);
    EXPECT_EQ(report.tensors_sampled + report.tensors_of_others, 6U);
    EXPECT_EQ(part.run(kWide).value().tensors_sampled, 0U);  // its part is done
    parts.push_back(part.path);
    Measuring together{small, small.folder() / "together"};
    together.shard = {index, 3};
    EXPECT_EQ(together.run(kWide).value().tensors_sampled, report.tensors_sampled);
  }
  for (int turn = 0; turn < 3; ++turn) {
    const auto into = small.folder() / fmt::format("merged {}", turn);
    const auto merged = state::merge_files(into, parts);
    ASSERT_TRUE(merged) << merged.error().message;
    EXPECT_EQ(merged.value().differing, 0U);
    Measuring after{small, into};
    const MeasureReport report = after.run(kWide).value();
    EXPECT_EQ(report.tensors_known, 6U);
    expect_equal(report.measurements, expected.measurements);
    std::rotate(parts.begin(), parts.begin() + 1, parts.end());
  }
  Measuring together{small, small.folder() / "together"};
  expect_equal(together.run(kWide).value().measurements, expected.measurements);
}

TEST(Measure, AnInterruptedRunIsContinuedWithWhatWasKnown) {
  const test::SmallModel small = model_case();
  Measuring interrupted{small, small.folder() / "interrupted"};
  interrupted.options.threads = 1;
  {
    // Cancelled by the third tensor: what was finished by then is in the file.
    class CancelsLater final : public ProgressSink {
     public:
      explicit CancelsLater(CancellationToken& cancel) : cancel_(cancel) {}
      void begin(std::string_view, std::uint64_t) override {}
      void advance(std::uint64_t, std::string_view what) override {
        if (first_.empty()) first_ = what;
        if (what != first_) cancel_.cancel();
      }
      void end() override {}

     private:
      CancellationToken& cancel_;
      std::string first_;
    };
    CancelsLater progress(interrupted.cancel);
    auto store = state::StateStore::open(interrupted.path, {"aa11", "model.gguf", 1}).value();
    std::vector<SamplingTask> tasks;
    for (const TensorInfo& tensor : small.model().tensors()) tasks.push_back({&tensor, kWide});
    const auto stopped = measure_tensors(small.model(), small.importance(), tasks, interrupted.options,
                                         kernels::runnable_kernels().front(), &store, "bb22", "1", progress,
                                         interrupted.cancel);
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted);
  }
  Measuring continued{small, interrupted.path};
  const MeasureReport report = continued.run(kWide).value();
  EXPECT_GT(report.tensors_known, 0U);
  EXPECT_GT(report.tensors_sampled, 0U);
  EXPECT_EQ(report.tensors_known + report.tensors_sampled, 6U);
  Measuring at_once{small, small.folder() / "at once"};
  expect_equal(report.measurements, at_once.run(kWide).value().measurements);
}

}  // namespace
}  // namespace quantfit::optimizer

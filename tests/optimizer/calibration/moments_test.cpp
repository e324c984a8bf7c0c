#include "optimizer/calibration/moments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/second_moments_file.h"
#include "optimizer/calibration/importance.h"
#include "tests/optimizer/calibration/trained_text.h"

namespace quantfit::test {
namespace {

using calibration::collect_moments;
using calibration::MomentsOptions;
using calibration::Text;

SecondMomentsFile collect(const Text& text, const std::filesystem::path& path,
                          const MomentsOptions& options = {}) {
  const auto engine = engine::Engine::open(trained_model()).value();
  NoProgress progress;
  const CancellationToken cancel;
  const auto done = collect_moments(engine, text, path, options, progress, cancel);
  EXPECT_TRUE(done) << done.error().message;
  auto file = SecondMomentsFile::open(path);
  EXPECT_TRUE(file) << file.error().message;
  return std::move(file).value();
}

TEST(CollectMoments, DiagonalsAreTheMeanSquaresOfTheImportanceMatrix) {
  const TemporaryFolder folder;
  const Text text = trained_text(5);
  const SecondMomentsFile file = collect(text, folder / "moments.gguf");
  const auto engine = engine::Engine::open(trained_model()).value();
  NoProgress progress;
  const CancellationToken cancel;
  const auto importance = calibration::collect_importance(engine, text, {}, progress, cancel);
  ASSERT_TRUE(importance);
  ASSERT_FALSE(importance.value().data.tensors.empty());
  for (const auto& [name, sums] : importance.value().data.tensors) {
    const SecondMomentsInput* input = file.find(name);
    ASSERT_NE(input, nullptr) << name;
    EXPECT_EQ(input->block, input->columns);
    EXPECT_EQ(file.rows(*input, 0), 5 * 64.0);
    const auto moments = file.moments(*input, 0);
    ASSERT_TRUE(moments);
    const std::size_t n = input->columns;
    ASSERT_EQ(n, sums.sum_squares.size()) << name;
    for (std::size_t j = 0; j < n; ++j) {
      const double expected = sums.sum_squares[j] / (5 * 64.0);
      EXPECT_NEAR(moments.value()[j * n + j], expected, 1e-5 * expected) << name << ", column " << j;
      for (std::size_t i = 0; i < j; ++i) {
        const double bound = std::sqrt(double{moments.value()[i * n + i]} * moments.value()[j * n + j]);
        EXPECT_EQ(moments.value()[i * n + j], moments.value()[j * n + i]);
        EXPECT_LE(std::abs(moments.value()[i * n + j]), 1.0001 * bound + 1e-12);
      }
    }
  }
  // Queries, keys and values share one input, gate and up another.
  EXPECT_EQ(file.find("blk.0.attn_q.weight"), file.find("blk.0.attn_v.weight"));
  EXPECT_EQ(file.find("blk.1.ffn_gate.weight"), file.find("blk.1.ffn_up.weight"));
  EXPECT_NE(file.find("blk.0.attn_q.weight"), file.find("blk.1.attn_q.weight"));
  EXPECT_EQ(file.identity().text, text.fingerprint);
}

TEST(CollectMoments, TheSameBytesWithAnyBatchesAndThreads) {
  const TemporaryFolder folder;
  const Text text = trained_text(6);
  collect(text, folder / "first");
  const auto expected = read_file(folder / "first");
  for (const std::uint32_t batch : {64U, 4096U})
    for (const unsigned threads : {1U, 3U}) {
      MomentsOptions options;
      options.run.batch_tokens = batch;
      options.run.threads = threads;
      collect(text, folder / "again", options);
      EXPECT_TRUE(read_file(folder / "again") == expected) << batch << " " << threads;
    }
}

TEST(CollectMoments, BlocksAreThoseOfTheWholeMatrix) {
  const TemporaryFolder folder;
  const Text text = trained_text(3);
  const SecondMomentsFile full = collect(text, folder / "full");
  MomentsOptions options;
  options.form.full_columns = 16;
  options.form.block = 24;
  const SecondMomentsFile blocks = collect(text, folder / "blocks", options);
  ASSERT_EQ(full.inputs().size(), blocks.inputs().size());
  for (const SecondMomentsInput& input : blocks.inputs()) {
    EXPECT_EQ(input.block, 24U);
    const std::size_t n = input.columns;
    const auto whole = full.moments(*full.find(input.tensors[0]), 0).value();
    const auto parts = blocks.moments(input, 0).value();
    std::size_t at = 0;
    for (std::size_t first = 0; first < n; first += 24)
      for (std::size_t i = first; i < std::min(first + 24, n); ++i)
        for (std::size_t j = first; j < std::min(first + 24, n); ++j)
          ASSERT_EQ(parts[at++], whole[i * n + j]) << input.name << " " << i << " " << j;
    EXPECT_EQ(at, parts.size());
  }
}

TEST(CollectMoments, AnInterruptedRunLeavesNothing) {
  const TemporaryFolder folder;
  const auto engine = engine::Engine::open(trained_model()).value();
  NoProgress progress;
  CancellationToken cancel;
  cancel.cancel();
  const auto done =
      collect_moments(engine, trained_text(2), folder / "moments", MomentsOptions{}, progress, cancel);
  EXPECT_EQ(done.error().code, ErrorCode::Interrupted);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Cancels after so many steps of progress.
class StopAfter final : public ProgressSink {
 public:
  StopAfter(CancellationToken& cancel, int steps) : cancel_(&cancel), left_(steps) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {
    if (--left_ <= 0) cancel_->cancel();
  }
  void end() override {}

 private:
  CancellationToken* cancel_;
  int left_;
};

TEST(CollectMoments, InterruptedAnywhereAndContinuedToTheSameBytes) {
  const TemporaryFolder folder;
  const Text text = trained_text(4);
  const auto engine = engine::Engine::open(trained_model()).value();
  collect(text, folder / "first");
  const auto expected = read_file(folder / "first");
  MomentsOptions options;
  options.checkpoint = folder / "pass";
  options.checkpoint_seconds = 0;
  options.run.batch_tokens = 64;  // four batches a layer
  std::uint32_t began = 0;
  for (const int steps : {3, 9, 14, 6, 11}) {  // in the first layer, between layers, in the midst of one
    CancellationToken cancel;
    StopAfter stop(cancel, steps);
    const auto done = collect_moments(engine, text, folder / "again", options, stop, cancel);
    if (done) break;
    ASSERT_EQ(done.error().code, ErrorCode::Interrupted) << done.error().message;
    EXPECT_FALSE(std::filesystem::exists(folder / "again"));
  }
  NoProgress progress;
  const CancellationToken cancel;
  const auto done = collect_moments(engine, text, folder / "again", options, progress, cancel);
  ASSERT_TRUE(done) << done.error().message;
  began = done.value();
  EXPECT_GT(began, 2U);
  EXPECT_TRUE(read_file(folder / "again") == expected);
  // Nothing else is left.
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(files, std::filesystem::directory_iterator()), 2);
}

TEST(CollectMoments, AMissingPartOrAnotherTextBeginsAnew) {
  const TemporaryFolder folder;
  const auto engine = engine::Engine::open(trained_model()).value();
  MomentsOptions options;
  options.checkpoint = folder / "pass";
  options.checkpoint_seconds = 0;
  options.run.batch_tokens = 64;
  const auto interrupt = [&] {
    CancellationToken cancel;
    StopAfter stop(cancel, 15);
    EXPECT_FALSE(collect_moments(engine, trained_text(4), folder / "x", options, stop, cancel));
    EXPECT_TRUE(std::filesystem::exists(folder / "pass"));
    EXPECT_TRUE(std::filesystem::exists(folder / "pass.1"));
  };
  NoProgress progress;
  const CancellationToken cancel;
  interrupt();
  std::filesystem::remove(folder / "pass.1");
  const auto missing = collect_moments(engine, trained_text(4), folder / "x", options, progress, cancel);
  ASSERT_TRUE(missing) << missing.error().message;
  EXPECT_EQ(missing.value(), 0U);
  interrupt();
  const auto other = collect_moments(engine, trained_text(4, 64, 4), folder / "y", options, progress, cancel);
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_EQ(other.value(), 0U);
}

// Experts: routed rows by the hand of the test, through the collector alone.
struct Collected {
  SecondMomentsInput input;
  std::vector<float> moments, diagonals;
  std::vector<double> rows;
};
std::vector<Collected> collect_experts(std::uint64_t expert_bytes, const TensorInfo& tensor) {
  std::vector<Collected> all;
  calibration::MomentsForm form;
  form.expert_bytes = expert_bytes;
  calibration::MomentsCollector collector(
      *kernels::default_math_kernels().value(), form,
      [&](const SecondMomentsInput& input, std::span<const float> moments, std::span<const float> diagonals,
          std::span<const double> rows) -> Result<void> {
        all.push_back({input,
                       {moments.begin(), moments.end()},
                       {diagonals.begin(), diagonals.end()},
                       {rows.begin(), rows.end()}});
        return outcome::success();
      });
  engine::Matrix matrix;
  matrix.tensor = &tensor;
  matrix.columns = 2;
  matrix.rows = 1;
  matrix.count = 3;
  const float first[] = {1, 2, 3, 4};  // two rows of expert 0
  const float second[] = {5, 6};       // one of expert 2
  EXPECT_TRUE(collector.begin_layer(0));
  EXPECT_TRUE(collector.product({0, &matrix, 0, 7, {first, 2, 2, 2}, {}}));
  EXPECT_TRUE(collector.product({0, &matrix, 2, 7, {second, 1, 2, 2}, {}}));
  EXPECT_TRUE(collector.end_layer(0));
  return all;
}

TEST(CollectMoments, ExpertsHaveAMatrixEachOrShareOne) {
  TensorInfo tensor;
  tensor.name = "blk.0.ffn_up_exps.weight";
  const auto each = collect_experts(1 << 20, tensor);
  ASSERT_EQ(each.size(), 1U);
  EXPECT_EQ(each[0].input.matrices, 3U);
  EXPECT_EQ(each[0].rows, (std::vector<double>{2, 0, 1}));
  EXPECT_EQ(each[0].moments, (std::vector<float>{5, 7, 10, 0, 0, 0, 25, 30, 36}));
  const auto shared = collect_experts(0, tensor);
  ASSERT_EQ(shared.size(), 1U);
  EXPECT_EQ(shared[0].input.matrices, 1U);
  EXPECT_EQ(shared[0].input.experts, 3U);
  EXPECT_EQ(shared[0].rows, (std::vector<double>{2, 0, 1}));
  ASSERT_EQ(shared[0].moments.size(), 3U);
  EXPECT_FLOAT_EQ(shared[0].moments[0], 35.0F / 3);
  EXPECT_FLOAT_EQ(shared[0].moments[1], 44.0F / 3);
  EXPECT_FLOAT_EQ(shared[0].moments[2], 56.0F / 3);
  EXPECT_EQ(shared[0].diagonals, (std::vector<float>{5, 10, 0, 0, 25, 36}));
}

}  // namespace
}  // namespace quantfit::test

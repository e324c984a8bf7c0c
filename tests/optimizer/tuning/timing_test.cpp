// What fits into a time.
#include "optimizer/tuning/timing.h"

#include <gtest/gtest.h>

#include "optimizer/tuning/batches.h"
#include "optimizer/tuning/checkpoint.h"
#include "tests/optimizer/tuning/quantized_copy.h"

namespace quantfit::test {
namespace {

using namespace tuning;

TEST(TuningTime, MoreTimeIsMoreStepsOnMoreText) {
  const PassCost cost{.original = 1e-4, .look = 1e-4, .step = 1, .start = 0.5};
  const TuneOptions options;
  // 400 windows of 256 tokens: 89 steps see the 368 of them that are trained on.
  EXPECT_FALSE(portion_for(cost, 16, 400, 256, options));
  Portion last;
  for (const double seconds : {20.0, 30.0, 60.0, 100.0, 110.0, 1000.0}) {
    const auto portion = portion_for(cost, seconds, 400, 256, options);
    ASSERT_TRUE(portion) << seconds;
    EXPECT_LE(portion->seconds, seconds);
    EXPECT_EQ(portion->seconds, foreseen_seconds(cost, portion->windows, 256, portion->steps));
    EXPECT_GE(portion->steps, last.steps);
    EXPECT_GE(portion->windows, last.windows);
    // Every step has text of its own.
    EXPECT_GE(split_of(portion->windows).training.size(), std::min<std::size_t>(portion->steps * 4, 368));
    last = *portion;
  }
  EXPECT_EQ(last.steps, suitable_steps(368 * 256, 1024));
  EXPECT_EQ(last.windows, 400U);
  // Steps that were asked for, or nothing.
  TuneOptions given;
  given.steps = 30;
  EXPECT_EQ(portion_for(cost, 1000, 400, 256, given)->steps, 30U);
  EXPECT_FALSE(portion_for(cost, 25, 400, 256, given));
  // A short text is gone through several times.
  EXPECT_EQ(portion_for(cost, 1000, 12, 256, options)->steps, 16U);
  EXPECT_EQ(portion_for(cost, 1000, 12, 256, options)->windows, 12U);
}

TEST(TuningTime, IsChosenByMeasuring) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const calibration::Text text = trained_text(8, 16);
  NoProgress progress;
  const CancellationToken cancel;
  TuneOptions options;
  options.step_tokens = 16;
  const auto much = choose_for_time(trained_model(), quantized, text, options, 1e6, progress, cancel);
  ASSERT_TRUE(much) << much.error().message;
  EXPECT_EQ(much.value().level, Level::Scales);
  EXPECT_EQ(much.value().steps, 16U);
  EXPECT_EQ(much.value().chunks, 8U);
  EXPECT_GT(much.value().foreseen_seconds, 0);
  const auto little = choose_for_time(trained_model(), quantized, text, options, 1e-3, progress, cancel);
  ASSERT_FALSE(little);
  EXPECT_EQ(little.error().code, ErrorCode::InvalidArgument);
  // A run that goes on has what was chosen for it before, whatever the machine is like now.
  options.checkpoint = folder / "tuning";
  TimedChoice choice = much.value();
  choice.steps = 17;
  choice.chunks = 7;
  Parameters none;
  ASSERT_TRUE(save_checkpoint(options.checkpoint, "identity", &choice, {{Attempt{}}, 1, {1}, {1}}, none, {}));
  const auto again = choose_for_time(trained_model(), quantized, text, options, 1e6, progress, cancel);
  ASSERT_TRUE(again);
  EXPECT_EQ(again.value().steps, 17U);
  EXPECT_EQ(again.value().chunks, 7U);
  const auto other = choose_for_time(trained_model(), quantized, text, options, 2e6, progress, cancel);
  ASSERT_TRUE(other);
  EXPECT_EQ(other.value().steps, 16U);
}

}  // namespace
}  // namespace quantfit::test

#include "optimizer/tuning/tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/byte_size.h"
#include "kernels/row_kernels.h"
#include "optimizer/calibration/evaluate.h"
#include "optimizer/tuning/tuned_file.h"
#include "tests/optimizer/engine/generated_shape.h"
#include "tests/optimizer/tuning/quantized_copy.h"

namespace quantfit::test {
namespace {

using namespace tuning;
using ::testing::HasSubstr;

Result<TuneResult> tuned(const Model& quantized, const calibration::Text& text, const TuneOptions& options) {
  NoProgress progress;
  const CancellationToken cancel;
  return tune(trained_model(), quantized, text, options, progress, cancel);
}

double divergence_of(const Model& model, const calibration::Text& text) {
  NoProgress progress;
  const CancellationToken cancel;
  const Model* candidates[] = {&model};
  const auto scores = calibration::evaluate(trained_model(), candidates, text, {}, progress, cancel).value();
  double sum = 0;
  for (const auto& score : scores.candidates[0]) sum += score.divergence;
  return sum / static_cast<double>(scores.candidates[0].size());
}

TEST(Tune, BringsAFileCloserOnTextHeldBackAndOnOtherText) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const calibration::Text text = trained_text(40, 32), other = trained_text(20, 32, 200);
  const double other_before = divergence_of(quantized, other);
  double before = 0;
  std::vector<double> after;
  for (const Level level : {Level::Norms, Level::Scales, Level::Codes}) {
    const auto result = tuned(quantized, text, {.level = level, .steps = 6, .step_tokens = 256});
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result.value().level, level);
    EXPECT_LT(result.value().gain.ratio(), 0.95);
    EXPECT_EQ(result.value().training_tokens, 35U * 32);
    EXPECT_EQ(result.value().held_back_tokens, 5U * 32);
    before = result.value().gain.before;
    after.push_back(result.value().gain.after);
    // The file has the same size but for the keys, the same formats, and is as close as was said.
    const auto path = folder / fmt::format("{}.gguf", to_string(level));
    const auto keys = tuned_keys(result.value(), text.fingerprint, "base");
    const std::string_view about_bytes[] = {"general.name"};
    const auto written =
        write_tuned(quantized, result.value().replaced(), keys, about_bytes, path, Existing::Keep);
    ASSERT_TRUE(written) << written.error().message;
    const Model file = Model::open(path).value();
    EXPECT_EQ(file.total_tensor_bytes(), quantized.total_tensor_bytes());
    EXPECT_EQ(file.metadata().string("quantfit.tuned.level"), to_string(level));
    EXPECT_EQ(file.metadata().uint("quantfit.tuned.steps"), 6U);
    EXPECT_TRUE(quantized.metadata().find("general.name") != nullptr);
    EXPECT_TRUE(file.metadata().find("general.name") == nullptr);
    EXPECT_LT(divergence_of(file, other), 0.97 * other_before);
  }
  EXPECT_LT(after[1], after[0]);
  EXPECT_GT(before, after[0]);
}

TEST(Tune, SameBytesWhateverTheThreadsMemoryAndInstructionSet) {
  const TemporaryFolder folder;
  GeneratedShape shape{.architecture = "qwen3moe",
                       .head_dim = 8,
                       .qk_norm = GeneratedShape::QkNorm::PerHead,
                       .experts = 4,
                       .expert_ffn = 32};
  write_generated(shape, folder / "f32.gguf");
  shape.format = Format::Q4_0;
  write_generated(shape, folder / "q.gguf");
  const Model original = Model::open(folder / "f32.gguf").value();
  const Model quantized = Model::open(folder / "q.gguf").value();
  std::vector<TokenId> tokens;
  for (std::uint64_t i = 0, state = 1; i < 24 * 16; ++i, state = state * 6364136223846793005U + 1)
    tokens.push_back(static_cast<TokenId>((state >> 33) % shape.vocabulary));
  calibration::Text text{TokenWindows::cut(std::move(tokens), 16, std::nullopt).value(), {"made"}, "made"};
  TuneOptions options{.run = {.threads = 1}, .level = Level::Codes, .steps = 8, .step_tokens = 64};
  NoProgress progress;
  const CancellationToken cancel;
  const auto reference = tune(original, quantized, text, options, progress, cancel).value();
  // Every weight has its part in what is seen at the text held back.
  const auto looks_of = [](const TuneResult& result) {
    std::vector<double> out;
    for (const Look& look : result.attempts.at(0).looks) out.push_back(look.divergence);
    return out;
  };
  EXPECT_EQ(looks_of(reference).size(), 4U);
  const auto same = [&](const TuneOptions& other) {
    const auto result = tune(original, quantized, text, other, progress, cancel);
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(looks_of(result.value()), looks_of(reference));
  };
  TuneOptions other = options;
  other.run.threads = 3;
  same(other);
  const auto plan = plan_tuning(original, quantized, text, options).value();
  other = options;
  other.run.memory_limit = plan.memory_bytes;
  same(other);
  // With less there is room for moments in bytes.
  EXPECT_EQ(plan.moments, MomentForm::Whole);
  const auto smaller = [&] {
    TuneOptions less = options;
    for (less.run.memory_limit = plan.memory_bytes; less.run.memory_limit > 0;
         less.run.memory_limit -= 1024) {
      const auto found = plan_tuning(original, quantized, text, less);
      if (!found || found.value().moments == MomentForm::Bytes) break;
    }
    return less;
  }();
  const auto less_memory = tune(original, quantized, text, smaller, progress, cancel);
  ASSERT_TRUE(less_memory) << less_memory.error().message << " with " << smaller.run.memory_limit;
  const TuneResult& by_memory = less_memory.value();
  EXPECT_EQ(by_memory.attempts.at(0).moments, MomentForm::Bytes);
  EXPECT_NE(looks_of(by_memory), looks_of(reference));
  other = options;
  other.moments = MomentForm::Bytes;
  EXPECT_EQ(looks_of(tune(original, quantized, text, other, progress, cancel).value()), looks_of(by_memory));
  other.run.threads = 3;
  EXPECT_EQ(looks_of(tune(original, quantized, text, other, progress, cancel).value()), looks_of(by_memory));
  for (const kernels::RowKernels& kernels : kernels::runnable_kernels()) {
    ASSERT_EQ(setenv("QUANTFIT_ISA", std::string(kernels.isa).c_str(), 1), 0);
    same(options);
    ASSERT_EQ(unsetenv("QUANTFIT_ISA"), 0);
  }
}

TEST(Tune, LeavesAFileAsItIsWhereNothingHelps) {
  const auto result = tuned(trained_model(), trained_text(16, 16), {.steps = 2});
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result.value().level, Level::None);
  // The highest level with all of the rates, then every level with less.
  ASSERT_EQ(result.value().attempts.size(), 3U);
  EXPECT_EQ(result.value().attempts[0].level, result.value().attempts[1].level);
  EXPECT_EQ(result.value().attempts[0].rates, 1);
  EXPECT_EQ(result.value().attempts[1].rates, kLowerRates);
  EXPECT_EQ(result.value().attempts[2].rates, kLowerRates);
  EXPECT_TRUE(result.value().replaced().empty());
  EXPECT_EQ(result.value().gain.before, result.value().gain.after);
}

// Rates that do harm are given up early, and an eighth of them taken.
TEST(Tune, LowersRatesThatAreTooHigh) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const TuneOptions usual;
  TuneOptions options{.level = Level::Scales, .steps = 12, .step_tokens = 256};
  options.value_rate = 60 * usual.value_rate;
  options.scale_rate = 60 * usual.scale_rate;
  const auto result = tuned(quantized, trained_text(40, 32), options);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result.value().attempts.size(), 2U);
  const Attempt& first = result.value().attempts[0];
  const Attempt& second = result.value().attempts[1];
  EXPECT_EQ(first.rates, 1);
  EXPECT_FALSE(first.kept);
  EXPECT_LT(first.looks.size(), kLooks);
  EXPECT_EQ(second.level, Level::Scales);
  EXPECT_EQ(second.rates, kLowerRates);
  EXPECT_EQ(second.looks.size(), kLooks);
  EXPECT_TRUE(second.kept);
  EXPECT_EQ(result.value().gain.after, second.gain.after);
}

TEST(Tune, ChoosesTheLevelForWhichThereIsMemory) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const calibration::Text text = trained_text(8, 16);
  TuneOptions options;
  const auto whole = plan_tuning(trained_model(), quantized, text, options).value();
  EXPECT_EQ(whole.level, Level::Scales);  // codes want more text
  options.level = Level::Codes;
  const auto codes = plan_tuning(trained_model(), quantized, text, options).value();
  EXPECT_GT(codes.codes, 1000000U);
  EXPECT_GT(codes.memory_bytes, whole.memory_bytes);
  options.level = Level::Norms;
  const auto norms = plan_tuning(trained_model(), quantized, text, options).value();
  EXPECT_LT(norms.memory_bytes, whole.memory_bytes);
  EXPECT_EQ(norms.scales, 0U);
  EXPECT_GT(whole.scales, 50000U);
  options.level.reset();
  // The first limit that suffices has no room for scales.
  for (options.run.memory_limit = 1U << 20;; options.run.memory_limit += 1U << 18) {
    ASSERT_LT(options.run.memory_limit, whole.memory_bytes);
    const auto plan = plan_tuning(trained_model(), quantized, text, options);
    if (!plan) continue;
    EXPECT_EQ(plan.value().level, Level::Norms);
    break;
  }
  options.run.memory_limit = 1000;
  const auto none = plan_tuning(trained_model(), quantized, text, options);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::NoSpace);
  EXPECT_THAT(whole.describe(), HasSubstr("memory in all"));
}

TEST(Tune, SaysWhatEveryLevelTakesBeforeThereIsAFile) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const calibration::Text text = trained_text(8, 16);
  TuneOptions options;
  const auto levels = plan_levels(trained_model(), quantized.tensors(), text, options).value();
  ASSERT_EQ(levels.size(), 3U);
  for (const TunePlan& level : levels) {
    options.level = level.level;
    const TunePlan opened = plan_tuning(trained_model(), quantized, text, options).value();
    EXPECT_EQ(level.values, opened.values);
    EXPECT_EQ(level.scales, opened.scales);
    EXPECT_EQ(level.codes, opened.codes);
    EXPECT_EQ(level.steps, opened.steps);
    EXPECT_EQ(level.memory_bytes, opened.memory_bytes);
    EXPECT_EQ(level.passes(), opened.passes());
    EXPECT_THAT(describe(levels), HasSubstr(format_bytes(opened.memory_bytes)));
  }
  EXPECT_EQ(levels[2].level, Level::Codes);
  EXPECT_GT(levels[2].codes, 1000000U);
  EXPECT_GT(levels[0].passes(), 4);
  options.run.memory_limit = levels[1].memory_bytes;
  EXPECT_EQ(plan_levels(trained_model(), quantized.tensors(), text, options).value().size(), 2U);
  options.run.memory_limit = 1000;
  const auto none = plan_levels(trained_model(), quantized.tensors(), text, options).value();
  EXPECT_THAT(describe(none), HasSubstr("no memory for any level"));
  EXPECT_FALSE(plan_levels(trained_model(), quantized.tensors(), trained_text(7, 16), {}));
}

TEST(Tune, RefusesAShortTextAndStops) {
  const auto result = tuned(trained_model(), trained_text(7, 16), {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(result.error().message, HasSubstr("7 chunks is too short"));
  NoProgress progress;
  CancellationToken cancel;
  cancel.cancel();
  const auto stopped = tune(trained_model(), trained_model(), trained_text(8, 16), {}, progress, cancel);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted);
}

TEST(Tune, FewerTokensGetMorePassesAndNeverLessThanSixteenSteps) {
  EXPECT_EQ(suitable_steps(1000, 1024), 16U);
  EXPECT_EQ(suitable_steps(8 * 1024, 1024), 32U);
  EXPECT_EQ(suitable_steps(20 * 1024, 1024), 80U);
  EXPECT_EQ(suitable_steps(60 * 1024, 1024), 160U);
  EXPECT_EQ(suitable_steps(200 * 1024 + 1, 1024), 201U);
}

}  // namespace
}  // namespace quantfit::test

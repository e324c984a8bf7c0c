#include "optimizer/tuning/layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "optimizer/tuning/tuned_file.h"
#include "tests/optimizer/engine/generated_shape.h"
#include "tests/optimizer/tuning/quantized_copy.h"

namespace quantfit::test {
namespace {

using namespace tuning;
using ::testing::HasSubstr;

Result<TuneResult> tuned(const Model& original, const Model& quantized, const calibration::Text& text,
                         const TuneOptions& options) {
  NoProgress progress;
  const CancellationToken cancel;
  return tune(original, quantized, text, options, progress, cancel);
}

std::vector<std::vector<std::byte>> bytes_of(const TuneResult& result, const Model& quantized) {
  const engine::ReplacedTensors replaced = result.replaced();
  std::vector<std::vector<std::byte>> out;
  for (const TensorInfo& tensor : quantized.tensors()) {
    const auto found = replaced.find(&tensor);
    const auto data = found == replaced.end() ? quantized.data(tensor) : found->second;
    out.emplace_back(data.begin(), data.end());
  }
  return out;
}

TEST(TuneLayers, BringsAFileCloserAndKeepsWhatDoesNotBelongToALayer) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const calibration::Text text = trained_text(24, 32);
  const auto result =
      tuned(trained_model(), quantized, text,
            {.level = Level::Scales, .form = TuneForm::Layers, .steps = 8, .step_tokens = 256});
  ASSERT_TRUE(result) << result.error().message;
  const TuneResult& out = result.value();
  EXPECT_EQ(out.level, Level::Scales);
  EXPECT_LT(out.gain.ratio(), 0.97);
  ASSERT_GT(out.layers.size(), 1U);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < out.layers.size(); ++i) {
    EXPECT_EQ(out.layers[i].layer, i);
    EXPECT_EQ(out.layers[i].attempt.looks.size(), kLooks);
    EXPECT_LE(out.layers[i].attempt.gain.after, out.layers[i].attempt.gain.before);
    kept += out.layers[i].attempt.kept ? 1 : 0;
  }
  EXPECT_GT(kept, out.layers.size() / 2);
  for (const auto& [tensor, bytes] : out.replaced()) EXPECT_TRUE(tensor->name.starts_with("blk."));
  // What was said is what the file does.
  const auto written = write_tuned(quantized, out.replaced(), tuned_keys(out, text.fingerprint, "base"), {},
                                   folder / "t.gguf", Existing::Keep);
  ASSERT_TRUE(written) << written.error().message;
  const Model file = Model::open(folder / "t.gguf").value();
  const auto again = tuned(trained_model(), file, text, {.level = Level::Norms, .steps = 1});
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again.value().attempts.at(0).gain.before, out.gain.after);
}

// A small mixture of experts, in F32 and in Q4_0, and some made-up tokens.
struct Small {
  TemporaryFolder folder;
  std::optional<Model> original, quantized;
  std::optional<calibration::Text> text;
  Small() {
    GeneratedShape shape{.architecture = "qwen3moe",
                         .head_dim = 8,
                         .qk_norm = GeneratedShape::QkNorm::PerHead,
                         .experts = 4,
                         .expert_ffn = 32};
    write_generated(shape, folder / "f32.gguf");
    shape.format = Format::Q4_0;
    write_generated(shape, folder / "q.gguf");
    original = Model::open(folder / "f32.gguf").value();
    quantized = Model::open(folder / "q.gguf").value();
    std::vector<TokenId> tokens;
    for (std::uint64_t i = 0, state = 1; i < 24 * 16; ++i, state = state * 6364136223846793005U + 1)
      tokens.push_back(static_cast<TokenId>((state >> 33) % shape.vocabulary));
    text =
        calibration::Text{TokenWindows::cut(std::move(tokens), 16, std::nullopt).value(), {"made"}, "made"};
  }
};

TEST(TuneLayers, SameBytesWhateverTheThreadsAndMemoryAndAfterAnInterruption) {
  const Small small;
  const TuneOptions options{
      .run = {.threads = 1}, .level = Level::Codes, .form = TuneForm::Layers, .steps = 8, .step_tokens = 64};
  const auto run = [&](const TuneOptions& other) {
    auto result = tuned(*small.original, *small.quantized, *small.text, other);
    EXPECT_TRUE(result) << result.error().message;
    return std::move(result).value();
  };
  const TuneResult reference = run(options);
  const auto expected = bytes_of(reference, *small.quantized);
  const auto same = [&](const TuneResult& other) {
    EXPECT_EQ(other.layers, reference.layers);
    EXPECT_EQ(other.attempts, reference.attempts);
    EXPECT_TRUE(bytes_of(other, *small.quantized) == expected);
  };
  TuneOptions other = options;
  other.run.threads = 3;
  same(run(other));
  // So little memory that states go to files.
  const TunePlan plan = plan_tuning(*small.original, *small.quantized, *small.text, options).value();
  EXPECT_TRUE(plan.by_layers);
  EXPECT_EQ(plan.scratch_bytes, 0U);
  other = options;
  other.moments = MomentForm::Whole;
  for (other.run.memory_limit = plan.memory_bytes; other.run.memory_limit > 0;
       other.run.memory_limit -= 512) {
    const auto less = plan_tuning(*small.original, *small.quantized, *small.text, other);
    ASSERT_TRUE(less) << less.error().message;
    EXPECT_LE(less.value().memory_bytes, other.run.memory_limit);
    if (less.value().scratch_bytes != 0) break;
  }
  same(run(other));
  // What a run that was ended has left is taken up, damaged and foreign files are not.
  other = options;
  other.checkpoint = small.folder / "t.gguf.tuning";
  TuneResult first = run(other);
  same(first);
  EXPECT_EQ(first.continued_at, 0U);
  const auto layers = reference.layers.size();
  ASSERT_EQ(layers, 2U);
  std::filesystem::remove(layer_file(other.checkpoint, 1));
  const TuneResult second = run(other);
  same(second);
  EXPECT_EQ(second.continued_at, 1U);
  {
    std::fstream file(layer_file(other.checkpoint, 0), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-40, std::ios::end);
    file.write("\x55\x55\x55\x55\x55\x55\x55\x55", 8);
  }
  const TuneResult third = run(other);
  same(third);
  EXPECT_EQ(third.continued_at, 2U);  // the second layer's file is whole
  TuneOptions seeded = other;
  seeded.seed = 2;
  EXPECT_EQ(run(seeded).continued_at, 0U);
  remove_checkpoint(other.checkpoint);
  for (std::size_t layer = 0; layer < layers; ++layer)
    EXPECT_FALSE(std::filesystem::exists(layer_file(other.checkpoint, layer)));
}

TEST(TuneLayers, WhatItLeavesIsTunedWholeAndAnInterruptedRunGoesOn) {
  const Small small;
  const auto run = [&](const TuneOptions& options) {
    auto result = tuned(*small.original, *small.quantized, *small.text, options);
    EXPECT_TRUE(result) << result.error().message;
    return std::move(result).value();
  };
  TuneOptions options{.level = Level::Codes, .form = TuneForm::Layers, .steps = 8, .step_tokens = 64};
  const TuneResult layers = run(options);
  options.form = TuneForm::Whole;
  const TuneResult whole = run(options);
  options.form = TuneForm::Both;
  const TuneResult both = run(options);
  EXPECT_EQ(both.layers, layers.layers);
  EXPECT_EQ(both.gain.before, whole.gain.before);
  // Never behind what it began with; no change at all is a valid end.
  EXPECT_LE(both.gain.after, both.gain.before);
  // What an earlier run has left is taken up, with the same bytes at the end.
  options.checkpoint = small.folder / "t.gguf.tuning";
  options.checkpoint_seconds = 0;
  EXPECT_TRUE(bytes_of(run(options), *small.quantized) == bytes_of(both, *small.quantized));
  const TuneResult again = run(options);
  EXPECT_GT(again.continued_at, 0U);
  EXPECT_TRUE(bytes_of(again, *small.quantized) == bytes_of(both, *small.quantized));
}

TEST(TuneLayers, IsTakenWhereTheWholeModelDoesNotFit) {
  const TemporaryFolder folder;
  const Model quantized = quantized_copy(trained_model(), folder / "q.gguf", mixed_format);
  const calibration::Text text = trained_text(8, 16);
  TuneOptions options{.level = Level::Codes};
  const TunePlan whole = plan_tuning(trained_model(), quantized, text, options).value();
  EXPECT_FALSE(whole.by_layers);
  options.form = TuneForm::Layers;
  const TunePlan layers = plan_tuning(trained_model(), quantized, text, options).value();
  EXPECT_TRUE(layers.by_layers);
  EXPECT_LT(layers.memory_bytes, whole.memory_bytes / 2);
  EXPECT_THAT(layers.describe(), HasSubstr("one layer at a time, each in 16 steps"));
  options.form = TuneForm::Auto;
  options.run.memory_limit = layers.memory_bytes;
  const TunePlan chosen = plan_tuning(trained_model(), quantized, text, options).value();
  EXPECT_TRUE(chosen.by_layers);
  EXPECT_EQ(chosen.level, Level::Codes);
  options.form = TuneForm::Whole;
  const auto refused = plan_tuning(trained_model(), quantized, text, options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::NoSpace);
  options.form = TuneForm::Layers;
  options.run.memory_limit = 1000;
  EXPECT_EQ(plan_tuning(trained_model(), quantized, text, options).error().code, ErrorCode::NoSpace);
}

TEST(TuneLayers, StopsWhenItIsTold) {
  const Small small;
  NoProgress progress;
  CancellationToken cancel;
  cancel.cancel();
  const auto stopped =
      tune(*small.original, *small.quantized, *small.text, {.form = TuneForm::Layers}, progress, cancel);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted);
}

}  // namespace
}  // namespace quantfit::test

// Every family with a recorded model: our logits against llama.cpp's.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "tests/optimizer/engine/recorded_model.h"

namespace quantfit::test {
namespace {

class RecordedModels : public testing::TestWithParam<RecordedModel> {};

TEST_P(RecordedModels, LogitsAgree) {
  const RecordedModel& recorded = GetParam();
  const auto model = Model::open(recorded.path);
  ASSERT_TRUE(model) << model.error().message;
  const auto engine = engine::Engine::open(model.value());
  ASSERT_TRUE(engine) << engine.error().message;
  engine::TokenWindows windows{recorded.tokens, {static_cast<std::uint32_t>(recorded.tokens.size())}};
  const auto ours = logits_of(engine.value(), windows);
  ASSERT_TRUE(ours) << ours.error().message;
  const LogitDifference difference = compare_logits(recorded.logits, ours.value());
  // llama.cpp takes gelu from a table of halves; without gelu only the order of sums differs.
  bool gelu = false;
  for (const engine::LayerGraph& layer : engine.value().graph().layers) {
    gelu = gelu || layer.ffn.activation == engine::Activation::Gelu ||
           layer.experts.experts.activation == engine::Activation::Gelu;
  }
  RecordProperty("largest", std::to_string(difference.largest));
  RecordProperty("divergence", std::to_string(difference.divergence));
  std::printf("%-16s largest difference %.2g, KL divergence %.2g\n", recorded.name.c_str(),
              difference.largest, difference.divergence);
  EXPECT_LT(difference.largest, gelu ? 5e-2 : 1e-4);
  EXPECT_LT(difference.divergence, 1e-5);
}

// Final states of two windows of the recorded tokens, the second one shorter.
Result<std::vector<std::vector<float>>> two_windows(const RecordedModel& recorded,
                                                    const engine::RunOptions& options) {
  QF_ASSIGN(const Model model, Model::open(recorded.path));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  engine::TokenWindows windows{recorded.tokens, {static_cast<std::uint32_t>(recorded.tokens.size()), 5}};
  windows.tokens.insert(windows.tokens.end(), recorded.tokens.begin() + 2, recorded.tokens.begin() + 7);
  return logits_of(engine, windows, options);
}

TEST_P(RecordedModels, SameBitsWhateverTheThreadsMemoryAndInstructionSet) {
  const RecordedModel& recorded = GetParam();
  const auto reference = two_windows(recorded, {.threads = 1});
  ASSERT_TRUE(reference) << reference.error().message;
  const auto threads = two_windows(recorded, {.threads = 7, .batch_tokens = 1});
  ASSERT_TRUE(threads);
  EXPECT_EQ(reference.value(), threads.value());

  const auto model = Model::open(recorded.path);
  const auto engine = engine::Engine::open(model.value());
  engine::TokenWindows windows{recorded.tokens, {static_cast<std::uint32_t>(recorded.tokens.size()), 5}};
  windows.tokens.insert(windows.tokens.end(), recorded.tokens.begin() + 2, recorded.tokens.begin() + 7);
  engine::RunOptions tight{.threads = 1};
  tight.memory_limit = engine.value().plan(windows, tight).value().memory_bytes - 1;
  ASSERT_NE(engine.value().plan(windows, tight).value().scratch_bytes, 0U);
  const auto scratch = two_windows(recorded, tight);
  ASSERT_TRUE(scratch) << scratch.error().message;
  EXPECT_EQ(reference.value(), scratch.value());

  for (const kernels::MathKernels& kernels : kernels::runnable_math_kernels()) {
    ASSERT_EQ(setenv("QUANTFIT_ISA", std::string(kernels.isa).c_str(), 1), 0);
    const auto other = two_windows(recorded, {.threads = 1});
    ASSERT_EQ(unsetenv("QUANTFIT_ISA"), 0);
    ASSERT_TRUE(other);
    EXPECT_EQ(reference.value(), other.value()) << kernels.isa;
  }
}

INSTANTIATE_TEST_SUITE_P(Engine, RecordedModels, testing::ValuesIn(recorded_models()),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace quantfit::test

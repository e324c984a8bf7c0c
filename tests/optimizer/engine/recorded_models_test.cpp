// Every family with a recorded model: our logits against llama.cpp's.
#include <gtest/gtest.h>

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

INSTANTIATE_TEST_SUITE_P(Engine, RecordedModels, testing::ValuesIn(recorded_models()),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace quantfit::test

// What the engine refuses before it runs, and how it says so.
#include "optimizer/engine/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/optimizer/engine/generated_shape.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

using testing::HasSubstr;

struct Refusal {
  ErrorCode code = ErrorCode::Internal;
  std::string message;
};

// The error of resolve(), or an empty message when there is none.
Refusal refusal_of(const GeneratedShape& shape) {
  const TemporaryFolder folder;
  write_generated(shape, folder / "model.gguf");
  const auto model = Model::open(folder / "model.gguf");
  EXPECT_TRUE(model) << model.error().message;
  if (!model) return {};
  const auto graph = engine::resolve(model.value());
  if (graph) return {};
  EXPECT_THAT(graph.error().message, HasSubstr("model.gguf"));
  return {graph.error().code, graph.error().message};
}

TEST(Graph, PlainModelResolves) {
  EXPECT_EQ(refusal_of({}).message, "");
}

TEST(Graph, UnknownArchitectureIsNamed) {
  const Refusal refusal = refusal_of({.architecture = "wondernet"});
  EXPECT_EQ(refusal.code, ErrorCode::Unsupported);
  EXPECT_THAT(refusal.message, HasSubstr("'wondernet'"));
  EXPECT_THAT(refusal.message, HasSubstr("qwen3moe"));
}

TEST(Graph, MissingTensorIsNamed) {
  const Refusal refusal = refusal_of({.without = {"blk.1.ffn_down.weight"}});
  EXPECT_EQ(refusal.code, ErrorCode::Malformed);
  EXPECT_THAT(refusal.message, HasSubstr("'blk.1.ffn_down.weight' is missing"));
}

TEST(Graph, MissingNormIsNamed) {
  EXPECT_THAT(refusal_of({.without = {"blk.0.attn_norm.weight"}}).message,
              HasSubstr("'blk.0.attn_norm.weight' is missing"));
  EXPECT_THAT(refusal_of({.architecture = "qwen3"}).message,
              HasSubstr("'blk.0.attn_q_norm.weight' is missing"));
}

TEST(Graph, WrongShapeIsNamed) {
  const Refusal refusal = refusal_of({.extra = {{"blk.1.attn_k.bias", {15}}}});
  EXPECT_EQ(refusal.code, ErrorCode::ShapeMismatch);
  EXPECT_THAT(refusal.message, HasSubstr("'blk.1.attn_k.bias' has 15 values, not 16"));
}

TEST(Graph, TensorsOutsideTheFamilyAreRefused) {
  const Refusal refusal = refusal_of({.extra = {{"blk.*.attn_q_norm.weight", {8}, 0.1F, 1}}});
  EXPECT_EQ(refusal.code, ErrorCode::Unsupported);
  EXPECT_THAT(refusal.message, HasSubstr("'blk.0.attn_q_norm.weight'"));
}

TEST(Graph, DraftHeadsAreSkipped) {
  EXPECT_EQ(refusal_of({.architecture = "glm4moe",
                        .layers = 3,
                        .ffn_norm = "post_attention_norm",
                        .keys = {{"nextn_predict_layers", 1U}},
                        .extra = {{"blk.2.nextn.eh_proj.weight", {64, 32}}}})
                .message,
            "");
}

TEST(Graph, VocabularyLargerThanTheEmbedding) {
  const Refusal refusal = refusal_of({.keys = {{"vocab_size", 41U}}});
  EXPECT_EQ(refusal.code, ErrorCode::ShapeMismatch);
  EXPECT_THAT(refusal.message, HasSubstr("41 tokens"));
  EXPECT_THAT(refusal.message, HasSubstr("'token_embd.weight' only 40 rows"));
}

TEST(Graph, HostileNumbers) {
  const std::vector<std::pair<std::string, KeyValue>> cases = {
      {"block_count", 0U},
      {"block_count", 0xFFFFFFFFU},
      {"block_count", 3U},
      {"embedding_length", 0U},
      {"embedding_length", 33U},
      {"attention.head_count", 0U},
      {"attention.head_count", 3U},
      {"attention.head_count", 0xFFFFFFFFU},
      {"attention.head_count_kv", 3U},
      {"attention.head_count_kv", 0U},
      {"attention.key_length", 0U},
      {"attention.key_length", 0xFFFFFFU},
      {"rope.dimension_count", 7U},
      {"rope.dimension_count", 64U},
      {"rope.freq_base", 0.0F},
      {"attention.causal", false},
      {"attention.head_count", std::string("four")},
      {"nextn_predict_layers", 3U},
      {"attention.head_count_kv", std::vector<std::uint32_t>{2}},
      {"attention.layer_norm_rms_epsilon", -1.0F},
  };
  for (const auto& [key, value] : cases) {
    const Refusal refusal = refusal_of({.keys = {{key, value}}});
    EXPECT_NE(refusal.message, "") << key;
  }
}

TEST(Graph, ExpertsThatCannotBe) {
  const GeneratedShape shape{
      .architecture = "qwen3moe", .qk_norm = GeneratedShape::QkNorm::PerHead, .experts = 4};
  EXPECT_EQ(refusal_of(shape).message, "");
  for (const std::pair<std::string, KeyValue>& key :
       std::vector<std::pair<std::string, KeyValue>>{{"expert_count", 0U},
                                                     {"expert_count", 5U},
                                                     {"expert_used_count", 0U},
                                                     {"expert_used_count", 5U}}) {
    GeneratedShape wrong = shape;
    wrong.keys = {key};
    EXPECT_NE(refusal_of(wrong).message, "") << key.first;
  }
}

TEST(Graph, DescriptionIsTheSameForTheSameFile) {
  const TemporaryFolder folder;
  write_generated({}, folder / "model.gguf");
  const auto model = Model::open(folder / "model.gguf");
  ASSERT_TRUE(model);
  const auto graph = engine::resolve(model.value());
  ASSERT_TRUE(graph);
  const std::string text = engine::describe(graph.value());
  EXPECT_EQ(text, engine::describe(engine::resolve(model.value()).value()));
  EXPECT_THAT(text, HasSubstr("2 blocks"));
}

}  // namespace
}  // namespace quantfit::test

#include "optimizer/llama_cpp/model_traits.h"

#include <gtest/gtest.h>

#include "tests/optimizer/model_shapes.h"

namespace quantfit::optimizer {
namespace {

TEST(ModelTraits, ComeFromMetadataAndNames) {
  const test::ModelShape shape = test::qwen3_30b_a3b();
  const ModelTraits model = model_traits(shape.metadata, shape.tensors).value();
  EXPECT_EQ(model.architecture, "qwen3moe");
  EXPECT_EQ(model.block_count, 48U);
  EXPECT_EQ(model.nextn_layers, 0U);
  EXPECT_EQ(model.head_count, 32U);
  EXPECT_EQ(model.head_count_kv, 4U);
  EXPECT_EQ(model.expert_count, 128U);
  EXPECT_FALSE(model.tied);
  const test::ModelShape gemma = test::gemma3_27b();
  EXPECT_TRUE(model_traits(gemma.metadata, gemma.tensors).value().tied);
}

TEST(ModelTraits, AbsentKeysHaveAMeaning) {
  test::ModelShape shape = test::llama3_8b();
  shape.metadata.remove("llama.block_count");
  shape.metadata.remove("llama.attention.head_count_kv");
  const ModelTraits model = model_traits(shape.metadata, shape.tensors).value();
  EXPECT_EQ(model.block_count, 32U);  // from the tensors
  EXPECT_EQ(model.head_count_kv, 32U);
  EXPECT_EQ(model.expert_count, 0U);
  EXPECT_TRUE(model_traits(GgufMetadata(), {}).value().architecture.empty());
}

TEST(ModelTraits, ArraysGiveTheirFirstLayer) {
  test::ModelShape shape = test::llama3_8b();
  shape.set_array("attention.head_count_kv", {0, 8, 8});
  EXPECT_EQ(model_traits(shape.metadata, shape.tensors).value().head_count_kv, 0U);
  shape.set_array("attention.head_count_kv", {});
  EXPECT_EQ(model_traits(shape.metadata, shape.tensors).error().code, ErrorCode::Malformed);
}

TEST(ModelTraits, WrongTypesAreRefused) {
  for (const char* key : {"block_count", "attention.head_count", "expert_count"}) {
    test::ModelShape shape = test::llama3_8b();
    shape.metadata.set(GgufKeyValue::of_string(std::string("llama.") + key, "8"));
    const auto refused = model_traits(shape.metadata, shape.tensors);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::Malformed);
    EXPECT_NE(refused.error().message.find(key), std::string::npos);
    shape.metadata.set(GgufKeyValue::of_int32(std::string("llama.") + key, -1));
    EXPECT_FALSE(model_traits(shape.metadata, shape.tensors));
  }
}

}  // namespace
}  // namespace quantfit::optimizer

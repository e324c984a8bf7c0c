#include "optimizer/llama_cpp/prune_layers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit::optimizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint32_t kLayers = 4;

// Four layers of one vector each that holds the layer's number, an embedding, a key per layer.
class Pruning : public ::testing::Test {
 protected:
  Pruning() {
    test::GgufBytes file(kLayers + 1, 5);
    file.key("general.architecture", "qwen3next");
    file.key("qwen3next.block_count", GgufType::UInt32, std::uint32_t{kLayers});
    file.key("qwen3next.leading_dense_block_count", GgufType::UInt32, std::uint32_t{2});
    file.key("qwen3next.nextn_predict_layers", GgufType::UInt32, std::uint32_t{1});
    file.key("qwen3next.full_attention_interval", GgufType::UInt32, std::uint32_t{4});
    file.tensor("token_embd.weight", {8}, 0, 0);
    for (std::uint32_t i = 0; i < kLayers; ++i)
      file.tensor("blk." + std::to_string(i) + ".x.weight", {8}, 0, 32 * (i + 1));
    file.pad();
    for (std::uint32_t i = 0; i <= kLayers; ++i)
      for (int j = 0; j < 8; ++j) file.put(static_cast<float>(i));
    test::write_file(folder_ / "m.gguf", file.bytes());
  }
  [[nodiscard]] Model model() const { return Model::open(folder_ / "m.gguf").value(); }

  test::TemporaryFolder folder_;
  std::vector<std::string> warnings_;
};

TEST_F(Pruning, LayersBehindMoveUp) {
  const auto pruned = prune_layers(model(), {3, 1}, warnings_);
  ASSERT_TRUE(pruned) << pruned.error().message;
  std::vector<std::string> names;
  std::vector<float> first;
  for (const TensorInfo& tensor : pruned.value().tensors()) {
    names.push_back(tensor.name);
    float value = 0;
    std::memcpy(&value, pruned.value().data(tensor).data(), sizeof(value));
    first.push_back(value);
  }
  EXPECT_THAT(names, ElementsAre("token_embd.weight", "blk.0.x.weight", "blk.1.x.weight"));
  EXPECT_THAT(first, ElementsAre(0, 1, 3));
  EXPECT_NE(pruned.value().find("blk.1.x.weight"), nullptr);
  EXPECT_EQ(pruned.value().find("blk.3.x.weight"), nullptr);
  const GgufMetadata& metadata = pruned.value().metadata();
  EXPECT_EQ(metadata.uint("qwen3next.block_count"), 2U);
  EXPECT_EQ(metadata.uint("qwen3next.leading_dense_block_count"), 1U);
  EXPECT_EQ(metadata.uint("qwen3next.nextn_predict_layers"), 0U);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("full_attention_interval")));
}

TEST_F(Pruning, NothingIsNothing) {
  const auto same = prune_layers(model(), {}, warnings_);
  ASSERT_TRUE(same);
  EXPECT_EQ(same.value().tensors().size(), std::size_t{kLayers + 1});
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(Pruning, RefusesLayersThatAreNotThere) {
  const auto refused = [&](std::vector<std::uint32_t> layers, const char* part) {
    const auto pruned = prune_layers(model(), std::move(layers), warnings_);
    ASSERT_FALSE(pruned);
    EXPECT_EQ(pruned.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(pruned.error().message, HasSubstr(part));
  };
  refused({4}, "there are 4");
  refused({1, 1}, "twice");
  refused({0, 1, 2, 3}, "all 4 layers");
}

TEST(NameWithoutLayers, CountsOnlyLayersBefore) {
  const std::vector<std::uint32_t> layers = {2, 5};
  EXPECT_EQ(name_without_layers("blk.1.ffn_up.weight", layers), "blk.1.ffn_up.weight");
  EXPECT_EQ(name_without_layers("blk.2.ffn_up.weight", layers), "");
  EXPECT_EQ(name_without_layers("blk.4.ffn_up.weight", layers), "blk.3.ffn_up.weight");
  EXPECT_EQ(name_without_layers("blk.12.ffn_up.weight", layers), "blk.10.ffn_up.weight");
  EXPECT_EQ(name_without_layers("output.weight", layers), "output.weight");
  EXPECT_EQ(name_without_layers("v.blk.2.attn_q.weight", layers), "v.blk.2.attn_q.weight");
}

}  // namespace
}  // namespace quantfit::optimizer

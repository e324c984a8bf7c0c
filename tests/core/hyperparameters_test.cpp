#include "core/hyperparameters.h"

#include <gtest/gtest.h>

#include <vector>

namespace quantfit {
namespace {

GgufMetadata llama() {
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.architecture", "llama"));
  metadata.add(GgufKeyValue::of_uint32("llama.block_count", 3));
  const std::vector<std::uint32_t> heads = {8, 4, 2};
  metadata.add(GgufKeyValue::of_uint32_array("llama.attention.head_count_kv", heads));
  return metadata;
}

TEST(Hyperparameters, ScalarsServeEveryLayerArraysEachItsOwn) {
  const GgufMetadata metadata = llama();
  Hyperparameters h(metadata);
  EXPECT_EQ(h.architecture(), "llama");
  EXPECT_EQ(h.value("block_count", 0, 2), 3U);
  EXPECT_EQ(h.value("attention.head_count_kv", 0), 8U);
  EXPECT_EQ(h.value("attention.head_count_kv", 0, 2), 2U);
  EXPECT_EQ(h.value("nothing", 7), 7U);
  EXPECT_TRUE(h.has("block_count"));
  EXPECT_FALSE(h.has("nothing"));
  EXPECT_TRUE(h.check());
}

TEST(Hyperparameters, TheFirstBrokenKeyIsNamed) {
  GgufMetadata metadata = llama();
  metadata.set(GgufKeyValue::of_string("llama.text", "3"));
  metadata.set(GgufKeyValue::of_int32("llama.negative", -1));
  metadata.set(GgufKeyValue::of_uint32("llama.huge", 1U << 31));
  for (const char* key : {"text", "negative", "huge"}) {
    Hyperparameters h(metadata);
    EXPECT_EQ(h.value(key, 5), 5U) << key;
    EXPECT_EQ(h.value("attention.head_count_kv", 6, 3), 6U);  // of a layer that the array does not reach
    ASSERT_FALSE(h.check());
    EXPECT_EQ(h.check().error().code, ErrorCode::Malformed);
    EXPECT_NE(h.check().error().message.find(std::string("llama.") + key), std::string::npos);
  }
}

TEST(Hyperparameters, WithoutArchitectureThereAreNone) {
  const GgufMetadata metadata;
  Hyperparameters h(metadata);
  EXPECT_TRUE(h.architecture().empty());
  EXPECT_EQ(h.value("block_count", 1), 1U);
}

// A lookup that copied the array would take minutes.
TEST(Hyperparameters, LongArraysAreReadInPlace) {
  GgufMetadata metadata = llama();
  const std::vector<std::uint32_t> values(1'000'000, 9);
  metadata.add(GgufKeyValue::of_uint32_array("llama.long", values));
  Hyperparameters h(metadata);
  std::uint64_t sum = 0;
  for (std::uint32_t layer = 0; layer < 100'000; ++layer) sum += h.value("long", 0, layer);
  EXPECT_EQ(sum, 900'000U);
}

}  // namespace
}  // namespace quantfit

#include "core/gguf_value.h"

#include <gtest/gtest.h>

#include <limits>

namespace quantfit {
namespace {

template <class T>
GgufKeyValue number(GgufType type, T value) {
  return {"k", type, GgufType::UInt8, 1, std::as_bytes(std::span(&value, 1))};
}

TEST(GgufValue, IntegersOfAnyTypeThatHoldTheValue) {
  EXPECT_EQ(number(GgufType::Int8, std::int8_t{-5}).as_int(), -5);
  EXPECT_EQ(number(GgufType::Int8, std::int8_t{-5}).as_uint(), std::nullopt);
  EXPECT_EQ(number(GgufType::UInt16, std::uint16_t{60000}).as_uint(), 60000U);
  constexpr auto kLargest = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(number(GgufType::UInt64, kLargest).as_uint(), kLargest);
  EXPECT_EQ(number(GgufType::UInt64, kLargest).as_int(), std::nullopt);
  EXPECT_EQ(number(GgufType::Float32, 2.0F).as_uint(), std::nullopt);
  EXPECT_EQ(GgufKeyValue::of_bool("k", true).as_uint(), 1U);
  EXPECT_EQ(GgufKeyValue::of_string("k", "7").as_uint(), std::nullopt);
}

TEST(GgufValue, DoublesOnlyWhenExact) {
  EXPECT_EQ(number(GgufType::Float32, 0.1F).as_double(), double{0.1F});
  EXPECT_EQ(number(GgufType::Int64, std::int64_t{1} << 53).as_double(), 9007199254740992.0);
  EXPECT_EQ(number(GgufType::Int64, (std::int64_t{1} << 53) + 1).as_double(), std::nullopt);
  EXPECT_EQ(number(GgufType::Int64, std::numeric_limits<std::int64_t>::min()).as_double(), -0x1p63);
  EXPECT_EQ(number(GgufType::Int64, std::numeric_limits<std::int64_t>::max()).as_double(), std::nullopt);
  EXPECT_EQ(number(GgufType::UInt64, std::numeric_limits<std::uint64_t>::max()).as_double(), std::nullopt);
  EXPECT_EQ(number(GgufType::UInt8, std::uint8_t{255}).as_double(), 255.0);
  EXPECT_EQ(number(GgufType::Int32, std::numeric_limits<std::int32_t>::max()).as_double(), 2147483647.0);
}

TEST(GgufValue, BooleansAreAnyNonZeroByte) {
  EXPECT_EQ(number(GgufType::Bool, std::uint8_t{2}).as_bool(), true);
  EXPECT_EQ(number(GgufType::Bool, std::uint8_t{0}).as_bool(), false);
  EXPECT_EQ(number(GgufType::UInt8, std::uint8_t{1}).as_bool(), std::nullopt);
}

TEST(GgufValue, Arrays) {
  const std::vector<std::string> words = {"a", "", "longer \n text"};
  EXPECT_EQ(GgufKeyValue::of_string_array("k", words).as_string_array(), words);
  EXPECT_EQ(GgufKeyValue::of_string_array("k", words).as_int_array(), std::nullopt);
  const std::vector<std::uint32_t> numbers = {1, 4000000000U};
  EXPECT_EQ(GgufKeyValue::of_uint32_array("k", numbers).as_int_array(),
            (std::vector<std::int64_t>{1, 4000000000}));
  EXPECT_EQ(GgufKeyValue::of_uint32_array("k", {}).as_int_array(), std::vector<std::int64_t>{});
  EXPECT_EQ(GgufKeyValue::of_uint32("k", 1).as_int_array(), std::nullopt);
}

TEST(GgufValue, InconsistentBytesAnswerNothing) {
  GgufKeyValue cut = GgufKeyValue::of_string_array("k", std::vector<std::string>{"abc", "def"});
  EXPECT_TRUE(cut.consistent());
  cut.bytes = std::span(cut.bytes.data(), cut.bytes.size() - 1);
  EXPECT_FALSE(cut.consistent());
  EXPECT_EQ(cut.as_string_array(), std::nullopt);
  GgufKeyValue huge = GgufKeyValue::of_uint32_array("k", std::vector<std::uint32_t>{1, 2});
  huge.count = (std::uint64_t{1} << 62) + 2;  // times 4 it wraps to 8
  EXPECT_FALSE(huge.consistent());
  EXPECT_EQ(huge.as_int_array(), std::nullopt);
  GgufKeyValue empty = GgufKeyValue::of_uint32("k", 1);
  empty.bytes = {};
  EXPECT_EQ(empty.as_uint(), std::nullopt);
}

TEST(GgufMetadata, KeepsOrderAndFindsByKey) {
  GgufMetadata metadata;
  for (const char* key : {"c", "a", "b"}) EXPECT_TRUE(metadata.add(GgufKeyValue::of_string(key, key)));
  EXPECT_FALSE(metadata.add(GgufKeyValue::of_uint32("a", 1)));
  EXPECT_EQ(metadata.string("a"), "a");
  metadata.set(GgufKeyValue::of_uint32("a", 7));
  metadata.set(GgufKeyValue::of_uint32("d", 8));
  EXPECT_TRUE(metadata.remove("c"));
  EXPECT_FALSE(metadata.remove("c"));
  EXPECT_EQ(metadata.find("c"), nullptr);
  EXPECT_EQ(metadata.uint("a"), 7U);
  EXPECT_EQ(metadata.string("b"), "b");
  EXPECT_EQ(metadata.number("d"), 8.0);
  std::string order;
  for (const GgufKeyValue& pair : metadata.all()) order += pair.key;
  EXPECT_EQ(order, "abd");
  const GgufMetadata copy = metadata;
  EXPECT_EQ(copy.uint("d"), 8U);
  // Copies share what is large.
  EXPECT_EQ(copy.find("b")->bytes.data(), metadata.find("b")->bytes.data());
  metadata.set(GgufKeyValue::of_string("b", "other"));
  EXPECT_EQ(copy.string("b"), "b");
}

}  // namespace
}  // namespace quantfit

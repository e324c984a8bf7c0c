#include "core/tokenizer/byte_pattern.h"

#include <gtest/gtest.h>

#include <string>

namespace quantfit::test {
namespace {

TEST(BytePattern, AsciiStaysAndAlikeCharactersShareAByte) {
  const auto result = to_byte_pattern(R"(\p{L}+|[^\s\p{L}]|a{1,3}$)");
  ASSERT_TRUE(result) << result.error().message;
  const CharacterClasses& classes = result.value().classes;
  EXPECT_EQ(classes[U'a'], 'a');
  EXPECT_EQ(classes[U'é'], classes[U'漢']);
  EXPECT_NE(classes[U'é'], classes[U'²']);
  EXPECT_EQ(classes[0x10FFFF], classes[U'²']);  // neither letters nor white space
  EXPECT_EQ(classes[0x3000], 0x0B);             // white space beyond ASCII
  EXPECT_TRUE(result.value().pattern.ends_with("|a{1,3}$"));
  for (const char c : result.value().pattern) EXPECT_TRUE(c > ' ' && c < 0x7F);
}

TEST(BytePattern, RangesMayReachAnywhere) {
  const auto result = to_byte_pattern(R"([!-/\x{4E00}-\x{9FA5}é\]-])");
  ASSERT_TRUE(result) << result.error().message;
  const CharacterClasses& classes = result.value().classes;
  EXPECT_EQ(classes[0x4E00], classes[0x9FA5]);
  EXPECT_EQ(classes[0xE9], classes[0x4E00]);
  EXPECT_NE(classes[0x9FA6], classes[0x4E00]);
  EXPECT_EQ(classes[0x4DFF], classes[0x10FFFF]);
}

TEST(BytePattern, RefusesWhatItDoesNotKnow) {
  for (const char* pattern : {"[a", "[", "\\", "\\p", "\\p{", "\\p{Greek}", "\\q", "[z-a]", "[a-\\p{L}]x\\x{",
                              "\\x{110000}", "\\x{}", "\\w"}) {
    const auto result = to_byte_pattern(pattern);
    ASSERT_FALSE(result) << pattern;
    EXPECT_EQ(result.error().code, ErrorCode::InvalidArgument);
  }
}

}  // namespace
}  // namespace quantfit::test

#include "core/tokenizer/token_windows.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/support/generated_vocabulary.h"

namespace quantfit::test {
namespace {

std::vector<TokenId> counted(std::size_t count) {
  std::vector<TokenId> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

TEST(TokenWindows, AreCutAsTheToolsCutThem) {
  const auto windows = TokenWindows::cut(counted(35), 8, TokenId{1});
  ASSERT_TRUE(windows);
  ASSERT_EQ(windows.value().count(), 4U);  // three tokens are dropped
  EXPECT_EQ(windows.value().text(2)[0], 116U);
  std::vector<TokenId> inputs(8);
  windows.value().inputs(2, inputs);
  EXPECT_EQ(inputs, (std::vector<TokenId>{1, 117, 118, 119, 120, 121, 122, 123}));
  EXPECT_EQ(windows.value().first_scored(), 4U);
  EXPECT_EQ(windows.value().scored(), 3U);  // positions 4, 5, 6
}

TEST(TokenWindows, ScoreHalfAWindow) {
  const auto windows = TokenWindows::cut(counted(1024), 512, std::nullopt);
  ASSERT_TRUE(windows);
  EXPECT_EQ(windows.value().first_scored(), 256U);
  EXPECT_EQ(windows.value().scored(), 255U);
  std::vector<TokenId> inputs(512);
  windows.value().inputs(1, inputs);
  EXPECT_EQ(inputs[0], 612U);
}

TEST(TokenWindows, SkipAndLimit) {
  const auto windows = TokenWindows::cut(counted(40), 8, std::nullopt, 1, 2);
  ASSERT_TRUE(windows);
  EXPECT_EQ(windows.value().count(), 2U);
  EXPECT_EQ(windows.value().text(0)[0], 108U);
  EXPECT_EQ(windows.value().text(1)[7], 123U);
}

TEST(TokenWindows, RefusesWhatCannotBeCut) {
  EXPECT_FALSE(TokenWindows::cut(counted(15), 8, std::nullopt));
  EXPECT_FALSE(TokenWindows::cut({}, 8, std::nullopt));
  EXPECT_FALSE(TokenWindows::cut(counted(40), 1, std::nullopt));
  EXPECT_FALSE(TokenWindows::cut(counted(40), 8, std::nullopt, 5));
  EXPECT_FALSE(TokenWindows::cut(counted(40), 8, std::nullopt, 0, 0));
}

TEST(TokenWindows, TokensOfATextBeginButDoNotEnd) {
  GgufMetadata metadata = byte_pair_vocabulary("gpt-2", "x y", 0);
  metadata.set(GgufKeyValue::of_bool("tokenizer.ggml.add_bos_token", true));
  metadata.set(GgufKeyValue::of_bool("tokenizer.ggml.add_eos_token", true));
  metadata.set(GgufKeyValue::of_uint32("tokenizer.ggml.bos_token_id", 7));
  metadata.set(GgufKeyValue::of_uint32("tokenizer.ggml.eos_token_id", 8));
  const auto tokenizer = Tokenizer::from_metadata(metadata, "x");
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokens_of_text(tokenizer.value(), "ab").value(), (std::vector<TokenId>{7, 'a', 'b'}));
  EXPECT_EQ(tokenizer.value().encode("ab", {.add_special = true}).value(),
            (std::vector<TokenId>{7, 'a', 'b', 8}));
}

}  // namespace
}  // namespace quantfit::test

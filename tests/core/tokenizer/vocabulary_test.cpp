#include "core/tokenizer/vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "tests/support/generated_vocabulary.h"

namespace quantfit::test {
namespace {

using ::testing::HasSubstr;

GgufMetadata byte_level() {
  return byte_pair_vocabulary("gpt-2", "the cat and the dog and the rat", 10);
}

void expect_refused(const GgufMetadata& metadata, ErrorCode code, const std::string& part) {
  const auto result = Tokenizer::from_metadata(metadata, "model.gguf");
  ASSERT_FALSE(result) << part;
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_THAT(result.error().message, HasSubstr("model.gguf"));
  EXPECT_THAT(result.error().message, HasSubstr(part));
}

GgufKeyValue floats(std::string key, const std::vector<float>& values) {
  return {std::move(key), GgufType::Array, GgufType::Float32, values.size(),
          std::as_bytes(std::span(values))};
}

TEST(Vocabulary, UnknownKindsAreRefusedByName) {
  GgufMetadata metadata = byte_level();
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.pre", "gpt-5-secret"));
  expect_refused(metadata, ErrorCode::Unsupported, "gpt-5-secret");
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.model", "rwkv"));
  expect_refused(metadata, ErrorCode::Unsupported, "rwkv");
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.model", "no_vocab"));
  expect_refused(metadata, ErrorCode::Unsupported, "token ids");
}

TEST(Vocabulary, AnAbsentPreTokenizerIsTheDefault) {
  GgufMetadata metadata = byte_level();
  metadata.remove("tokenizer.ggml.pre");
  const auto vocabulary = Vocabulary::from_metadata(metadata, "x");
  ASSERT_TRUE(vocabulary);
  EXPECT_EQ(vocabulary.value().pre_tokenizer()->name, "default");
}

TEST(Vocabulary, MissingKeysAreNamed) {
  for (const char* key : {"model", "tokens", "merges"}) {
    GgufMetadata metadata = byte_level();
    metadata.remove(std::string("tokenizer.ggml.") + key);
    expect_refused(metadata, ErrorCode::Malformed, key);
  }
}

TEST(Vocabulary, WrongTypesAreNamed) {
  for (const char* key : {"model", "pre", "tokens", "merges", "token_type", "add_bos_token", "add_eos_token",
                          "add_space_prefix"}) {
    GgufMetadata metadata = byte_level();
    metadata.set(GgufKeyValue::of_float32(std::string("tokenizer.ggml.") + key, 1.5F));
    expect_refused(metadata, ErrorCode::Malformed, key);
  }
  GgufMetadata metadata = byte_level();
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.bos_token_id", "x"));
  expect_refused(metadata, ErrorCode::Malformed, "bos_token_id");
  metadata = scored_vocabulary("llama", "some text", 10);
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.scores", "x"));
  expect_refused(metadata, ErrorCode::Malformed, "scores");
  metadata = scored_vocabulary("t5", "some text", 10);
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.precompiled_charsmap", "x"));
  expect_refused(metadata, ErrorCode::Malformed, "precompiled_charsmap");
}

TEST(Vocabulary, HostileArraysAreRefused) {
  const std::vector<std::string> twice = {"a", "b", "a"};
  GgufMetadata metadata = byte_level();
  metadata.set(GgufKeyValue::of_string_array("tokenizer.ggml.tokens", twice));
  metadata.remove("tokenizer.ggml.token_type");
  expect_refused(metadata, ErrorCode::Malformed, "tokens 0 and 2");

  metadata = byte_level();
  metadata.set(GgufKeyValue::of_string_array("tokenizer.ggml.tokens", {}));
  expect_refused(metadata, ErrorCode::Malformed, "no tokens");

  metadata = byte_level();
  metadata.set(GgufKeyValue::of_uint32_array("tokenizer.ggml.token_type", std::vector<std::uint32_t>{1, 1}));
  expect_refused(metadata, ErrorCode::Malformed, "2 entries");

  for (const char* merge : {"ab", "", " ab"}) {
    metadata = byte_level();
    metadata.set(
        GgufKeyValue::of_string_array("tokenizer.ggml.merges", std::vector<std::string>{"a b", merge}));
    expect_refused(metadata, ErrorCode::Malformed, "merge 1");
  }

  metadata = scored_vocabulary("llama", "some text", 10);
  metadata.set(floats("tokenizer.ggml.scores", {1, 2}));
  expect_refused(metadata, ErrorCode::Malformed, "2 entries");
  metadata.set(
      floats("tokenizer.ggml.scores", std::vector<float>(1000, std::numeric_limits<float>::quiet_NaN())));
  expect_refused(metadata, ErrorCode::Malformed, "not a finite number");

  // A character map whose table would reach beyond its end.
  metadata = scored_vocabulary("t5", "some text", 10);
  metadata.set({"tokenizer.ggml.precompiled_charsmap", GgufType::Array, GgufType::UInt8, 8,
                std::vector<std::byte>{
                    std::byte{0xF0}, std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}, {}, {}, {}, {}}});
  expect_refused(metadata, ErrorCode::Malformed, "precompiled_charsmap");
}

TEST(Vocabulary, OddButUsableMetadataGiveWarnings) {
  GgufMetadata metadata = byte_level();
  metadata.set(
      GgufKeyValue::of_string_array("tokenizer.ggml.merges", std::vector<std::string>{"q w", "qw z"}));
  metadata.set(GgufKeyValue::of_uint32("tokenizer.ggml.bos_token_id", 1000000));
  const auto tokenizer = Tokenizer::from_metadata(metadata, "x");
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer.value().vocabulary().warnings().size(), 2U);
  // The merges apply, their texts are no tokens and fall apart.
  EXPECT_EQ(tokenizer.value().encode("qwz").value(), (std::vector<TokenId>{'q', 'w', 'z'}));
}

TEST(Vocabulary, EmptyTokensGetNames) {
  GgufMetadata metadata = byte_level();
  metadata.set(GgufKeyValue::of_string_array("tokenizer.ggml.tokens", std::vector<std::string>{"", "", "a"}));
  const auto vocabulary = Vocabulary::from_metadata(metadata, "x");
  ASSERT_TRUE(vocabulary) << vocabulary.error().message;
  EXPECT_EQ(vocabulary.value().text(1), "[EMPTY_1]");
}

TEST(Vocabulary, TokensAreWhatTheirTextsSay) {
  const auto traits = [](const std::vector<ExtraToken>& extra, std::string_view token) {
    const auto vocabulary = Vocabulary::from_metadata(byte_pair_vocabulary("gpt-2", "x y", 0, extra), "x");
    EXPECT_TRUE(vocabulary);
    return vocabulary.value().traits(*vocabulary.value().find(token));
  };
  EXPECT_TRUE(traits({{"<|im_end|>", 1}}, "<|im_end|>").control);
  EXPECT_TRUE(traits({{"<fim-prefix>", 1}}, "<fim-prefix>").control);
  EXPECT_FALSE(traits({{"<|im_start|>", 1}}, "<|im_start|>").special());
  EXPECT_TRUE(traits({{"<|channel|>", 3}}, "<|channel|>").user_defined);
  EXPECT_TRUE(traits({{"<|end|>", 3}}, "<|end|>").control);
  EXPECT_FALSE(traits({{"<|end|>", 3}, {"<|return|>", 3}, {"<|call|>", 3}}, "<|end|>").control);
  EXPECT_TRUE(traits({{"</s>", 3}, {"<|tool_response>", 3}}, "</s>").normal);
}

}  // namespace
}  // namespace quantfit::test

// Our tokenizer against the real client: the same ids for the same bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "core/tokenizer/utf8.h"
#include "tests/client/compare_tokenizers.h"
#include "tests/client/llama_library.h"
#include "tests/support/generated_vocabulary.h"
#include "tests/support/reference_library.h"

namespace quantfit::test {
namespace {

class ClientTokenizer : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!reference_library_dir()) GTEST_SKIP() << kReferenceLibraryAbsent;
  }
};

// Sprinkles special tokens, whole and cut short.
std::string with_special_tokens(std::string text, unsigned seed) {
  std::mt19937 random(seed);
  for (const char* token : {"<|im_start|>", "<|im_end|>  \n x", "<tool>", "<tool> a", "{{{", "  \n\n",
                            "[unknown]", "[unused]", "<s>", "</s>", "<unk>", "<|im_", "<0x41>", "\n\n\n"})
    for (int n = 0; n < 3; ++n) text.insert(random() % text.size(), token);
  return text;
}

// A quarter of the bytes is random; spells no number above U+10FFFF, at which the client ends the process.
std::string damaged(std::string text, unsigned seed) {
  std::mt19937 random(seed);
  for (std::size_t i = 0; i < text.size() / 4; ++i)
    text[random() % text.size()] = static_cast<char>(random() % 256);
  for (char& c : text)
    if (static_cast<unsigned char>(c) >= 0xF4 && static_cast<unsigned char>(c) < 0xF8) c = '\xF1';
  return text;
}

TEST_F(ClientTokenizer, AgreesOnMixedText) {
  // The long version is compare_tokenizers, by hand.
  const std::string training = mixed_text(40000, 1);
  const std::string text = with_special_tokens(mixed_text(20000, 2), 3);
  for (const NamedVocabulary& vocabulary : vocabularies_of_every_kind(training)) {
    const auto result = compare_tokenizers(vocabulary.metadata, text);
    ASSERT_TRUE(result) << vocabulary.name << ": " << result.error().message;
    EXPECT_EQ(result.value().difference, "") << vocabulary.name;
    EXPECT_GT(result.value().tokens, 4000U);
  }
}

TEST_F(ClientTokenizer, AgreesOnAnyBytes) {
  const std::string training = mixed_text(40000, 1);
  const std::string text = damaged(with_special_tokens(mixed_text(8000, 4), 5), 6);
  for (const NamedVocabulary& vocabulary : vocabularies_of_every_kind(training)) {
    const auto result = compare_tokenizers(vocabulary.metadata, text);
    ASSERT_TRUE(result) << vocabulary.name << ": " << result.error().message;
    EXPECT_EQ(result.value().difference, "") << vocabulary.name;
  }
}

TEST_F(ClientTokenizer, AgreesOnShortTexts) {
  const std::string training = mixed_text(40000, 1);
  for (const NamedVocabulary& vocabulary : vocabularies_of_every_kind(training)) {
    for (const char* text :
         {"", " ", "  ", "\n", "a", " a", "a ", "\xff", "1234567", "<|im_start|>", " <tool> ", "<tool>",
          "\u3000", "x \n", "'s", "\u0663\u0663\u0663\u0663 12\u0663"}) {
      const auto result = compare_tokenizers(vocabulary.metadata, text);
      ASSERT_TRUE(result) << vocabulary.name << ": " << result.error().message;
      EXPECT_EQ(result.value().difference, "") << vocabulary.name << ": \"" << text << "\"";
    }
  }
}

// With the pre-tokenizer "whitespace" the client ends the process at a space beside other white space.
TEST_F(ClientTokenizer, AgreesOnWordsWithSingleSpaces) {
  GgufMetadata metadata = byte_pair_vocabulary("whitespace", mixed_text(40000, 1), 300, {}, false);
  const auto none =
      compare_tokenizers(metadata, "some words, in a\nline\xE2\x96\x81of text \xC3\xA9 12 caf\xC3\xA9");
  ASSERT_TRUE(none) << none.error().message;
  EXPECT_EQ(none.value().difference, "");
}

}  // namespace
}  // namespace quantfit::test

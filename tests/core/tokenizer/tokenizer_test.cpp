#include "core/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/model.h"
#include "tests/support/generated_vocabulary.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

std::string text_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// Published test vectors: texts and the ids that every implementation must give.
TEST(TokenizerVectors, AreMetExactly) {
  const auto shared = shared_dir();
  if (!shared || !std::filesystem::exists(*shared / "running/vocab"))
    GTEST_SKIP() << "running/vocab is not there; no published vectors were run";
  std::size_t vocabularies = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*shared / "running/vocab")) {
    const std::filesystem::path& path = entry.path();
    const std::filesystem::path texts = path.string() + ".inp", expected = path.string() + ".out";
    if (path.extension() != ".gguf" || !std::filesystem::exists(texts)) continue;
    SCOPED_TRACE(path.filename().string());
    const auto model = Model::open(path);
    ASSERT_TRUE(model) << model.error().message;
    const auto tokenizer = Tokenizer::from_metadata(model.value().metadata(), path.string());
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    const std::string all = text_of(texts);
    std::istringstream lines(text_of(expected));
    constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
    std::size_t tests = 0;
    for (std::size_t at = 0; at < all.size(); ++tests) {
      const std::size_t end = all.find(kSeparator, at);
      ASSERT_NE(end, std::string::npos);
      const std::string text = all.substr(at, end - at);
      at = end + kSeparator.size();
      std::string line;
      ASSERT_TRUE(std::getline(lines, line));
      std::istringstream numbers(line);
      const std::vector<TokenId> ids{std::istream_iterator<TokenId>(numbers), {}};
      const auto tokens = tokenizer.value().encode(text);
      ASSERT_TRUE(tokens) << tokens.error().message;
      EXPECT_EQ(tokens.value(), ids) << "text: " << text;
      const auto decoded = tokenizer.value().decode(ids);
      ASSERT_TRUE(decoded);
      EXPECT_EQ(decoded.value(), text);
    }
    EXPECT_EQ(tests, 46U);
    ++vocabularies;
  }
  EXPECT_EQ(vocabularies, 5U);
}

Tokenizer tokenizer_of(const GgufMetadata& metadata) {
  auto tokenizer = Tokenizer::from_metadata(metadata, "generated");
  EXPECT_TRUE(tokenizer) << tokenizer.error().message;
  return std::move(tokenizer).value();
}

// Merging as it is defined: the lowest rank anywhere, the leftmost of equals, until nothing merges.
std::vector<std::string> merged_naively(const Vocabulary& vocabulary, std::string_view word) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (std::size_t rank = 0; rank < vocabulary.merge_count(); ++rank)
    ranks.emplace(
        std::pair(std::string(vocabulary.merge(rank).left), std::string(vocabulary.merge(rank).right)), rank);
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    std::size_t best = parts.size(), best_rank = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = ranks.find({parts[i], parts[i + 1]});
      if (rank != ranks.end() && (best == parts.size() || rank->second < best_rank)) {
        best = i;
        best_rank = rank->second;
      }
    }
    if (best == parts.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(BytePairs, MergeAsDefinedWhateverTheLength) {
  std::mt19937 random(1);
  const auto letters = [&](std::size_t count) {
    std::string word;
    while (word.size() < count) word += static_cast<char>('a' + random() % 4);
    return word;
  };
  std::string training;
  for (int i = 0; i < 300; ++i) training += letters(1 + random() % 12) + ' ';
  const Tokenizer tokenizer = tokenizer_of(byte_pair_vocabulary("gpt-2", training, 150));
  for (const std::size_t length : {1, 2, 3, 7, 23, 24, 25, 26, 60, 300}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      const std::string word = letters(length);
      std::vector<TokenId> expected;
      for (const std::string& part : merged_naively(tokenizer.vocabulary(), word))
        expected.push_back(*tokenizer.vocabulary().find(part));
      EXPECT_EQ(tokenizer.encode(word).value(), expected) << word;
    }
  }
}

TEST(Tokenizer, SpecialTokensCountWhenAsked) {
  GgufMetadata metadata =
      byte_pair_vocabulary("gpt-2", "x", 0, {{"<c>", 3}, {"<cc>", 3}, {"<u>", 4}, {"<c><u>", 4}, {"[x]", 2}});
  const Tokenizer tokenizer = tokenizer_of(metadata);
  const TokenId control = 256, user = 258, both = 259, unknown = 260;
  EXPECT_EQ(tokenizer.encode("<c>a<u>", {.parse_special = true}).value(),
            (std::vector<TokenId>{control, 'a', user}));
  EXPECT_EQ(tokenizer.encode("<c><u>b", {.parse_special = true}).value(), (std::vector<TokenId>{both, 'b'}));
  EXPECT_EQ(tokenizer.encode("[x]", {.parse_special = true}).value(), std::vector<TokenId>{unknown});
  EXPECT_EQ(tokenizer.encode("<c>a<u>").value(), (std::vector<TokenId>{'<', 'c', '>', 'a', user}));
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{control, 'a', user}).value(), "<c>a<u>");
  EXPECT_EQ(tokenizer.decode(std::vector<TokenId>{control, 'a', user}, {.special = false}).value(), "a<u>");
  EXPECT_FALSE(tokenizer.decode(std::vector<TokenId>{261}));
}

TEST(Tokenizer, BeginningsAndEndsAreThoseOfTheFile) {
  const Tokenizer llama = tokenizer_of(scored_vocabulary("llama", "a text of words", 30));
  const auto tokens = llama.encode("a", {.add_special = true}).value();
  EXPECT_EQ(tokens.front(), 1U);
  EXPECT_EQ(llama.encode("", {.add_special = true}).value(), std::vector<TokenId>{1});
  EXPECT_EQ(llama.encode("").value(), std::vector<TokenId>{});
  EXPECT_EQ(llama.beginning_token(), TokenId{1});
  EXPECT_EQ(llama.end_token(), std::nullopt);
  // A model that wants a token, but has none: only those who ask for it hear of it.
  GgufMetadata gemma = byte_pair_vocabulary("x", "a b", 0, {}, false);
  gemma.set(GgufKeyValue::of_string("tokenizer.ggml.model", "gemma4"));
  const Tokenizer without = tokenizer_of(gemma);
  EXPECT_TRUE(without.encode("a"));
  EXPECT_EQ(without.encode("a", {.add_special = true}).error().code, ErrorCode::Malformed);
}

TEST(Tokenizer, DecodingGivesTheTextBack) {
  const std::string training = mixed_text(20000, 1), text = mixed_text(5000, 2);
  for (const GgufMetadata& metadata : {byte_pair_vocabulary("llama3", training, 200),
                                       byte_pair_vocabulary("gemma4", training, 200, {}, false),
                                       scored_vocabulary("llama", training, 500)}) {
    const Tokenizer tokenizer = tokenizer_of(metadata);
    const auto tokens = tokenizer.encode(text);
    ASSERT_TRUE(tokens);
    EXPECT_EQ(tokenizer.decode(tokens.value()).value(), text);
  }
}

TEST(Tokenizer, ABrokenByteBecomesAReplacementCharacter) {
  const Tokenizer tokenizer = tokenizer_of(byte_pair_vocabulary("gpt-2", "x", 0));
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"a\xFF", "a\xEF\xBF\xBD"},
           {"\xE2\x96", "\xEF\xBF\xBD\xEF\xBF\xBD"},
           {"\xC1\xBF", "\x7F"},
           {"\xED\xA0\x80", "\xED\xA0\x80"},
           {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text).value()).value(), expected);
}

TEST(SentencePiece, MissingByteTokensAreAnError) {
  GgufMetadata metadata = scored_vocabulary("t5", "ab", 3);
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.model", "llama"));
  const auto result = tokenizer_of(metadata).encode("z");
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, ::testing::HasSubstr("<0xE2>"));
}

TEST(Unigram, FindsTheBestOfAllSegmentations) {
  std::mt19937 random(3);
  std::string training;
  for (int i = 0; i < 200; ++i) training += static_cast<char>('a' + random() % 3);
  const Tokenizer tokenizer = tokenizer_of(scored_vocabulary("t5", training, 40));
  const Vocabulary& vocabulary = tokenizer.vocabulary();
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::string text;
    while (text.size() < 9) text += static_cast<char>('a' + random() % 3);
    double best = -1e300;
    for (unsigned cuts = 0; cuts < 256; ++cuts) {
      double sum = 0;
      std::size_t begin = 0;
      for (std::size_t at = 1; at <= text.size(); ++at) {
        if (at < text.size() && ((cuts >> (at - 1)) & 1) == 0) continue;
        const auto token = vocabulary.find(text.substr(begin, at - begin));
        sum += token ? double{vocabulary.score(*token)} : -1e200;
        begin = at;
      }
      best = std::max(best, sum);
    }
    double found = 0;
    const auto tokens = tokenizer.encode(text);
    ASSERT_TRUE(tokens);
    for (const TokenId token : tokens.value()) found += vocabulary.score(token);
    EXPECT_NEAR(found, best, 1e-9) << text;
  }
}

// Linear, or n log n: a quadratic step anywhere would take minutes here.
TEST(Tokenizer, LongTextsOfOneKindAreDoneInTime) {
  const std::string training = mixed_text(20000, 1);
  std::vector<std::string> texts;
  for (const char* piece :
       {"a", " ", "1", "\n", "A", "\xC3\xA9", "!", "\xFF", "' ", " a", "a1", "\r\n ", "\u0301"}) {
    std::string& text = texts.emplace_back();
    while (text.size() < 200000) text += piece;
    text += "x";
  }
  GgufMetadata characters = byte_pair_vocabulary("gemma4", training, 200, {}, false);
  GgufMetadata bytes = byte_pair_vocabulary("gpt-2", training, 200);
  std::vector<std::pair<std::string, GgufMetadata>> kinds;
  for (const char* pre : {"default", "jais-2", "tiny_aya", "afmoe", "superbpe", "exaone-moe", "gpt-4o",
                          "deepseek-llm", "kimi-k2", "youtu", "chameleon"}) {
    bytes.set(GgufKeyValue::of_string("tokenizer.ggml.pre", pre));
    kinds.emplace_back(pre, bytes);
  }
  kinds.emplace_back("gemma4", characters);
  kinds.emplace_back("llama", scored_vocabulary("llama", training, 500));
  kinds.emplace_back("t5", scored_vocabulary("t5", training, 500));
  for (const auto& [name, metadata] : kinds) {
    const Tokenizer tokenizer = tokenizer_of(metadata);
    for (const std::string& text : texts) EXPECT_TRUE(tokenizer.encode(text)) << name;
  }
}

TEST(Tokenizer, ManyThreadsMayEncodeAtOnce) {
  const Tokenizer tokenizer =
      tokenizer_of(byte_pair_vocabulary("qwen2", mixed_text(20000, 1), 200, {{"<u>", 4}}));
  const std::string text = mixed_text(20000, 5);
  const auto expected = tokenizer.encode(text).value();
  std::vector<std::thread> threads;
  std::array<bool, 4> same{};
  for (bool& one : same) threads.emplace_back([&] { one = tokenizer.encode(text).value() == expected; });
  for (std::thread& thread : threads) thread.join();
  for (const bool one : same) EXPECT_TRUE(one);
}

}  // namespace
}  // namespace quantfit::test

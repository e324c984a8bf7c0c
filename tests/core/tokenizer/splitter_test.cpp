#include "core/tokenizer/splitter.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/tokenizer/utf8.h"
#include "tests/support/generated_vocabulary.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

Splitter splitter_of(std::string_view name, Splitter::Engine engine = Splitter::Engine::Fastest) {
  const PreTokenizer* pre = find_pre_tokenizer(name);
  EXPECT_NE(pre, nullptr) << name;
  auto splitter = Splitter::create(pre->passes, engine);
  EXPECT_TRUE(splitter) << name << ": " << splitter.error().message;
  return std::move(splitter).value();
}

std::vector<std::string> pieces_of(const Splitter& splitter, std::string_view text) {
  const DecodedText decoded(text);
  const auto lengths = splitter.split(decoded.code_points);
  EXPECT_TRUE(lengths);
  std::vector<std::string> pieces;
  std::size_t at = 0;
  for (const std::uint32_t length : lengths.value()) {
    std::string& piece = pieces.emplace_back();
    for (std::uint32_t i = 0; i < length; ++i) append_utf8(piece, decoded.code_points.at(at++));
  }
  EXPECT_EQ(at, decoded.code_points.size());
  return pieces;
}

// Expected pieces of 21 texts for the names of every group that the examples cover.
TEST(Splitter, CutsTheExamplesAsExpected) {
  std::ifstream in(data_dir() / "tokenizer/splitter-examples.json");
  const nlohmann::json examples = nlohmann::json::parse(in);
  const auto texts = examples.at("texts").get<std::vector<std::string>>();
  std::size_t names = 0;
  for (const auto& group : examples.at("splitters")) {
    const auto expected = group.at("pieces").get<std::vector<std::vector<std::string>>>();
    ASSERT_EQ(expected.size(), texts.size());
    for (const auto& name : group.at("names").get<std::vector<std::string>>()) {
      ++names;
      for (const Splitter::Engine engine : {Splitter::Engine::Fastest, Splitter::Engine::Interpreted}) {
        const Splitter splitter = splitter_of(name, engine);
        for (std::size_t i = 0; i < texts.size(); ++i)
          EXPECT_EQ(pieces_of(splitter, texts[i]), expected[i]) << name << ": " << texts[i];
      }
    }
  }
  EXPECT_EQ(names, 84U);
}

TEST(Splitter, MachineCodeAndInterpreterAgree) {
  const DecodedText text(mixed_text(20000, 9));
  for (const PreTokenizer& pre : all_pre_tokenizers()) {
    const auto fast = splitter_of(pre.name).split(text.code_points);
    const auto slow = splitter_of(pre.name, Splitter::Engine::Interpreted).split(text.code_points);
    ASSERT_TRUE(fast && slow) << pre.name;
    EXPECT_EQ(fast.value(), slow.value()) << pre.name;
    EXPECT_EQ(std::accumulate(fast.value().begin(), fast.value().end(), std::size_t{0}),
              text.code_points.size());
    for (const std::uint32_t length : fast.value()) EXPECT_GT(length, 0U);
  }
}

TEST(Splitter, NamesAreKnownOrNot) {
  EXPECT_EQ(all_pre_tokenizers().size(), 87U);
  EXPECT_EQ(find_pre_tokenizer("gpt-5"), nullptr);
  EXPECT_EQ(find_pre_tokenizer(""), find_pre_tokenizer("default"));
}

// Taken from the real client, where descriptions say otherwise.
TEST(Splitter, CutsNumbersAsTheClientDoes) {
  using Pieces = std::vector<std::string>;
  for (const char* name : {"tiny_aya", "afmoe"}) {
    const Splitter splitter = splitter_of(name);
    EXPECT_EQ(pieces_of(splitter, "12345\u00b26"), (Pieces{"1", "234", "5\u00b26"})) << name;
    EXPECT_EQ(pieces_of(splitter, "   12345"), (Pieces{"  ", " ", "12", "345"})) << name;
    EXPECT_EQ(pieces_of(splitter, "\n \n1"), (Pieces{"\n \n", "1"})) << name;
    EXPECT_EQ(pieces_of(splitter, "a\t\t1"), (Pieces{"a", "\t", "\t", "1"})) << name;
  }
  EXPECT_EQ(pieces_of(splitter_of("afmoe"), "   \u17e1"), (Pieces{"   ", "\u17e1"}));
  EXPECT_EQ(pieces_of(splitter_of("tiny_aya"), "   \u17e1"), (Pieces{"  ", " ", "\u17e1"}));
  const Splitter superbpe = splitter_of("superbpe");
  EXPECT_EQ(pieces_of(superbpe, "8627\u0663\u00b2"), (Pieces{"8", "627\u0663\u00b2"}));
  EXPECT_EQ(pieces_of(superbpe, "\u0663\u00b21234"), (Pieces{"\u0663\u00b21", "234"}));
}

}  // namespace
}  // namespace quantfit::test

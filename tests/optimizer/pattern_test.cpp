#include "optimizer/pattern.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <regex>

namespace quantfit::optimizer {
namespace {

bool found(std::string_view pattern, std::string_view text) {
  const auto compiled = Pattern::compile(pattern);
  EXPECT_TRUE(compiled) << compiled.error().message;
  return compiled && compiled.value().found_in(text);
}

TEST(Pattern, SearchesLikeLlamaCppTools) {
  EXPECT_TRUE(found("ffn_down", "blk.3.ffn_down.weight"));
  EXPECT_FALSE(found("^ffn_down", "blk.3.ffn_down.weight"));
  EXPECT_TRUE(found(R"(^blk\.3\.ffn_down\.weight$)", "blk.3.ffn_down.weight"));
  EXPECT_FALSE(found(R"(^blk\.3\.ffn_down\.weight$)", "blk.13.ffn_down.weight"));
  EXPECT_TRUE(found(R"(blk\.(?:[0-9]|1[0-9])\.ffn_.*_exps\.)", "blk.17.ffn_up_exps.weight"));
  EXPECT_FALSE(found(R"(blk\.(?:[0-9]|1[0-9])\.ffn_.*_exps\.)", "blk.27.ffn_up_exps.weight"));
  EXPECT_TRUE(found(R"(blk\.\d{2,}\.)", "blk.10.attn_q.weight"));
  EXPECT_FALSE(found(R"(blk\.\d{2,}\.)", "blk.9.attn_q.weight"));
  EXPECT_TRUE(found(R"(blk\.(?!0\.)\d+\.attn_q)", "blk.10.attn_q.weight"));
  EXPECT_FALSE(found(R"(blk\.(?!0\.)\d+\.attn_q)", "blk.0.attn_q.weight"));
  EXPECT_TRUE(found(R"(attn_(?=k|v)\w\.)", "blk.0.attn_v.weight"));
  EXPECT_FALSE(found(R"(attn_(?=k|v)\w\.)", "blk.0.attn_q.weight"));
  EXPECT_TRUE(found(R"(\battn)", "blk.0.attn_q"));
  EXPECT_FALSE(found(R"(\bttn)", "blk.0.attn_q"));
  EXPECT_TRUE(found("[[:alpha:]]+_exps?", "ffn_exp"));
  EXPECT_TRUE(found("", "anything"));
  EXPECT_TRUE(found("a{0}", ""));
  EXPECT_TRUE(found("^(?:a|)$", ""));
}

TEST(Pattern, RefusesWhatIsNoPattern) {
  for (const char* text : {"(",       ")",     "a)",  "[",      "[a",
                           "[]",      "*a",    "a**", "a{2",    "a{3,2}",
                           "{1}",     "\\",    "\\q", "[z-a]",  "[[:nothing:]]",
                           "(?<a>b)", "\\xg0", "^*",  "(?=a)+", "\\u20ac",
                           "[a-\\d]"}) {
    const auto pattern = Pattern::compile(text);
    ASSERT_FALSE(pattern) << text;
    EXPECT_EQ(pattern.error().code, ErrorCode::InvalidArgument) << text;
    EXPECT_NE(pattern.error().message.find(text), std::string::npos) << pattern.error().message;
  }
  const auto reference = Pattern::compile(R"((a)\1)");
  ASSERT_FALSE(reference);
  EXPECT_EQ(reference.error().code, ErrorCode::Unsupported);
}

TEST(Pattern, EndsSoonWhateverThePattern) {
  const auto start = std::chrono::steady_clock::now();
  const std::string text = std::string(2000, 'a') + "!";
  EXPECT_FALSE(found("^(a+)+$", text));
  EXPECT_FALSE(found("^(a|aa)+$", text));
  EXPECT_FALSE(found("(x+x+)+y", text));
  EXPECT_FALSE(found("^(?:(?=(?:a*)*b)a)*$", text));
  EXPECT_TRUE(found("((a*)*)*", text));
  EXPECT_FALSE(Pattern::compile(std::string(100000, '(')));
  EXPECT_FALSE(Pattern::compile("((((a{100}){100}){100}){100}){100}"));
  EXPECT_FALSE(Pattern::compile("a{99999999999999999999}"));
  EXPECT_TRUE(Pattern::compile("((((){20000}){20000}){20000}){20000}"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(Pattern, AgreesWithTheStandardLibraryOnRandomPatterns) {
  std::mt19937 random(1);
  const std::vector<std::string> parts = {"a", "b", ".",     "a|b",    "[ab]", "[^a]",
                                          "^", "$", "(a|b)", "(?:ab)", "\\.",  "c"};
  const std::vector<std::string> repeats = {"", "", "", "*", "+", "?", "{2}", "{1,2}", "*?"};
  const auto pick = [&](const auto& list) { return list[random() % list.size()]; };
  int matches = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string pattern;
    for (std::size_t n = 1 + random() % 4; n > 0; --n) {
      const std::string part = pick(parts);
      pattern += part;
      if (part != "^" && part != "$" && part != "a|b") pattern += pick(repeats);
    }
    if (random() % 3 == 0) pattern = "(?:" + pattern + ")+" + pick(parts);
    std::string text;
    for (std::size_t n = random() % 6; n > 0; --n) text += "ab.c"[random() % 4];
    const bool expected = std::regex_search(text, std::regex(pattern));
    matches += expected ? 1 : 0;
    EXPECT_EQ(found(pattern, text), expected) << pattern << " in '" << text << "'";
  }
  EXPECT_GT(matches, 500);
  EXPECT_LT(matches, 4500);
}

TEST(Pattern, EscapedTextMatchesItselfAlone) {
  const std::string name = "blk.0.a+b(c)[d]{e}|f^g$h\\i*?.weight";
  EXPECT_TRUE(found("^" + escape_pattern(name) + "$", name));
  EXPECT_FALSE(found("^" + escape_pattern("a.b") + "$", "axb"));
  EXPECT_FALSE(found("^ab$", "ab "));
  EXPECT_TRUE(found("^$", ""));
  EXPECT_FALSE(found("^$", "a"));
  EXPECT_TRUE(found("^a(?:b)[c]$", "abc"));
  EXPECT_TRUE(found("^a{3}$", "aaa"));
  EXPECT_TRUE(found("^a|b$", "xb"));
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/llama_cpp/pattern.h"

#include <gtest/gtest.h>

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
  EXPECT_TRUE(found(R"(\battn)", "blk.0.attn_q"));
  EXPECT_TRUE(found("[[:alpha:]]+_exps?", "ffn_exp"));
}

TEST(Pattern, RefusesWhatIsNoPattern) {
  for (const char* text : {"(", ")", "[", "[a", "*a", "[z-a]", "[[:nothing:]]", "\\"}) {
    const auto pattern = Pattern::compile(text);
    ASSERT_FALSE(pattern) << text;
    EXPECT_EQ(pattern.error().code, ErrorCode::InvalidArgument) << text;
    EXPECT_NE(pattern.error().message.find(text), std::string::npos) << pattern.error().message;
  }
  EXPECT_FALSE(Pattern::compile(std::string(Pattern::kMaxPatternBytes + 1, 'a')));
}

TEST(Pattern, SurvivesPatternsMadeToExplode) {
  // Tensor names have at most 63 bytes.
  const std::string text = std::string(62, 'a') + "!";
  EXPECT_FALSE(found("^(a+)+$", text));
  EXPECT_FALSE(found("^(a|aa)+$", text));
  EXPECT_FALSE(found("(x+x+)+y", text));
  EXPECT_FALSE(Pattern::compile(std::string(100000, '(')));
}

TEST(Pattern, EscapedTextMatchesItselfAlone) {
  const std::string name = "blk.0.a+b(c)[d]{e}|f^g$h\\i*?.weight";
  EXPECT_TRUE(found("^" + escape_pattern(name) + "$", name));
  EXPECT_FALSE(found("^" + escape_pattern("a.b") + "$", "axb"));
}

}  // namespace
}  // namespace quantfit::optimizer

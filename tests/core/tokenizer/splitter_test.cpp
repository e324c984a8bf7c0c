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

}  // namespace
}  // namespace quantfit::test

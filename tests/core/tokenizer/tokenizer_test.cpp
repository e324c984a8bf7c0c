#include "core/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <sstream>

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
    const std::filesystem::path path = entry.path();
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

}  // namespace
}  // namespace quantfit::test

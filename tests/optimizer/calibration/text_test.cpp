#include "optimizer/calibration/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/atomic_file.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/optimizer/calibration/trained_text.h"

namespace quantfit::test {
namespace {

using calibration::read_text;
using calibration::TextRequest;
using ::testing::HasSubstr;

std::filesystem::path write_text(const TemporaryFolder& folder, const std::string& name,
                                 std::string_view text) {
  std::filesystem::path path = folder / name;
  EXPECT_TRUE(write_file_atomically(path, text));
  return path;
}

TEST(CalibrationText, SeveralTextsAreTokenizedOneByOne) {
  const TemporaryFolder folder;
  const std::string first(400, 'a'), second = "And then there was light. ";
  std::string long_second;
  for (int i = 0; i < 40; ++i) long_second += second;
  TextRequest request;
  request.texts = {write_text(folder, "a.txt", first), write_text(folder, "b.txt", long_second)};
  request.context = 8;
  const auto text = read_text(trained_model(), request);
  ASSERT_TRUE(text) << text.error().message;
  const auto tokenizer = Tokenizer::from_metadata(trained_model().metadata(), "model").value();
  auto expected = tokenizer.encode(first).value();
  const auto more = tokenizer.encode(long_second).value();
  expected.insert(expected.end(), more.begin(), more.end());
  const auto inputs = text.value().inputs();
  ASSERT_EQ(inputs.tokens.size(), expected.size() / 8 * 8);
  for (std::size_t i = 0; i < inputs.tokens.size(); ++i)
    ASSERT_EQ(static_cast<TokenId>(inputs.tokens[i]), expected[i]) << i;
  EXPECT_THAT(text.value().names, ::testing::ElementsAre("a.txt", "b.txt"));
}

TEST(CalibrationText, TokenIdsAreTheSameTextAsTheirTokens) {
  const TemporaryFolder folder;
  const auto text = trained_text(4);
  std::string ids;
  for (const std::int32_t token : text.inputs().tokens) ids += std::to_string(token) + " ";
  TextRequest request;
  request.token_ids = write_text(folder, "ids.txt", ids);
  request.context = 64;
  const auto from_ids = read_text(trained_model(), request);
  ASSERT_TRUE(from_ids) << from_ids.error().message;
  EXPECT_EQ(from_ids.value().fingerprint, text.fingerprint);
  EXPECT_EQ(from_ids.value().inputs().tokens, text.inputs().tokens);
}

TEST(CalibrationText, OtherWindowsHaveOtherFingerprints) {
  EXPECT_EQ(trained_text(4).fingerprint, trained_text(4).fingerprint);
  EXPECT_NE(trained_text(4).fingerprint, trained_text(5).fingerprint);
  EXPECT_NE(trained_text(4).fingerprint, trained_text(4, 64, 1).fingerprint);
  EXPECT_NE(trained_text(4, 64).fingerprint, trained_text(8, 32).fingerprint);
}

TEST(CalibrationText, WithoutATextTheOneThatShipsIsUsed) {
  const auto text = read_text(trained_model(), {});
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_GT(text.value().tokens(), 80'000U);
}

TEST(CalibrationText, WhatCannotBeUsedIsRefusedByName) {
  const TemporaryFolder folder;
  TextRequest request;
  request.texts = {write_text(folder, "empty.txt", "")};
  auto refused = read_text(trained_model(), request);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("empty.txt: an empty text"));

  request.texts = {write_text(folder, "short.txt", "Only a few words.")};
  refused = read_text(trained_model(), request);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("short.txt"));
  EXPECT_THAT(refused.error().message, HasSubstr("at least two windows of 512"));

  request.texts.clear();
  request.token_ids = write_text(folder, "ids.txt", "1 2 5000");
  refused = read_text(trained_model(), request);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("ids.txt"));

  request.texts = {folder / "short.txt"};
  refused = read_text(trained_model(), request);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
}

}  // namespace
}  // namespace quantfit::test

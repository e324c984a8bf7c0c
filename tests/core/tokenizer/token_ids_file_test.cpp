#include "core/tokenizer/token_ids_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

TEST(TokenIdsFile, ReadsNumbersBetweenWhiteSpace) {
  EXPECT_EQ(parse_token_ids("1 2\n\t3\r\n 09 ", 10, "x").value(), (std::vector<TokenId>{1, 2, 3, 9}));
  const TemporaryFolder folder;
  std::ofstream(folder / "ids.txt") << "0 1 2";
  EXPECT_EQ(read_token_ids(folder / "ids.txt", 3).value(), (std::vector<TokenId>{0, 1, 2}));
  EXPECT_EQ(read_token_ids(folder / "none.txt", 3).error().code, ErrorCode::Io);
}

TEST(TokenIdsFile, SaysWhereItIsWrong) {
  const auto message = [](std::string_view text) {
    const auto result = parse_token_ids(text, 10, "ids.txt");
    EXPECT_FALSE(result) << text;
    if (result) return std::string();
    EXPECT_EQ(result.error().code, ErrorCode::Malformed);
    return result.error().message;
  };
  EXPECT_THAT(message("1 2\n3 10"), ::testing::HasSubstr("ids.txt: line 2, column 3: token 10 "));
  EXPECT_THAT(message("1 x2"), ::testing::HasSubstr("line 1, column 3: 'x2'"));
  EXPECT_THAT(message("1,2"), ::testing::HasSubstr("'1,2'"));
  EXPECT_THAT(message("-1"), ::testing::HasSubstr("'-1'"));
  EXPECT_THAT(message("1.0"), ::testing::HasSubstr("'1.0'"));
  EXPECT_THAT(message("99999999999999999999999"), ::testing::HasSubstr("not in the vocabulary of 10"));
  EXPECT_THAT(message(" \n"), ::testing::HasSubstr("no token ids"));
}

}  // namespace
}  // namespace quantfit::test

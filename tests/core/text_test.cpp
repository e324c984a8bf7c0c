#include "core/text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace quantfit {
namespace {

TEST(Text, AcceptsExactlyWellFormedUtf8) {
  for (const char* good : {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a\xC3\xA9z"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
    EXPECT_EQ(to_utf8(good), good);
  }
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xE9z"}) {
    EXPECT_FALSE(is_utf8(bad)) << bad;
    EXPECT_TRUE(is_utf8(to_utf8(bad))) << bad;
  }
  EXPECT_FALSE(is_utf8({"a\0b", 3}));
  EXPECT_EQ(to_utf8({"a\0b", 3}),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(to_utf8("a\xE9\xC3\xA9"), "a\xEF\xBF\xBD\xC3\xA9");
}

TEST(Text, CutsBetweenSequences) {
  const std::string_view text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80";  // 1, 2, 3 and 4 bytes
  const std::size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
  for (std::size_t bytes = 0; bytes < std::size(expected); ++bytes)
    EXPECT_EQ(cut_utf8(text, bytes).size(), expected[bytes]) << bytes;
  EXPECT_EQ(cut_utf8("\xFF\xFF\xFF", 2), "\xFF\xFF");  // what is no UTF-8 anyway is not torn
}

TEST(Text, NothingThatATerminalObeysIsLeft) {
  EXPECT_EQ(escaped("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
  EXPECT_EQ(escaped("caf\xC3\xA9 \\d"), "caf\xC3\xA9 \\d");
  EXPECT_EQ(escaped("\x1b[2J\x07"), "\\x1b[2J\\x07");
  EXPECT_EQ(escaped("a\nb\rc\td"), "a\\nb\\rc\\td");
  EXPECT_EQ(escaped({"a\0b\x7f", 4}), "a\\x00b\\x7f");
  EXPECT_EQ(escaped("\xC2\x9B"
                    "2J"),
            "\\u{009b}2J");  // the one-character form of ESC [
  EXPECT_EQ(escaped("a\xE2\x80\xAE"
                    "b"),
            "a\\u{202e}b");                              // right-to-left override
  EXPECT_EQ(escaped("\xE2\x80\xA8"), "\\u{2028}");       // a line separator
  EXPECT_EQ(escaped("\xF3\xA0\x81\x81"), "\\u{e0041}");  // a tag
  EXPECT_EQ(escaped("a\xFFz\xE2\x82"), "a\\xffz\\xe2\\x82");
  EXPECT_EQ(escaped("\xE2\x80\x8D"), "\xE2\x80\x8D");  // a joiner does no harm
}

TEST(Text, NamesInMessagesAreQuotedAndShort) {
  EXPECT_EQ(printable("name"), "'name'");
  EXPECT_EQ(printable("\x1b"), "'\\x1b'");
  EXPECT_EQ(printable(std::string(100, 'x')), "'" + std::string(100, 'x') + "'");
  EXPECT_EQ(printable(std::string(101, 'x')), "'" + std::string(100, 'x') + "...'");
  EXPECT_EQ(printable(std::string(99, 'x') + "\xC3\xA9"), "'" + std::string(99, 'x') + "...'");
}

TEST(Text, NothingInATextIsTakenForMarkup) {
  EXPECT_EQ(markup_escaped("<b>Q & A</b>"), "&lt;b&gt;Q &amp; A&lt;/b&gt;");
  EXPECT_EQ(markup_escaped("a\x1b[2Jb\n"), "a\\x1b[2Jb\\n");
}

TEST(Text, CsvFields) {
  EXPECT_EQ(csv_field("plain name"), "plain name");
  EXPECT_EQ(csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(csv_field("say \"hi\""), "\"say \"\"hi\"\"\"");
  EXPECT_EQ(csv_field(" a"), "\" a\"");
  EXPECT_EQ(csv_field("a\nb,\x1b"), "\"a\\nb,\\x1b\"");  // a record stays one line
  EXPECT_EQ(csv_field(""), "");
}

TEST(Text, JsonMeansTheSameAndObeysNothing) {
  const nlohmann::json document = {{"name", "\x7f \xC2\x9B \xE2\x80\xAE \xF3\xA0\x81\x81 \x1b \xC3\xA9 \n"},
                                   {"list", {1, 2}}};
  const std::string shown = printable_json(document.dump(2));
  EXPECT_EQ(nlohmann::json::parse(shown), document);
  for (const char* bad : {"\x7f", "\xC2\x9B", "\xE2\x80\xAE", "\xF3\xA0\x81\x81", "\x1b"})
    EXPECT_EQ(shown.find(bad), std::string::npos) << escaped(bad);
  EXPECT_NE(shown.find("\xC3\xA9"), std::string::npos);
  EXPECT_NE(shown.find('\n'), std::string::npos);  // the layout stays
}

TEST(Text, CaseOfAsciiLetters) {
  EXPECT_TRUE(equal_ignoring_case("Q4_k", "q4_K"));
  EXPECT_FALSE(equal_ignoring_case("q4", "q4_k"));
  EXPECT_FALSE(equal_ignoring_case("\xC3\xA9", "\xC3\x89"));
  EXPECT_EQ(to_lower("IQ2_XXS \xC3\x89"), "iq2_xxs \xC3\x89");
}

}  // namespace
}  // namespace quantfit

#include "state/text.h"

#include <gtest/gtest.h>

namespace quantfit::state {
namespace {

TEST(Text, AcceptsExactlyWellFormedUtf8) {
  for (const char* good : {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "a\xC3\xA9z"}) {
    EXPECT_TRUE(is_storable_text(good)) << good;
    EXPECT_EQ(to_storable_text(good), good);
  }
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC3", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xE9z"}) {
    EXPECT_FALSE(is_storable_text(bad)) << bad;
    EXPECT_TRUE(is_storable_text(to_storable_text(bad))) << bad;
  }
  EXPECT_FALSE(is_storable_text({"a\0b", 3}));
  EXPECT_EQ(to_storable_text({"a\0b", 3}),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(to_storable_text("a\xE9\xC3\xA9"), "a\xEF\xBF\xBD\xC3\xA9");
}

}  // namespace
}  // namespace quantfit::state

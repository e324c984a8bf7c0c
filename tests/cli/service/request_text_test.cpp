#include "cli/service/request_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quantfit::service {
namespace {

using testing::ElementsAre;
using testing::Pair;

TEST(RequestTarget, IsDecodedOnce) {
  const auto target = parse_target("/api/v1/a%20b/c%2541?x=1&y=a+b%2B&z");
  ASSERT_TRUE(target);
  EXPECT_THAT(target.value().segments, ElementsAre("api", "v1", "a b", "c%41"));
  EXPECT_THAT(target.value().query, ElementsAre(Pair("x", "1"), Pair("y", "a b+"), Pair("z", "")));
  ASSERT_TRUE(parse_target("/"));
  EXPECT_TRUE(parse_target("/").value().segments.empty());
}

TEST(RequestTarget, RefusesWhatIsNoPlainPath) {
  for (const char* target :
       {"",      "a",         "*",      "http://x/", "//",      "/a//b", "/a/",    "/./a",
        "/a/..", "/%2e%2e/a", "/a%2fb", "/a%5cb",    "/a\\b",   "/%00",  "/%0a",   "/%7f",
        "/%",    "/%4",       "/%4g",   "/%ff",      "/%c0%ae", "/?%00", "/?x=%ff"})
    EXPECT_FALSE(parse_target(target)) << target;
}

TEST(ByteRange, IsOneRangeInsideTheFile) {
  const auto range = [](std::string_view field) {
    const auto parsed = parse_range(field, 1000);
    return parsed && parsed.value() ? std::pair(parsed.value()->first, parsed.value()->last)
                                    : std::pair(std::uint64_t{0}, std::uint64_t{0});
  };
  EXPECT_EQ(range("bytes=0-499"), std::pair(std::uint64_t{0}, std::uint64_t{499}));
  EXPECT_EQ(range("bytes=500-"), std::pair(std::uint64_t{500}, std::uint64_t{999}));
  EXPECT_EQ(range("bytes=-1"), std::pair(std::uint64_t{999}, std::uint64_t{999}));
  EXPECT_EQ(range("Bytes = 10-99999"), std::pair(std::uint64_t{10}, std::uint64_t{999}));
  EXPECT_EQ(range("bytes=-99999"), std::pair(std::uint64_t{0}, std::uint64_t{999}));
}

TEST(ByteRange, IsIgnoredWhereItIsNone) {
  for (const char* field : {"", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-2,3-4", "lines=1-2",
                            "bytes=9-1", "bytes=+1-2", "bytes=99999999999999999999-"}) {
    const auto parsed = parse_range(field, 1000);
    ASSERT_TRUE(parsed) << field;
    EXPECT_FALSE(parsed.value()) << field;
  }
}

TEST(ByteRange, OutsideTheFileIsAnError) {
  EXPECT_FALSE(parse_range("bytes=1000-", 1000));
  EXPECT_FALSE(parse_range("bytes=-0", 1000));
  EXPECT_FALSE(parse_range("bytes=-1", 0));
  EXPECT_EQ(parse_range("bytes=1000-", 1000).error().kind, ProblemKind::RangeNotSatisfiable);
}

TEST(Host, IsANameOrAnAddress) {
  EXPECT_EQ(parse_host("LocalHost:80")->host, "localhost");
  EXPECT_EQ(parse_host("LocalHost:80")->port, 80);
  EXPECT_TRUE(parse_host("127.0.0.1")->is_address());
  EXPECT_TRUE(parse_host("[::1]:7340")->is_address());
  EXPECT_FALSE(parse_host("127.0.0.1.example")->is_address());
  for (const char* field :
       {"", ":80", "a b", "a:b", "a:99999", "[::1", "[x]", "[::1]x", "a/b", "user@a", "a:", "::1"})
    EXPECT_FALSE(parse_host(field)) << field;
}

TEST(Origin, HasAPort) {
  EXPECT_EQ(parse_origin("http://a")->port, 80);
  EXPECT_EQ(parse_origin("https://a")->port, 443);
  EXPECT_EQ(parse_origin("http://a:8080")->port, 8080);
  for (const char* field : {"null", "", "a", "ftp://a", "http://a/", "http://"})
    EXPECT_FALSE(parse_origin(field)) << field;
}

TEST(Fields, AreReadAsTheyAreDefined) {
  EXPECT_EQ(bearer_token("Bearer abc"), "abc");
  EXPECT_EQ(bearer_token("bearer  abc "), "abc");
  EXPECT_EQ(bearer_token("Basic abc"), "");
  EXPECT_EQ(bearer_token("Bearer "), "");
  EXPECT_EQ(cookie_value("a=1; quantfit=x=y; b", "quantfit"), "x=y");
  EXPECT_EQ(cookie_value("aquantfit=1", "quantfit"), "");
  EXPECT_TRUE(matches_tag("\"a\", W/\"b\"", "\"b\""));
  EXPECT_TRUE(matches_tag("*", "\"b\""));
  EXPECT_FALSE(matches_tag("\"a\"", "\"b\""));
  EXPECT_TRUE(is_json("Application/JSON; charset=utf-8"));
  EXPECT_FALSE(is_json("text/plain"));
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  EXPECT_FALSE(equal_in_constant_time("abc", "abd"));
  EXPECT_FALSE(equal_in_constant_time("abc", "ab"));
}

}  // namespace
}  // namespace quantfit::service

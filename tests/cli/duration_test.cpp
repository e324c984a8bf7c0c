#include "cli/duration.h"

#include <gtest/gtest.h>

namespace quantfit::cli {
namespace {

TEST(Duration, AsPeopleWriteThem) {
  EXPECT_EQ(parse_duration("90s").value(), 90);
  EXPECT_EQ(parse_duration("45m").value(), 2700);
  EXPECT_EQ(parse_duration("1h30m").value(), 5400);
  EXPECT_EQ(parse_duration("1.5h").value(), 5400);
  EXPECT_EQ(parse_duration("1d").value(), 86400);
  for (const char* wrong :
       {"", "0s", "10", "h", "1x", "-1h", "1h-5m", "1 h", "nan s", "99999999999d", "1e3s"})
    EXPECT_FALSE(parse_duration(wrong)) << wrong;
}

}  // namespace
}  // namespace quantfit::cli

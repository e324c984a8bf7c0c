#include "optimizer/tuning/level.h"

#include <gtest/gtest.h>

namespace quantfit::tuning {
namespace {

TEST(Level, NamesAreReadBack) {
  for (const Level level : {Level::None, Level::Norms, Level::Scales, Level::Codes})
    EXPECT_EQ(parse_level(to_string(level)), level);
  EXPECT_EQ(parse_level("auto"), std::nullopt);
}

}  // namespace
}  // namespace quantfit::tuning

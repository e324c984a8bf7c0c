#include "optimizer/tuning/attempt.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quantfit::test {
namespace {

using namespace tuning;

TEST(TuningAttempt, WindowsAreCompared) {
  const Gain gain = gain_of({1, 2, 3}, {0.5, 1.25, 2.75});
  EXPECT_DOUBLE_EQ(gain.before, 2);
  EXPECT_DOUBLE_EQ(gain.after, 1.5);
  EXPECT_DOUBLE_EQ(gain.difference, -0.5);
  EXPECT_DOUBLE_EQ(gain.difference_error, std::sqrt(0.125 / 6));
  EXPECT_DOUBLE_EQ(gain.ratio(), 0.75);
  EXPECT_TRUE(gain.decided());
  EXPECT_FALSE(gain_of({1, 2}, {0, 2.5}).decided());
  EXPECT_FALSE(gain_of({1, 2}, {1, 2}).decided());
}

}  // namespace
}  // namespace quantfit::test

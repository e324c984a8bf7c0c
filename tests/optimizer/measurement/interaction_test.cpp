#include "optimizer/measurement/interaction.h"

#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

TEST(Interaction, SmallErrorsStayAndLargerOnesRiseFaster) {
  EXPECT_EQ(interacting(0), 0);
  EXPECT_NEAR(interacting(1e-4) / 1e-4, 1, 2 * kInteraction * 1e-4);
  EXPECT_GT(interacting(0.1), 0.1 * (1 + kInteraction * 0.1) * 0.9);
  EXPECT_DOUBLE_EQ(interacting(1), 1);
  EXPECT_DOUBLE_EQ(interacting(3), 3);
  double last = -1;
  for (double n = 0; n < 2; n += 1e-3) {
    const double value = interacting(n);
    EXPECT_GT(value, last);
    EXPECT_GE(value, n);
    last = value;
  }
}

}  // namespace
}  // namespace quantfit::optimizer

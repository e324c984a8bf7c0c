// What sums of errors foresee where experts are chosen.
#include "optimizer/planning/foresight.h"

#include <gtest/gtest.h>

#include <cmath>

#include "optimizer/planning/measured_sensitivity.h"

namespace quantfit::optimizer {
namespace {

TEST(Foresight, SumsAreTakenAsTheyAreWithoutExperts) {
  EXPECT_EQ(Foresight{}(0.25), 0.25);
  EXPECT_EQ(Foresight{}(0), 0);
}

TEST(Foresight, SmallErrorsCostMoreThanTheirSquareAndLargeOnesAsTheWeightsSay) {
  const double share = 0.15, cost = 0.016;
  const Foresight foresight{cost, share};
  EXPECT_EQ(foresight(0), 0);
  EXPECT_EQ(foresight(-1e-20), 0) << "rounding";
  double last = 0;
  for (double sum = 1e-6; sum < 1; sum *= 1.5) {
    EXPECT_GT(foresight(sum), last);
    last = foresight(sum);
  }
  EXPECT_GT(foresight(1e-4) / 1e-4, 2);
  EXPECT_NEAR(foresight(1.0), 1 / (1 + share), 0.02);
  // The slope where the weights were measured is theirs: there the two parts of the cost rise alike.
  const double there = std::pow(cost / (2 * share), 2) * (1 + share);
  EXPECT_NEAR((foresight(there * 1.001) - foresight(there * 0.999)) / (0.002 * there), 1, 1e-6);
}

TEST(Foresight, IsReadFromASet) {
  state::SensitivitySet set;
  set.rows = {{"blk.0.attn_q.weight", 1, 0, "", ""}};
  EXPECT_EQ(foresight_of(set).choice_cost, 0);
  set.rows.push_back({std::string(kOtherChoices), 0.02, 0, "", ""});
  set.rows.push_back({std::string(kChoicesInWeights), 0.1, 0, "", ""});
  EXPECT_EQ(foresight_of(set).choice_cost, 0.02);
  EXPECT_EQ(foresight_of(set).choice_share, 0.1);
}

}  // namespace
}  // namespace quantfit::optimizer

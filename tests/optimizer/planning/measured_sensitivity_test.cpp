#include "optimizer/planning/measured_sensitivity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace quantfit::optimizer {
namespace {

using state::SensitivitySet;
using state::SensitivityUnit;

// Three tensors, the last without a choice of formats.
struct Case {
  std::vector<TensorInfo> tensors{3};
  std::vector<TensorCandidates> candidates{3};
  std::vector<TensorSensitivity> priors = {{1, "prior"}, {57, "prior"}, {9, "prior"}};

  Case() {
    const std::vector<std::string> names = {"blk.0.ffn_up.weight", "output.weight", "norm.weight"};
    for (std::size_t i = 0; i < names.size(); ++i) {
      tensors[i].name = names[i];
      candidates[i].tensor = &tensors[i];
      candidates[i].formats = {Format::F32};
      if (i < 2) candidates[i].formats = {Format::Q4_K, Format::Q8_0};
    }
  }

  [[nodiscard]] ChosenSensitivities choose(const std::vector<SensitivitySet>& sets,
                                           bool role_weights = false) const {
    return choose_sensitivities(priors, role_weights, sets, candidates, "bb22", "kappa=5");
  }
};

SensitivitySet whole_set() {
  SensitivitySet set;
  set.scope.unit = SensitivityUnit::Nats;
  set.scope.importance_fingerprint = "bb22";
  set.scope.metric = "kappa=5";
  set.rows = {{"blk.0.ffn_up.weight", 0.02, 0, "measured", ""}, {"output.weight", 1.5, 0, "measured", ""}};
  return set;
}

TEST(MeasuredSensitivity, AWholeSetReplacesThePrior) {
  const Case chosen;
  const auto sensitivities = chosen.choose({whole_set()});
  ASSERT_EQ(sensitivities.values.size(), 3U);
  EXPECT_EQ(sensitivities.unit, SensitivityUnit::Nats);
  EXPECT_EQ(sensitivities.values[0].value, 0.02);
  EXPECT_EQ(sensitivities.values[1].value, 1.5);
  EXPECT_EQ(sensitivities.values[1].obtained, "measured");
  EXPECT_EQ(sensitivities.values[2].value, 0);
  EXPECT_TRUE(sensitivities.notes.empty());
}

// One stored row of 0.02 nats beside priors relative to 1 would starve its tensor.
TEST(MeasuredSensitivity, ASetThatIsNotWholeOrNotOfTheseErrorsIsNeverMixedIn) {
  const Case chosen;
  std::vector<SensitivitySet> sets(4, whole_set());
  sets[0].rows.pop_back();
  sets[1].partial = true;
  sets[2].scope.importance_fingerprint = "other";
  sets[3].scope.metric = "kappa=1";
  for (const SensitivitySet& set : sets) {
    const auto sensitivities = chosen.choose({set});
    EXPECT_EQ(sensitivities.unit, SensitivityUnit::Relative);
    EXPECT_EQ(sensitivities.values[0].value, 1);
    EXPECT_EQ(sensitivities.values[1].value, 57);
    EXPECT_EQ(sensitivities.notes.size(), 1U);
  }
  EXPECT_THAT(chosen.choose({sets[0]}).notes[0], testing::HasSubstr("'output.weight'"));
}

TEST(MeasuredSensitivity, WeightsOfRolesSpeakThePriorsLanguage) {
  const Case chosen;
  const auto sensitivities = chosen.choose({whole_set()}, true);
  EXPECT_EQ(sensitivities.unit, SensitivityUnit::Relative);
  EXPECT_EQ(sensitivities.values[0].value, 1);
}

TEST(MeasuredSensitivity, OfSeveralSetsTheOneOfMoreTokensIsTaken) {
  const Case chosen;
  std::vector<SensitivitySet> sets(3, whole_set());
  sets[0].scope.unit = SensitivityUnit::Relative;
  sets[0].scope.tokens = 1'000'000;
  sets[1].scope.tokens = 1000;
  sets[2].scope.tokens = 2000;
  sets[2].rows[0].value = 0.03;
  EXPECT_EQ(chosen.choose(sets).values[0].value, 0.03);
  std::reverse(sets.begin(), sets.end());
  EXPECT_EQ(chosen.choose(sets).values[0].value, 0.03);
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/job/yardstick.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "optimizer/planning/recipe_cost.h"
#include "tests/optimizer/job/job_fixture.h"

namespace quantfit::optimizer {
namespace {

using testing::HasSubstr;

StaticComparisons compare(test::Job& job) {
  const PreparedJob prepared = job.prepare({BpwTarget{"5"}});
  return compare_static_recipes(*job.inputs, prepared, job.request, job.control).value();
}

const StaticComparison* find(const StaticComparisons& comparisons, std::string_view name) {
  const auto found = std::ranges::find(comparisons.compared, name, &StaticComparison::name);
  return found == comparisons.compared.end() ? nullptr : &*found;
}

std::string why_without(const StaticComparisons& comparisons, std::string_view name) {
  const auto found = std::ranges::find(comparisons.without, name, &StaticWithout::name);
  return found == comparisons.without.end() ? "" : found->why;
}

TEST(Yardstick, NoMixtureBeatsTheSearchAtItsSize) {
  test::Job job;
  const StaticComparisons answer = compare(job);
  EXPECT_GE(answer.compared.size(), 20U);
  std::uint64_t previous = 0;
  for (const StaticComparison& recipe : answer.compared) {
    EXPECT_GE(recipe.tensor_bytes, previous);
    previous = recipe.tensor_bytes;
    ASSERT_TRUE(recipe.optimized_error) << recipe.name;
    EXPECT_LE(*recipe.optimized_error, recipe.predicted_error * (1 + 1e-12)) << recipe.name;
  }
}

TEST(Yardstick, MixturesForExpertsStandBesideExpertModelsOnly) {
  test::Job dense;
  const StaticComparisons answer = compare(dense);
  EXPECT_EQ(find(answer, "MXFP4_MOE"), nullptr);
  EXPECT_THAT(why_without(answer, "MXFP4_MOE"), HasSubstr("experts"));
}

// A tensor whose smallest formats are vetoed as ruinous still has them when the size demands it.
TEST(Yardstick, SmallMixturesAreComparedThoughSomeOfTheirFormatsRuin) {
  test::Job job;
  job.request.max_nmse = 0.01;
  const StaticComparisons answer = compare(job);
  ASSERT_NE(find(answer, "IQ1_S"), nullptr);
  EXPECT_TRUE(find(answer, "IQ1_S")->optimized_error);
}

TEST(Yardstick, WhatIsSmallerThanConstraintsAllowIsShownWithoutARival) {
  test::Job job;
  job.request.policy.rules.floors = parse_format_pins("weight=q8_0").value();
  const StaticComparisons unknown = compare(job);
  EXPECT_EQ(find(unknown, "Q2_K"), nullptr);
  EXPECT_THAT(why_without(unknown, "Q2_K"), HasSubstr("was not measured"));

  job.request.paths.state = job.files.folder() / "s.qfstate";
  job.request.policy.rules.floors.clear();
  job.inputs.reset();
  EXPECT_TRUE(find(compare(job), "Q2_K")->optimized_error);
  job.request.policy.rules.floors = parse_format_pins("weight=q8_0").value();
  job.inputs.reset();
  const StaticComparisons known = compare(job);
  ASSERT_NE(find(known, "Q2_K"), nullptr);
  EXPECT_GT(find(known, "Q2_K")->predicted_error, 0);
  EXPECT_FALSE(find(known, "Q2_K")->optimized_error);
}

// What stands in when a stopped search found something worse: of the mixtures that fit, the best.
TEST(Yardstick, TheBestMixtureWithinEveryBudgetIsFound) {
  test::Job job;
  const PreparedJob prepared = job.prepare({BpwTarget{"5"}, FileSizeTarget{60'000}});
  const KnapsackOptions options = knapsack_options(prepared, job.request, 1);
  for (const Budget& budget : prepared.budgets) {
    SCOPED_TRACE(to_text(budget.target));
    const MemoryBudget& memory = budget.memories[0];
    Solution poor;
    poor.recipe = smallest_recipe(prepared.candidates);
    poor.memories.resize(1);
    const auto best = best_static_recipe(*job.inputs, prepared, job.request, budget, poor, false).value();
    ASSERT_TRUE(best);
    const auto error_of = [&](const Recipe& recipe) {
      const auto cost = recipe_cost(prepared.candidates, prepared.measured.measurements, prepared.sensitivity,
                                    options, recipe);
      return cost ? cost->error : 1e300;
    };
    const auto bytes_of = [&](const Recipe& recipe) {
      return bytes_used(memory, job.inputs->model.tensors(), recipe).value();
    };
    EXPECT_LE(bytes_of(best->recipe), *memory.bytes);
    for (const Preset& preset : all_presets()) {
      const Recipe recipe = plain_preset(*job.inputs, preset).value().recipe;
      if (bytes_of(recipe) <= *memory.bytes) {
        EXPECT_LE(error_of(best->recipe), error_of(recipe)) << preset.name;
      }
    }
    poor.memories[0].fill.emplace().least_bytes = *memory.bytes + 1;  // nothing is as full as that
    EXPECT_FALSE(best_static_recipe(*job.inputs, prepared, job.request, budget, poor, false).value());
  }
  job.request.policy.rules.pins = parse_format_pins("attn_k=q8_0").value();
  job.inputs.reset();
  const PreparedJob pinned = job.prepare({BpwTarget{"6"}});
  Solution poor;
  poor.recipe = smallest_recipe(pinned.candidates);
  poor.memories.resize(1);
  const auto best =
      best_static_recipe(*job.inputs, pinned, job.request, pinned.budgets[0], poor, false).value();
  ASSERT_TRUE(best);
  EXPECT_EQ(best->recipe.find("blk.0.attn_k.weight")->format, Format::Q8_0);
}

TEST(Yardstick, GivenRecipesAreNotCompared) {
  test::Job job;
  const PreparedJob prepared = job.prepare({job.preset("Q4_K_M").value().target});
  EXPECT_TRUE(
      compare_static_recipes(*job.inputs, prepared, job.request, job.control).value().compared.empty());
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/allocation/frontier.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "benchmarks/allocator_instances.h"
#include "optimizer/allocation/allocator.h"

namespace quantfit::optimizer {
namespace {

struct Sums {
  std::uint64_t bytes = 0;
  double cost = 0;
};

Sums sums_of(std::span<const CandidateClass> classes, const std::vector<std::uint32_t>& choice) {
  Sums sums;
  for (std::size_t c = 0; c < classes.size(); ++c) {
    sums.bytes += classes[c].candidates[choice[c]].bytes;
    sums.cost += classes[c].candidates[choice[c]].cost;
  }
  return sums;
}

TEST(Frontier, SmallExampleByHand) {
  // a: 10 bytes -> 20 saves 8 (0.8 per byte) -> 40 saves 1 (0.05); the point at 30 lies above the hull.
  // b: 5 bytes -> 15 saves 2 (0.2).
  const std::vector<CandidateClass> classes = {
      {"b", {{Format::Q8_0, 15, 1}, {Format::Q2_K, 5, 3}}},
      {"a", {{Format::Q2_K, 10, 10}, {Format::Q4_K, 20, 2}, {Format::Q5_K, 30, 1.9}, {Format::Q8_0, 40, 1}}}};
  const auto curve = frontier(classes);
  ASSERT_TRUE(curve);
  const Frontier& f = curve.value();
  EXPECT_EQ(f.smallest, (std::vector<std::uint32_t>{1, 0}));
  EXPECT_EQ(f.smallest_bytes, 15U);
  EXPECT_EQ(f.smallest_cost, 13);
  ASSERT_EQ(f.steps.size(), 3U);
  EXPECT_EQ(f.steps[0].class_index, 1U);
  EXPECT_EQ(f.steps[0].from_format, Format::Q2_K);
  EXPECT_EQ(f.steps[0].to_format, Format::Q4_K);
  EXPECT_EQ(f.steps[0].bytes, 25U);
  EXPECT_EQ(f.steps[0].cost, 5);
  EXPECT_DOUBLE_EQ(f.steps[0].multiplier, 0.8);
  EXPECT_EQ(f.steps[1].class_index, 0U);
  EXPECT_EQ(f.steps[1].bytes, 35U);
  EXPECT_EQ(f.steps[1].cost, 3);
  EXPECT_EQ(f.steps[2].to_format, Format::Q8_0);
  EXPECT_EQ(f.steps[2].bytes, 55U);
  EXPECT_EQ(f.steps[2].cost, 2);
  EXPECT_EQ(f.choice_after(0), f.smallest);
  EXPECT_EQ(f.choice_after(2), (std::vector<std::uint32_t>{0, 1}));
}

TEST(Frontier, EveryPointIsTheOptimumOfItsBudget) {
  for (const auto& instance : {benchmarks::dense_8b(11), benchmarks::moe_35b(11)}) {
    const auto curve = frontier(instance.classes);
    ASSERT_TRUE(curve);
    const Frontier& f = curve.value();
    EXPECT_EQ(f.smallest_bytes, instance.smallest);
    ASSERT_FALSE(f.steps.empty());
    EXPECT_EQ(f.steps.back().bytes, instance.largest);
    std::uint64_t bytes = f.smallest_bytes;
    double cost = f.smallest_cost;
    double multiplier = INFINITY;
    for (const FrontierStep& step : f.steps) {
      EXPECT_GT(step.bytes, bytes);
      EXPECT_LT(step.cost, cost);
      EXPECT_LE(step.multiplier, multiplier);
      EXPECT_NEAR(step.multiplier, (cost - step.cost) / static_cast<double>(step.bytes - bytes),
                  1e-6 * step.multiplier);
      bytes = step.bytes;
      cost = step.cost;
      multiplier = step.multiplier;
    }
    for (std::size_t count = 0; count <= f.steps.size(); count += 131) {
      const Sums sums = sums_of(instance.classes, f.choice_after(count));
      const std::uint64_t expected_bytes = count == 0 ? f.smallest_bytes : f.steps[count - 1].bytes;
      const double expected_cost = count == 0 ? f.smallest_cost : f.steps[count - 1].cost;
      EXPECT_EQ(sums.bytes, expected_bytes);
      EXPECT_NEAR(sums.cost, expected_cost, 1e-12 * expected_cost);
      const auto answer = allocate(instance.classes, expected_bytes);
      ASSERT_TRUE(answer);
      EXPECT_EQ(answer.value().why, Termination::Optimal);
      EXPECT_NEAR(answer.value().objective, expected_cost, 1e-9 * expected_cost);
    }
  }
}

TEST(Frontier, EmptyAndSingle) {
  const auto none = frontier({});
  ASSERT_TRUE(none);
  EXPECT_TRUE(none.value().steps.empty());
  const std::vector<CandidateClass> one = {{"a", {{Format::Q6_K, 4, 1}, {Format::Q4_K, 4, 1}}}};
  const auto single = frontier(one);
  ASSERT_TRUE(single);
  EXPECT_TRUE(single.value().steps.empty());
  EXPECT_EQ(single.value().smallest[0], 1U) << "the lower format id of two equal candidates";
  EXPECT_FALSE(frontier(std::vector<CandidateClass>{{"empty", {}}}));
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/allocation/mckp_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace quantfit::optimizer::mckp {
namespace {

using Engine = std::mt19937_64;

struct Problem {
  std::vector<Items> classes;
  std::int64_t capacity = 0;
  Dual dual;
  std::vector<std::uint32_t> order;
};

Problem random_problem(Engine& random, std::size_t count, std::size_t max_items, std::uint64_t range,
                       std::int64_t step) {
  Problem problem;
  std::int64_t low = 0;
  std::int64_t high = 0;
  for (std::size_t c = 0; c < count; ++c) {
    std::vector<std::int64_t> weights(1 + random() % max_items);
    std::vector<std::int64_t> costs(weights.size());
    for (std::int64_t& weight : weights) weight = static_cast<std::int64_t>(random() % range) * step;
    for (std::int64_t& cost : costs) cost = static_cast<std::int64_t>(random() % range);
    // Every other class is a staircase, where no item is dominated: random points alone leave two or three.
    if (random() % 2 == 0) {
      std::ranges::sort(weights);
      std::ranges::sort(costs, std::ranges::greater{});
    }
    Items items;
    for (std::uint32_t i = 0; i < weights.size(); ++i) items.push_back({weights[i], costs[i], i, i});
    remove_dominated(items);
    low += items.front().weight;
    high += items.back().weight;
    problem.classes.push_back(std::move(items));
  }
  problem.capacity = low + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(high - low + 3));
  problem.dual = dual_bound(problem.classes, sorted_hull_steps(problem.classes), problem.capacity);
  problem.order.resize(count);
  std::iota(problem.order.begin(), problem.order.end(), 0U);
  std::ranges::shuffle(problem.order, random);
  return problem;
}

// Least (cost, weight) of all choices within the capacity.
std::pair<std::int64_t, std::int64_t> brute_force(const Problem& problem) {
  std::pair<std::int64_t, std::int64_t> best{INT64_MAX, 0};
  std::vector<std::uint32_t> choice(problem.classes.size(), 0);
  while (true) {
    std::int64_t weight = 0;
    std::int64_t cost = 0;
    for (std::size_t c = 0; c < choice.size(); ++c) {
      weight += problem.classes[c][choice[c]].weight;
      cost += problem.classes[c][choice[c]].cost;
    }
    if (weight <= problem.capacity) best = std::min(best, {cost, weight});
    std::size_t c = 0;
    while (c < choice.size() && ++choice[c] == problem.classes[c].size()) choice[c++] = 0;
    if (c == choice.size()) return best;
  }
}

std::pair<std::int64_t, std::int64_t> sums(const Problem& problem, const CoreResult& result) {
  std::int64_t weight = 0;
  std::int64_t cost = 0;
  for (std::size_t c = 0; c < problem.classes.size(); ++c) {
    weight += problem.classes[c][result.choice[c]].weight;
    cost += problem.classes[c][result.choice[c]].cost;
  }
  return {cost, weight};
}

CoreLimits no_limits() {
  CoreLimits limits;
  limits.max_states = 1'000'000;
  limits.max_memory_bytes = 1 << 28;
  return limits;
}

// For any gap: the search finds the optimum when it lies within the gap, and finds
// nothing within it otherwise.
TEST(Core, FindsTheOptimumExactlyWhenItLiesWithinTheGap) {
  Engine random(1);
  const CoreLimits limits = no_limits();
  for (int trial = 0; trial < 2000; ++trial) {
    const std::uint64_t range = trial % 3 == 0 ? 5 : trial % 3 == 1 ? 60 : 100000;
    const Problem problem = random_problem(random, 1 + random() % 6, 8, range, 1 + trial % 7);
    const auto [cost, weight] = brute_force(problem);
    const auto optimum = static_cast<std::int64_t>((Int128{cost} << kMultiplierShift) - problem.dual.bound);
    const std::int64_t spread = optimum / 3 + 1;
    for (const std::int64_t gap : {std::int64_t{0}, optimum - 1, optimum, optimum + 1, optimum - spread,
                                   optimum + spread, 3 * optimum, std::int64_t{1} << 50}) {
      if (gap < 0) continue;
      const CoreResult result = search_core(problem.classes, problem.dual, gap, problem.order, limits);
      EXPECT_EQ(result.stop, CoreStop::Complete);
      if (result.found) {
        const auto [found_cost, found_weight] = sums(problem, result);
        EXPECT_LE(found_weight, problem.capacity);
        EXPECT_TRUE((Int128{found_cost} << kMultiplierShift) == problem.dual.bound + result.gap);
      }
      if (gap >= optimum) {
        ASSERT_TRUE(result.found) << trial << " gap " << gap << " optimum " << optimum;
        EXPECT_EQ(result.gap, optimum);
        EXPECT_EQ(sums(problem, result), std::pair(cost, weight));
      } else if (result.found) {
        EXPECT_GE(result.gap, optimum);
      }
    }
    if (testing::Test::HasFailure()) return;
  }
}

// However small the first gap and however slow its growth: the optimum, and bounds
// that enclose it when stopped.
TEST(CloseGap, EndsAtTheOptimumFromAnyFirstGap) {
  Engine random(4);
  int stopped = 0;
  for (int trial = 0; trial < 1500; ++trial) {
    const std::uint64_t range = trial % 2 == 0 ? 60 : 100000;
    const Problem problem = random_problem(random, 2 + random() % 5, 8, range, 1 + trial % 7);
    const auto [cost, weight] = brute_force(problem);
    const auto optimum = static_cast<std::int64_t>((Int128{cost} << kMultiplierShift) - problem.dual.bound);
    const std::vector<std::uint32_t> greedy =
        greedy_choice(problem.classes, sorted_hull_steps(problem.classes), problem.capacity);
    Int128 greedy_cost = 0;
    for (std::size_t c = 0; c < greedy.size(); ++c) greedy_cost += problem.classes[c][greedy[c]].cost;
    const auto greedy_gap = static_cast<std::int64_t>((greedy_cost << kMultiplierShift) - problem.dual.bound);
    for (const double growth : {1.1, 1.6, 4.0}) {
      GapSchedule schedule;
      schedule.first = optimum / (trial % 9 + 1);
      schedule.growth = growth;
      const GapResult exact =
          close_gap(problem.classes, problem.dual, greedy, greedy_gap, schedule, problem.order, no_limits());
      EXPECT_EQ(exact.stop, GapStop::Optimal);
      EXPECT_EQ(exact.best, optimum);
      EXPECT_EQ(exact.proven, optimum);
      for (const std::uint64_t max_states : {2U, 3U, 5U, 9U}) {
        CoreLimits limits = no_limits();
        limits.max_states = max_states;
        const GapResult result =
            close_gap(problem.classes, problem.dual, greedy, greedy_gap, schedule, problem.order, limits);
        EXPECT_LE(result.proven, optimum);
        EXPECT_GE(result.best, optimum);
        stopped += result.stop == GapStop::States;
      }
    }
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(stopped, 1000) << "the limits were meant to be reached";
}

// Sixty staircases of twelve items without a common step, and a gap far wider than needed.
Problem wide_problem() {
  Engine random(2);
  Problem problem = random_problem(random, 60, 12, 1'000'000'000, 1);
  std::int64_t low = 0;
  std::int64_t high = 0;
  for (const Items& items : problem.classes) {
    low += items.front().weight;
    high += items.back().weight;
  }
  problem.capacity = low + (high - low) / 3;
  problem.dual = dual_bound(problem.classes, sorted_hull_steps(problem.classes), problem.capacity);
  return problem;
}

constexpr std::int64_t kWideGap = std::int64_t{1} << 38;

TEST(Core, StateAndMemoryLimitsHold) {
  const Problem problem = wide_problem();
  CoreLimits limits = no_limits();
  limits.max_states = 100;
  CoreResult result = search_core(problem.classes, problem.dual, kWideGap, problem.order, limits);
  EXPECT_EQ(result.stop, CoreStop::States);
  EXPECT_LE(result.peak_states, 100U);
  limits = no_limits();
  limits.max_memory_bytes = 20'000;
  result = search_core(problem.classes, problem.dual, kWideGap, problem.order, limits);
  EXPECT_EQ(result.stop, CoreStop::States);
  EXPECT_LE(result.peak_memory_bytes, 20'000U);
  if (result.found) {
    EXPECT_LE(sums(problem, result).second, problem.capacity);
  }
}

TEST(Core, DeadlineStopsTheSearch) {
  const Problem problem = wide_problem();
  CoreLimits limits = no_limits();
  limits.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  const CoreResult result = search_core(problem.classes, problem.dual, kWideGap, problem.order, limits);
  EXPECT_EQ(result.stop, CoreStop::Time);
}

// Slack that no combination of weights can use counts towards the gap at once.
TEST(Core, UnusableSlackRaisesTheBound) {
  Problem problem;
  for (int c = 0; c < 4; ++c) problem.classes.push_back({{0, 100, 0, 0}, {10, 50, 1, 1}, {20, 10, 2, 2}});
  problem.capacity = 47;
  problem.order = {0, 1, 2, 3};
  problem.dual = dual_bound(problem.classes, sorted_hull_steps(problem.classes), problem.capacity);
  const auto [cost, weight] = brute_force(problem);
  const auto optimum = static_cast<std::int64_t>((Int128{cost} << kMultiplierShift) - problem.dual.bound);
  const CoreResult missed =
      search_core(problem.classes, problem.dual, optimum - 1, problem.order, no_limits());
  EXPECT_TRUE(!missed.found || missed.gap >= optimum);
  const CoreResult found = search_core(problem.classes, problem.dual, optimum, problem.order, no_limits());
  ASSERT_TRUE(found.found);
  EXPECT_EQ(sums(problem, found), std::pair(cost, weight));
}

}  // namespace
}  // namespace quantfit::optimizer::mckp

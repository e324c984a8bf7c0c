#include "optimizer/allocation/mckp_reductions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace quantfit::optimizer::mckp {
namespace {

using Engine = std::mt19937_64;

// Every other class is a staircase, where no item is dominated: random points alone leave two or three.
std::vector<Items> random_classes(Engine& random, std::size_t count, std::size_t max_items,
                                  std::int64_t range) {
  std::vector<Items> classes(count);
  for (std::size_t c = 0; c < count; ++c) {
    std::vector<std::int64_t> weights(1 + random() % max_items);
    std::vector<std::int64_t> costs(weights.size());
    for (std::int64_t& weight : weights)
      weight = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(range));
    for (std::int64_t& cost : costs)
      cost = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(range));
    if (random() % 2 == 0) {
      std::ranges::sort(weights);
      std::ranges::sort(costs, std::ranges::greater{});
    }
    for (std::uint32_t i = 0; i < weights.size(); ++i) classes[c].push_back({weights[i], costs[i], i, i});
    remove_dominated(classes[c]);
  }
  return classes;
}

std::int64_t least_weight(const std::vector<Items>& classes) {
  std::int64_t sum = 0;
  for (const Items& items : classes) sum += items.front().weight;
  return sum;
}

std::int64_t most_weight(const std::vector<Items>& classes) {
  std::int64_t sum = 0;
  for (const Items& items : classes) sum += items.back().weight;
  return sum;
}

TEST(RemoveDominated, KeepsExactlyTheParetoFrontier) {
  Engine random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    Items items;
    const std::size_t n = 1 + random() % 12;
    for (std::uint32_t i = 0; i < n; ++i)
      items.push_back(
          {static_cast<std::int64_t>(random() % 8), static_cast<std::int64_t>(random() % 8), i, i});
    Items kept = items;
    remove_dominated(kept);
    for (std::size_t i = 1; i < kept.size(); ++i) {
      EXPECT_GT(kept[i].weight, kept[i - 1].weight);
      EXPECT_LT(kept[i].cost, kept[i - 1].cost);
    }
    for (const Item& item : items) {
      const bool stays = std::ranges::any_of(kept, [&](const Item& k) { return k.source == item.source; });
      const bool dominated = std::ranges::any_of(items, [&](const Item& other) {
        if (other.weight == item.weight && other.cost == item.cost) return other.rank < item.rank;
        return other.weight <= item.weight && other.cost <= item.cost;
      });
      EXPECT_EQ(stays, !dominated);
    }
  }
}

TEST(RemoveDominated, KeepsPointsAboveTheHull) {
  Items items = {{0, 10, 0, 0}, {5, 9, 1, 1}, {10, 0, 2, 2}};
  remove_dominated(items);
  EXPECT_EQ(items.size(), 3U);
}

TEST(ConvexHull, IsTheLowerHull) {
  Engine random(2);
  for (int trial = 0; trial < 2000; ++trial) {
    const Items items = random_classes(random, 1, 12, 50)[0];
    const std::vector<std::uint32_t> hull = convex_hull(items);
    ASSERT_EQ(hull.front(), 0U);
    ASSERT_EQ(hull.back(), items.size() - 1);
    for (std::size_t h = 1; h < hull.size(); ++h) {
      const Item& a = items[hull[h - 1]];
      const Item& b = items[hull[h]];
      for (std::size_t i = 0; i < items.size(); ++i) {
        // On which side of the line a-b the item lies; only a and b are on it or below.
        const std::int64_t side = (items[i].cost - a.cost) * (b.weight - a.weight) -
                                  (b.cost - a.cost) * (items[i].weight - a.weight);
        EXPECT_GE(side, 0);
        if (i == hull[h - 1] || i == hull[h]) {
          EXPECT_EQ(side, 0);
        }
      }
    }
  }
}

TEST(ConvexHull, NumbersNearTheLimit) {
  constexpr std::int64_t kBig = std::int64_t{1} << 60;
  const Items items = {{0, kBig, 0, 0}, {kBig / 2, kBig / 2 + 1, 1, 1}, {kBig, 0, 2, 2}};
  EXPECT_EQ(convex_hull(items), (std::vector<std::uint32_t>{0, 2}));
  const Items below = {{0, kBig, 0, 0}, {kBig / 2, kBig / 2 - 1, 1, 1}, {kBig, 0, 2, 2}};
  EXPECT_EQ(convex_hull(below), (std::vector<std::uint32_t>{0, 1, 2}));
}

TEST(WeightStep, IsTheCommonDivisorOfDifferences) {
  const std::vector<Items> classes = {{{7, 3, 0, 0}, {19, 2, 1, 1}, {37, 1, 2, 2}}, {{100, 1, 0, 0}}};
  EXPECT_EQ(weight_step(classes), 6);
  EXPECT_EQ(weight_step(std::span(classes).subspan(1)), 0);
}

TEST(HullSteps, DescendInGainPerWeight) {
  Engine random(3);
  const std::vector<Items> classes = random_classes(random, 50, 10, 1000);
  const std::vector<HullStep> steps = sorted_hull_steps(classes);
  std::vector<std::uint32_t> at(classes.size(), 0);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].from, at[steps[i].class_index]);
    at[steps[i].class_index] = steps[i].to;
    if (i > 0) {
      EXPECT_LE(steps[i].gain * steps[i - 1].weight, steps[i - 1].gain * steps[i].weight);
    }
  }
  for (std::size_t c = 0; c < classes.size(); ++c) EXPECT_EQ(at[c], classes[c].size() - 1);
}

// The multiplier chosen is the best of all: the dual is concave, so it must beat every other one tried.
TEST(Dual, BoundIsTheMaximumOverMultipliers) {
  Engine random(4);
  for (int trial = 0; trial < 300; ++trial) {
    const std::vector<Items> classes = random_classes(random, 1 + random() % 8, 10, 60);
    const std::int64_t low = least_weight(classes);
    const std::int64_t capacity =
        low +
        static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most_weight(classes) - low + 3));
    const Dual dual = dual_bound(classes, sorted_hull_steps(classes), capacity);
    EXPECT_TRUE(dual.bound == lagrangian(classes, capacity, dual.multiplier));
    for (std::int64_t multiplier = 0; multiplier < (70LL << kMultiplierShift); multiplier += 37)
      EXPECT_TRUE(lagrangian(classes, capacity, multiplier) <= dual.bound) << multiplier;
    std::int64_t weight = 0;
    for (std::size_t c = 0; c < classes.size(); ++c) weight += classes[c][dual.base[c]].weight;
    EXPECT_EQ(dual.slack, capacity - weight);
  }
}

// Calls `visit(weight, cost, choice)` for every choice.
template <class Visit>
void for_each_choice(const std::vector<Items>& classes, Visit visit) {
  std::vector<std::uint32_t> choice(classes.size(), 0);
  while (true) {
    std::int64_t weight = 0;
    std::int64_t cost = 0;
    for (std::size_t c = 0; c < classes.size(); ++c) {
      weight += classes[c][choice[c]].weight;
      cost += classes[c][choice[c]].cost;
    }
    visit(weight, cost, choice);
    std::size_t c = 0;
    while (c < classes.size() && ++choice[c] == classes[c].size()) choice[c++] = 0;
    if (c == classes.size()) return;
  }
}

TEST(Reductions, BoundGreedyAndFixingHoldOnEveryChoice) {
  Engine random(5);
  for (int trial = 0; trial < 400; ++trial) {
    const std::vector<Items> classes = random_classes(random, 1 + random() % 6, 8, trial % 2 == 0 ? 60 : 6);
    const std::int64_t low = least_weight(classes);
    const std::int64_t capacity =
        low +
        static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(most_weight(classes) - low + 3));
    const std::vector<HullStep> steps = sorted_hull_steps(classes);
    const Dual dual = dual_bound(classes, steps, capacity);
    const std::vector<std::uint32_t> greedy = greedy_choice(classes, steps, capacity);
    std::int64_t greedy_weight = 0;
    std::int64_t greedy_cost = 0;
    for (std::size_t c = 0; c < classes.size(); ++c) {
      greedy_weight += classes[c][greedy[c]].weight;
      greedy_cost += classes[c][greedy[c]].cost;
    }
    EXPECT_LE(greedy_weight, capacity);
    const Int128 gap = (Int128{greedy_cost} << kMultiplierShift) - dual.bound;
    ASSERT_TRUE(gap >= 0);
    const auto open = fix_by_reduced_cost(classes, dual, static_cast<std::int64_t>(gap));
    std::int64_t best = greedy_cost;
    std::vector<std::vector<std::uint32_t>> within;
    for_each_choice(classes,
                    [&](std::int64_t weight, std::int64_t cost, const std::vector<std::uint32_t>& choice) {
                      if (weight > capacity) return;
                      EXPECT_TRUE((Int128{cost} << kMultiplierShift) >= dual.bound);
                      best = std::min(best, cost);
                      if (cost <= greedy_cost) within.push_back(choice);
                    });
    EXPECT_LE(best, greedy_cost);
    for (const auto& choice : within)
      for (std::size_t c = 0; c < classes.size(); ++c)
        EXPECT_TRUE(
            std::ranges::any_of(open[c], [&](const ReducedItem& item) { return item.item == choice[c]; }));
    for (std::size_t c = 0; c < classes.size(); ++c)
      for (const ReducedItem& item : open[c]) {
        EXPECT_GE(item.reduced, 0);
        EXPECT_EQ(item.reduced, item.cost + dual.multiplier * item.weight);
        if (item.item == dual.base[c]) {
          EXPECT_EQ(item.reduced, 0);
        }
      }
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace quantfit::optimizer::mckp

#include "optimizer/allocation/two_budgets.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <random>

namespace quantfit::optimizer {
namespace {

// Small enough to try every choice.
struct Instance {
  std::vector<CandidateClass> first, second;
  std::vector<SharedClass> shared;
  TwoBudgets budgets;
};

constexpr Format kFormats[] = {Format::Q2_K, Format::Q4_K, Format::Q6_K, Format::Q8_0};

Instance random_instance(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
  Instance instance;
  const auto own = [&](const char* name, std::vector<CandidateClass>& classes) {
    const std::uint32_t count = below(3);
    for (std::uint32_t c = 0; c < count; ++c) {
      CandidateClass group{fmt::format("{}{}", name, c), {}};
      std::uint64_t bytes = 5 + below(20);
      for (const Format format : kFormats) {
        group.candidates.push_back({format, bytes, static_cast<double>(below(1000))});
        bytes += 1 + below(20);
      }
      classes.push_back(std::move(group));
    }
  };
  own("a", instance.first);
  own("b", instance.second);
  const std::uint32_t shared = 1 + below(4);
  for (std::uint32_t c = 0; c < shared; ++c) {
    SharedClass group{fmt::format("s{}", c), {}};
    std::uint64_t x = 5 + below(20);
    std::uint64_t y = 5 + below(20);
    for (const Format format : kFormats) {
      group.candidates.push_back({format, x, y, static_cast<double>(below(1000))});
      x += 1 + below(20);
      y += 1 + below(20);
    }
    instance.shared.push_back(std::move(group));
  }
  instance.budgets = {40 + below(150), 40 + below(150)};
  return instance;
}

// The lowest cost within both budgets, by trying everything.
std::optional<double> brute_force(const Instance& instance) {
  const std::size_t a = instance.first.size();
  const std::size_t b = instance.second.size();
  const std::size_t classes = a + b + instance.shared.size();
  std::optional<double> best;
  for (std::uint64_t code = 0; code < (std::uint64_t{1} << (2 * classes)); ++code) {
    std::uint64_t x = 0;
    std::uint64_t y = 0;
    double cost = 0;
    for (std::size_t c = 0; c < classes; ++c) {
      const std::size_t pick = code >> (2 * c) & 3;
      if (c < a) {
        x += instance.first[c].candidates[pick].bytes;
        cost += instance.first[c].candidates[pick].cost;
      } else if (c < a + b) {
        y += instance.second[c - a].candidates[pick].bytes;
        cost += instance.second[c - a].candidates[pick].cost;
      } else {
        const SharedCandidate& both = instance.shared[c - a - b].candidates[pick];
        x += both.first_bytes;
        y += both.second_bytes;
        cost += both.cost;
      }
    }
    if (x <= instance.budgets.first && y <= instance.budgets.second && (!best || cost < *best)) best = cost;
  }
  return best;
}

TEST(TwoBudgets, IsTheBestOfAllChoices) {
  int infeasible = 0;
  for (std::uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    const Instance instance = random_instance(seed);
    const auto answer =
        allocate_two(instance.first, instance.second, instance.shared, instance.budgets).value();
    const std::optional<double> best = brute_force(instance);
    if (!best) {
      EXPECT_EQ(answer.why, Termination::BudgetTooSmall);
      ++infeasible;
      continue;
    }
    EXPECT_EQ(answer.why, Termination::Optimal);
    EXPECT_NEAR(answer.objective, *best, 1e-6);
    EXPECT_EQ(answer.lower_bound, answer.objective);
    EXPECT_LE(answer.first.bytes + answer.shared_bytes.first, instance.budgets.first);
    EXPECT_LE(answer.second.bytes + answer.shared_bytes.second, instance.budgets.second);
  }
  EXPECT_GT(infeasible, 0);
  EXPECT_LT(infeasible, 150);
}

TEST(TwoBudgets, WithoutSharedClassesBothAreSolvedOnTheirOwn) {
  Instance instance = random_instance(3);
  instance.shared.clear();
  instance.first = {{"a", {{Format::Q2_K, 10, 9}, {Format::Q4_K, 20, 1}}}};
  instance.second = {{"b", {{Format::Q2_K, 10, 8}, {Format::Q4_K, 30, 2}}}};
  const auto answer = allocate_two(instance.first, instance.second, {}, {25, 25}).value();
  EXPECT_EQ(answer.first.choice[0], Format::Q4_K);
  EXPECT_EQ(answer.second.choice[0], Format::Q2_K);
  EXPECT_EQ(answer.objective, 9);
}

// A hundred groups spread over both memories: too many combinations to try, a bound all the same.
TEST(TwoBudgets, ManySharedClassesLeaveAnHonestBound) {
  std::mt19937 random(7);
  Instance instance;
  std::uint64_t most = 0;
  for (int c = 0; c < 100; ++c) {
    SharedClass group{fmt::format("s{:03}", c), {}};
    double cost = 1000 + static_cast<double>(random() % 1000);
    std::uint64_t bytes = 100 + random() % 50;
    for (const Format format : kFormats) {
      group.candidates.push_back({format, bytes, bytes / 2, cost});
      cost /= 3 + static_cast<double>(random() % 3);
      bytes += 50 + random() % 100;
    }
    most += bytes;
    instance.shared.push_back(std::move(group));
  }
  const auto answer = allocate_two({}, {}, instance.shared, {most / 2, most / 4}).value();
  EXPECT_LE(answer.shared_bytes.first, most / 2);
  EXPECT_LE(answer.shared_bytes.second, most / 4);
  EXPECT_LE(answer.lower_bound, answer.objective);
  EXPECT_GT(answer.lower_bound, 0.95 * answer.objective);
}

TEST(TwoBudgets, RefusesWhatHasNoMeaningAndStopsOnRequest) {
  EXPECT_EQ(allocate_two({}, {}, std::vector<SharedClass>{{"s", {}}}, {}).error().code,
            ErrorCode::InvalidArgument);
  const std::vector<SharedClass> bad = {{"s", {{Format::Q4_K, 1, 1, std::nan("")}}}};
  EXPECT_EQ(allocate_two({}, {}, bad, {10, 10}).error().code, ErrorCode::InvalidArgument);
  const Instance instance = random_instance(11);
  CancellationToken cancel;
  cancel.cancel();
  AllocatorLimits limits;
  limits.cancel = &cancel;
  const auto stopped = allocate_two(instance.first, instance.second, instance.shared, {1000, 1000}, limits);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::Interrupted);
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/allocation/allocator.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "benchmarks/allocator_instances.h"
#include "tests/optimizer/reference_knapsack.h"

namespace quantfit::optimizer {
namespace {

using Classes = std::vector<CandidateClass>;
using Engine = std::mt19937_64;

Format format_number(std::size_t i) {
  return all_formats()[i % all_formats().size()].format;
}

std::uint64_t below(Engine& random, std::uint64_t end) {
  return random() % end;
}

std::uint64_t smallest_bytes(const Classes& classes) {
  std::uint64_t sum = 0;
  for (const CandidateClass& one : classes)
    sum += std::ranges::min(one.candidates, {}, &Candidate::bytes).bytes;
  return sum;
}

std::uint64_t largest_bytes(const Classes& classes) {
  std::uint64_t sum = 0;
  for (const CandidateClass& one : classes)
    sum += std::ranges::max(one.candidates, {}, &Candidate::bytes).bytes;
  return sum;
}

// Families of small instances whose costs are whole numbers below 2^20: sums are exact in doubles and in the
// allocator's units, so answers must agree exactly.
struct Family {
  const char* name;
  void (*fill)(Engine&, Candidate&, std::uint64_t max_bytes);
};

constexpr Family kFamilies[] = {
    {"independent",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = below(r, m);
       c.cost = static_cast<double>(below(r, 1000));
     }},
    {"strongly correlated",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = below(r, m);
       c.cost = static_cast<double>(m - c.bytes + 10);
     }},
    {"weakly correlated",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = below(r, m);
       c.cost = static_cast<double>(m - c.bytes + below(r, 5));
     }},
    {"equal costs",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = below(r, m);
       c.cost = 7;
     }},
    {"equal bytes",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = m / 2;
       c.cost = static_cast<double>(below(r, 100));
     }},
    {"many ties",
     [](Engine& r, Candidate& c, std::uint64_t) {
       c.bytes = below(r, 4);
       c.cost = static_cast<double>(below(r, 4));
     }},
    {"zero costs",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = below(r, m);
       c.cost = 0;
     }},
    {"one ruinous candidate",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       c.bytes = below(r, m);
       c.cost = below(r, 4) == 0 ? 1000000 : static_cast<double>(below(r, 20));
     }},
    {"geometric",
     [](Engine& r, Candidate& c, std::uint64_t m) {
       const std::uint64_t level = below(r, 6);
       c.bytes = (m >> (6 - level)) + below(r, 3);
       c.cost = static_cast<double>(65536 >> (2 * level));
     }},
};

Classes make_classes(Engine& random, const Family& family, std::size_t count, std::size_t max_candidates,
                     std::uint64_t max_bytes) {
  Classes classes;
  for (std::size_t c = 0; c < count; ++c) {
    CandidateClass one{fmt::format("t{}", c), {}};
    const std::size_t candidates = 1 + below(random, max_candidates);
    for (std::size_t i = 0; i < candidates; ++i) {
      Candidate candidate{format_number(i), 0, 0};
      family.fill(random, candidate, max_bytes);
      one.candidates.push_back(candidate);
    }
    // Every other class is a staircase, where none is dominated: random points alone leave two or three.
    if (below(random, 2) == 0) {
      std::vector<double> costs;
      for (const Candidate& candidate : one.candidates) costs.push_back(candidate.cost);
      std::ranges::sort(costs, std::ranges::greater{});
      std::ranges::sort(one.candidates, {}, &Candidate::bytes);
      for (std::size_t i = 0; i < candidates; ++i) one.candidates[i].cost = costs[i];
    }
    classes.push_back(std::move(one));
  }
  return classes;
}

// What every answer must satisfy, whoever doubts it.
void check_answer(const Classes& classes, std::uint64_t budget, const Allocation& answer) {
  ASSERT_EQ(answer.index.size(), classes.size());
  ASSERT_EQ(answer.choice.size(), classes.size());
  std::uint64_t bytes = 0;
  double objective = 0;
  for (std::size_t c = 0; c < classes.size(); ++c) {
    ASSERT_LT(answer.index[c], classes[c].candidates.size());
    const Candidate& chosen = classes[c].candidates[answer.index[c]];
    EXPECT_EQ(chosen.format, answer.choice[c]);
    bytes += chosen.bytes;
    objective += chosen.cost;
  }
  EXPECT_EQ(bytes, answer.bytes);
  EXPECT_EQ(objective, answer.objective);
  EXPECT_LE(answer.lower_bound, answer.objective);
  EXPECT_LE(answer.lower_bound_units, answer.objective_units);
  if (answer.why == Termination::BudgetTooSmall) return;
  EXPECT_LE(answer.bytes, budget);
  EXPECT_NEAR(static_cast<double>(answer.objective_units) * answer.cost_unit, answer.objective,
              static_cast<double>(classes.size()) * answer.cost_unit + 1e-12 * answer.objective);
  if (answer.why == Termination::Optimal) {
    EXPECT_EQ(answer.objective_units, answer.lower_bound_units);
    EXPECT_EQ(answer.gap(), 0);
  }
}

void expect_reference(const Classes& classes, std::uint64_t budget,
                      const std::optional<reference::Answer>& expected) {
  const auto answer = allocate(classes, budget);
  ASSERT_TRUE(answer) << answer.error().message;
  check_answer(classes, budget, answer.value());
  if (!expected) {
    EXPECT_EQ(answer.value().why, Termination::BudgetTooSmall);
    return;
  }
  EXPECT_EQ(answer.value().why, Termination::Optimal);
  EXPECT_EQ(answer.value().objective, expected->cost);
  EXPECT_EQ(answer.value().bytes, expected->bytes);
}

TEST(Allocator, AgreesWithBruteForceAndWeightsOnSmallInstances) {
  Engine random(1);
  for (const Family& family : kFamilies) {
    for (int trial = 0; trial < 400; ++trial) {
      const Classes classes = make_classes(random, family, 1 + below(random, 6), 8, 60);
      const std::uint64_t low = smallest_bytes(classes);
      const std::uint64_t budget =
          low - std::min<std::uint64_t>(low, 2) + below(random, largest_bytes(classes) - low + 5);
      SCOPED_TRACE(fmt::format("{}, trial {}", family.name, trial));
      const auto expected = reference::brute_force(classes, budget);
      EXPECT_EQ(expected, reference::by_weights(classes, budget));
      expect_reference(classes, budget, expected);
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(Allocator, AgreesWithWeightsOnMediumInstances) {
  Engine random(2);
  for (const Family& family : kFamilies) {
    for (int trial = 0; trial < 25; ++trial) {
      const Classes classes = make_classes(random, family, 10 + below(random, 40), 10, 100);
      const std::uint64_t low = smallest_bytes(classes);
      const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 2);
      SCOPED_TRACE(fmt::format("{}, trial {}", family.name, trial));
      expect_reference(classes, budget, reference::by_weights(classes, budget));
      if (testing::Test::HasFailure()) return;
    }
  }
}

// Instances that take several searches of growing gap, the exact answer known: optimal without limits, and
// whatever the limit, bounds that enclose the optimum.
TEST(Allocator, BoundsEncloseTheOptimumAtEveryLimit) {
  Engine random(6);
  int limited = 0;
  for (int trial = 0; trial < 60; ++trial) {
    Classes classes;
    for (int c = 0; c < 30; ++c) {
      CandidateClass one{fmt::format("t{}", c), {}};
      const double slope = 800 + static_cast<double>(below(random, 400));
      const std::uint64_t top = 300 + below(random, 300);
      for (std::size_t i = 0; i < 8; ++i) {
        const std::uint64_t bytes = top * (i + 1) / 8 - below(random, 30);
        const double convex = static_cast<double>((7 - i) * (7 - i) * 1000 * (trial % 4));
        one.candidates.push_back({format_number(i), bytes,
                                  std::floor(slope * static_cast<double>(top - bytes)) + convex +
                                      static_cast<double>(below(random, 5000))});
      }
      classes.push_back(std::move(one));
    }
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
    SCOPED_TRACE(trial);
    const auto expected = reference::by_weights(classes, budget);
    expect_reference(classes, budget, expected);
    for (const std::uint64_t max_states : {2U, 8U, 32U, 128U, 512U}) {
      AllocatorLimits limits;
      limits.max_states = max_states;
      const auto answer = allocate(classes, budget, limits);
      ASSERT_TRUE(answer);
      check_answer(classes, budget, answer.value());
      EXPECT_LE(answer.value().lower_bound, expected->cost);
      EXPECT_GE(answer.value().objective, expected->cost);
      limited += answer.value().why == Termination::StateLimit;
    }
    for (const double gap : {1e-3, 1e-4, 1e-5}) {
      AllocatorLimits limits;
      limits.relative_gap = gap;
      const auto answer = allocate(classes, budget, limits);
      ASSERT_TRUE(answer);
      check_answer(classes, budget, answer.value());
      EXPECT_LE(answer.value().lower_bound, expected->cost);
      EXPECT_LE(answer.value().objective - answer.value().lower_bound,
                gap * answer.value().objective * (1 + 1e-9));
    }
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_GT(limited, 60) << "the limits were meant to be reached";
}

TEST(Allocator, AgreesWithBruteForceOnHugeBytes) {
  Engine random(3);
  for (int trial = 0; trial < 1500; ++trial) {
    Classes classes = make_classes(random, kFamilies[static_cast<std::size_t>(trial) % std::size(kFamilies)],
                                   1 + below(random, 5), 5, std::uint64_t{1} << 16);
    for (CandidateClass& one : classes)
      for (Candidate& candidate : one.candidates)
        candidate.bytes = (candidate.bytes << 34) + below(random, 1000);
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
    SCOPED_TRACE(trial);
    expect_reference(classes, budget, reference::brute_force(classes, budget));
    if (testing::Test::HasFailure()) return;
  }
}

// Costs of any size: the answer may differ from the true optimum by the documented rounding, and by no more.
TEST(Allocator, RealCostsAreOptimalUpToRounding) {
  Engine random(4);
  std::uniform_real_distribution<double> exponent(-12, 12);
  for (int trial = 0; trial < 1500; ++trial) {
    const double spread = trial % 3 == 0 ? 20 : 1;
    Classes classes = make_classes(random, kFamilies[0], 1 + below(random, 6), 8, 60);
    for (CandidateClass& one : classes)
      for (Candidate& candidate : one.candidates) candidate.cost = std::pow(10.0, exponent(random) * spread);
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
    const auto expected = reference::brute_force(classes, budget);
    ASSERT_TRUE(expected);
    const auto answer = allocate(classes, budget);
    ASSERT_TRUE(answer);
    check_answer(classes, budget, answer.value());
    EXPECT_EQ(answer.value().why, Termination::Optimal);
    EXPECT_LE(answer.value().objective, expected->cost * (1 + 1e-9)) << trial;
    if (testing::Test::HasFailure()) return;
  }
}

// Bytes and costs of every order of magnitude in one instance.
TEST(Allocator, AnyMagnitudeOfBytesAndCosts) {
  Engine random(14);
  for (int trial = 0; trial < 2000; ++trial) {
    const int widest = trial % 2 == 0 ? 1000 : 60;
    Classes classes;
    const std::size_t count = 1 + below(random, 6);
    for (std::size_t c = 0; c < count; ++c) {
      CandidateClass one{fmt::format("t{}", c), {}};
      std::vector<double> costs;
      for (std::size_t i = 0; i < 6; ++i) {
        const int exponent = static_cast<int>(below(random, 2 * static_cast<std::uint64_t>(widest))) - widest;
        costs.push_back(std::ldexp(1 + static_cast<double>(below(random, 1000)) / 1000, exponent));
        one.candidates.push_back({format_number(i), below(random, std::uint64_t{1} << below(random, 58)), 0});
      }
      std::ranges::sort(costs, std::ranges::greater{});
      std::ranges::sort(one.candidates, {}, &Candidate::bytes);
      for (std::size_t i = 0; i < 6; ++i) one.candidates[i].cost = costs[i];
      classes.push_back(std::move(one));
    }
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 2);
    SCOPED_TRACE(trial);
    const auto expected = reference::brute_force(classes, budget);
    const auto answer = allocate(classes, budget);
    ASSERT_TRUE(answer);
    check_answer(classes, budget, answer.value());
    EXPECT_EQ(answer.value().why, Termination::Optimal);
    EXPECT_LE(answer.value().objective, expected->cost * (1 + 1e-9));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Allocator, ExtremeCosts) {
  const double tiny = std::numeric_limits<double>::denorm_min();
  const Classes classes = {
      {"a", {{Format::Q2_K, 1, 1e300}, {Format::Q4_K, 2, 3e-300}, {Format::Q8_0, 3, 1e-300}}},
      {"b", {{Format::Q2_K, 1, 5e-300}, {Format::Q4_K, 2, 1e-301}, {Format::Q8_0, 3, 0}}},
      {"c", {{Format::Q2_K, 1, tiny}, {Format::Q4_K, 2, 0}}}};
  for (std::uint64_t budget = 3; budget <= 8; ++budget) {
    const auto expected = reference::brute_force(classes, budget);
    const auto answer = allocate(classes, budget);
    ASSERT_TRUE(answer);
    check_answer(classes, budget, answer.value());
    EXPECT_LE(answer.value().objective, expected->cost * (1 + 1e-9)) << budget;
  }
  const Classes subnormal = {{"a", {{Format::Q2_K, 1, 8 * tiny}, {Format::Q4_K, 2, tiny}}},
                             {"b", {{Format::Q2_K, 1, 5 * tiny}, {Format::Q4_K, 2, 4 * tiny}}}};
  const auto answer = allocate(subnormal, 3);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().choice, (std::vector{Format::Q4_K, Format::Q2_K}));
}

TEST(Allocator, NoClasses) {
  const auto answer = allocate({}, 10);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().why, Termination::Optimal);
  EXPECT_EQ(answer.value().bytes, 0U);
  EXPECT_EQ(answer.value().objective, 0);
}

TEST(Allocator, BudgetTooSmallGivesTheSmallestChoice) {
  const Classes classes = {{"a", {{Format::Q8_0, 30, 1}, {Format::Q4_0, 10, 5}, {Format::Q2_K, 10, 4}}},
                           {"b", {{Format::Q8_0, 7, 1}}}};
  const auto answer = allocate(classes, 16);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().why, Termination::BudgetTooSmall);
  EXPECT_EQ(answer.value().bytes, 17U);
  EXPECT_EQ(answer.value().choice, (std::vector{Format::Q2_K, Format::Q8_0}));
}

TEST(Allocator, AmpleBudgetGivesTheBestOfEverything) {
  const Classes classes = {{"a", {{Format::Q8_0, 30, 1}, {Format::Q4_0, 10, 5}}},
                           {"b", {{Format::Q6_K, 6, 1}, {Format::Q8_0, 7, 1}}}};
  for (const std::uint64_t budget : {std::uint64_t{36}, std::uint64_t{1000}, ~std::uint64_t{0}}) {
    const auto answer = allocate(classes, budget);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer.value().why, Termination::Optimal);
    EXPECT_EQ(answer.value().choice, (std::vector{Format::Q8_0, Format::Q6_K}));
    EXPECT_EQ(answer.value().multiplier, 0);
  }
}

TEST(Allocator, EqualCandidatesGoToTheLowerFormatId) {
  const Classes classes = {{"a", {{Format::Q6_K, 5, 1}, {Format::Q4_K, 5, 1}, {Format::Q5_K, 5, 1}}}};
  const auto answer = allocate(classes, 9);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().choice[0], Format::Q4_K);
}

TEST(Allocator, RefusesBadInputNamingTheClass) {
  const auto refused = [](const Classes& classes, std::string_view needle) {
    const auto answer = allocate(classes, 100);
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, ErrorCode::InvalidArgument);
    EXPECT_NE(answer.error().message.find(needle), std::string::npos) << answer.error().message;
  };
  refused({{"empty", {}}}, "'empty'");
  refused({{"minus", {{Format::Q8_0, 1, -1}}}}, "'minus'");
  refused({{"nan", {{Format::Q8_0, 1, std::nan("")}}}}, "'nan'");
  refused({{"inf", {{Format::Q8_0, 1, INFINITY}}}}, "'inf'");
  refused({{"a", {{Format::Q8_0, 1, 1e308}}}, {"b", {{Format::Q8_0, 1, 1e308}}}}, "'b'");
  refused({{"a", {{Format::Q8_0, std::uint64_t{1} << 61, 1}}},
           {"b", {{Format::Q8_0, std::uint64_t{1} << 61, 1}}}},
          "'b'");
  refused({{"wide", std::vector<Candidate>(kMaxCandidates + 1)}}, "'wide'");
  AllocatorLimits limits;
  limits.max_seconds = std::nan("");
  EXPECT_FALSE(allocate(Classes{}, 1, limits));
}

// Equal answers whatever the order in which classes and candidates are given, and from run to run.
TEST(Allocator, DoesNotDependOnTheOrderGiven) {
  Engine random(5);
  for (const Family& family : kFamilies) {
    for (int trial = 0; trial < 20; ++trial) {
      Classes classes = make_classes(random, family, 20, 8, 100);
      for (CandidateClass& one : classes)
        one.candidates.resize(std::min<std::size_t>(one.candidates.size(), 8));
      const std::uint64_t low = smallest_bytes(classes);
      const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
      const auto first = allocate(classes, budget);
      ASSERT_TRUE(first);
      Classes shuffled = classes;
      std::ranges::shuffle(shuffled, random);
      for (CandidateClass& one : shuffled) std::ranges::shuffle(one.candidates, random);
      const auto second = allocate(shuffled, budget);
      ASSERT_TRUE(second);
      EXPECT_EQ(first.value().states, second.value().states);
      for (std::size_t c = 0; c < classes.size(); ++c) {
        const auto at =
            std::ranges::find(shuffled, classes[c].name, &CandidateClass::name) - shuffled.begin();
        EXPECT_EQ(first.value().choice[c], second.value().choice[static_cast<std::size_t>(at)])
            << family.name << " " << classes[c].name;
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

// The Lagrangian of the original problem at the reported multiplier, from scratch in long doubles.
long double independent_bound(const Classes& classes, std::uint64_t budget, double multiplier) {
  long double bound = -static_cast<long double>(multiplier) * static_cast<long double>(budget);
  for (const CandidateClass& one : classes) {
    long double least = std::numeric_limits<long double>::infinity();
    for (const Candidate& candidate : one.candidates)
      least = std::min(least,
                       static_cast<long double>(candidate.cost) +
                           static_cast<long double>(multiplier) * static_cast<long double>(candidate.bytes));
    bound += least;
  }
  return bound;
}

// Two classes at a time, every pair of items: no exchange may improve a proven optimum.
void expect_no_better_exchange(const Classes& classes, std::uint64_t budget, const Allocation& answer) {
  const std::uint64_t spare = budget - answer.bytes;
  const double tolerance = static_cast<double>(classes.size()) * answer.cost_unit;
  for (std::size_t a = 0; a < classes.size(); ++a) {
    const Candidate& now_a = classes[a].candidates[answer.index[a]];
    for (const Candidate& new_a : classes[a].candidates) {
      for (std::size_t b = a + 1; b < classes.size(); ++b) {
        const Candidate& now_b = classes[b].candidates[answer.index[b]];
        for (const Candidate& new_b : classes[b].candidates) {
          if (new_a.bytes + new_b.bytes > now_a.bytes + now_b.bytes + spare) continue;
          ASSERT_GE(new_a.cost + new_b.cost, now_a.cost + now_b.cost - tolerance);
        }
      }
    }
  }
}

TEST(Allocator, ModelsOfRealShapesAreProvenOptimal) {
  for (const auto& instance : {benchmarks::dense_8b(7), benchmarks::moe_35b(7), benchmarks::moe_671b(7)}) {
    benchmarks::Random random(8);
    for (int i = 0; i < 12; ++i) {
      const std::uint64_t budget = instance.smallest + random.next() % (instance.largest - instance.smallest);
      const auto answer = allocate(instance.classes, budget);
      ASSERT_TRUE(answer);
      check_answer(instance.classes, budget, answer.value());
      EXPECT_EQ(answer.value().why, Termination::Optimal) << instance.name << " " << budget;
      const long double bound = independent_bound(instance.classes, budget, answer.value().multiplier);
      const double objective = answer.value().objective;
      EXPECT_LE(bound, static_cast<long double>(objective) * (1 + 1e-9L));
      // The reported bound is as good as the recomputed one: it counts whole steps of
      // bytes, so it may be better.
      EXPECT_GE(answer.value().lp_bound, static_cast<double>(bound) - 1e-9 * objective);
      EXPECT_LE(answer.value().lp_bound, objective * (1 + 1e-9));
      EXPECT_LE(static_cast<double>(instance.classes.size()) * answer.value().cost_unit, 1e-9 * objective);
      if (i == 0) expect_no_better_exchange(instance.classes, budget, answer.value());
    }
  }
}

// Part of a dense model against the recursion over every number of bytes, in steps of their common divisor.
TEST(Allocator, AgreesWithWeightsOnTensorsOfARealModel) {
  const auto instance = benchmarks::dense_8b(12);
  // Seven layers without embedding and output: all bytes are multiples of 2^15.
  constexpr std::uint64_t kStep = 1 << 15;
  const Classes classes(instance.classes.begin() + 2, instance.classes.begin() + 2 + 49);
  Classes in_steps = classes;
  for (CandidateClass& one : in_steps) {
    for (Candidate& candidate : one.candidates) {
      ASSERT_EQ(candidate.bytes % kStep, 0U);
      candidate.bytes /= kStep;
    }
  }
  const std::uint64_t low = smallest_bytes(classes);
  const std::uint64_t high = largest_bytes(classes);
  for (const std::uint64_t budget :
       {low + (high - low) / 7, low + (high - low) / 3, low + (high - low) / 4 * 3}) {
    const auto expected = reference::by_weights(in_steps, budget / kStep);
    const auto answer = allocate(classes, budget);
    ASSERT_TRUE(answer);
    check_answer(classes, budget, answer.value());
    EXPECT_EQ(answer.value().why, Termination::Optimal);
    EXPECT_NEAR(answer.value().objective, expected->cost, 1e-11 * expected->cost);
    EXPECT_EQ(answer.value().bytes, expected->bytes * kStep);
  }
}

TEST(Allocator, CopiesTakeFormatsInTheOrderOfTheirNames) {
  Classes classes;
  for (const char* name : {"d", "b", "a", "c"})
    classes.push_back({name, {{Format::Q8_0, 34, 1}, {Format::Q2_K, 10, 9}, {Format::Q4_K, 18, 4}}});
  // 34 + 18 + 18 + 18 (cost 13) fits; format ids: Q8_0 8, Q4_K 12.
  const auto answer = allocate(classes, 88);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer.value().choice, (std::vector{Format::Q4_K, Format::Q4_K, Format::Q8_0, Format::Q4_K}));
}

// Bytes without a common step and costs nearly proportional to them: states multiply, and limits are reached.
Classes hard_instance(std::size_t count) {
  Engine random(9);
  Classes classes;
  for (std::size_t c = 0; c < count; ++c) {
    CandidateClass one{fmt::format("t{}", c), {}};
    const std::uint64_t base = 1000000000 + below(random, 1000000000);
    for (std::size_t i = 0; i < 6; ++i) {
      const std::uint64_t bytes = base + i * (100000000 + below(random, 50000000));
      one.candidates.push_back(
          {format_number(i), bytes,
           1e10 - static_cast<double>(bytes) + 1e5 * static_cast<double>(random() % 1000)});
    }
    classes.push_back(std::move(one));
  }
  return classes;
}

TEST(Allocator, LimitsGiveAnHonestGap) {
  const Classes classes = hard_instance(60);
  const std::uint64_t budget = (smallest_bytes(classes) + largest_bytes(classes)) / 2 + 12345;
  const auto exact = allocate(classes, budget);
  ASSERT_TRUE(exact);
  check_answer(classes, budget, exact.value());
  double best_known = exact.value().objective;
  AllocatorLimits few_states;
  few_states.max_states = 50;
  AllocatorLimits little_memory;
  little_memory.max_memory_bytes = 1 << 14;
  AllocatorLimits no_time;
  no_time.max_seconds = 0;
  for (const auto& [limits, why] :
       {std::pair{few_states, Termination::StateLimit}, std::pair{little_memory, Termination::StateLimit},
        std::pair{no_time, Termination::TimeLimit}}) {
    const auto limited = allocate(classes, budget, limits);
    ASSERT_TRUE(limited);
    check_answer(classes, budget, limited.value());
    EXPECT_EQ(limited.value().why, why);
    EXPECT_GT(limited.value().gap(), 0);
    EXPECT_LE(limited.value().lower_bound, best_known * (1 + 1e-9));
    EXPECT_GE(limited.value().objective, exact.value().lower_bound * (1 - 1e-9));
    EXPECT_GE(
        limited.value().lower_bound,
        static_cast<double>(independent_bound(classes, budget, limited.value().multiplier)) * (1 - 1e-9));
    EXPECT_LE(limited.value().peak_states, std::max<std::uint64_t>(limits.max_states, 2));
    EXPECT_LE(limited.value().peak_memory_bytes, limits.max_memory_bytes);
  }
}

TEST(Allocator, StopsAtTheGapAskedFor) {
  const Classes classes = hard_instance(60);
  const std::uint64_t budget = (smallest_bytes(classes) + largest_bytes(classes)) / 2 + 12345;
  AllocatorLimits limits;
  limits.relative_gap = 0.01;
  const auto answer = allocate(classes, budget, limits);
  ASSERT_TRUE(answer);
  check_answer(classes, budget, answer.value());
  EXPECT_EQ(answer.value().why, Termination::GapReached);
  EXPECT_GT(answer.value().gap(), 0);
  EXPECT_LE(answer.value().gap(), 0.01 * answer.value().objective);
}

// Hundreds of classes that are exact copies: symmetry must not multiply the states.
TEST(Allocator, CopiesOfOneClassStaySmall) {
  Classes classes;
  for (int c = 0; c < 700; ++c)
    classes.push_back({fmt::format("t{}", c),
                       {{Format::Q2_K, 84, 58},
                        {Format::Q3_K, 110, 20},
                        {Format::Q4_K, 144, 4.3},
                        {Format::Q5_K, 176, 1.1},
                        {Format::Q6_K, 210, 0.3},
                        {Format::Q8_0, 272, 0.02}}});
  for (const std::uint64_t budget : {60001U, 76543U, 100000U, 123457U, 180000U}) {
    const auto answer = allocate(classes, budget);
    ASSERT_TRUE(answer);
    check_answer(classes, budget, answer.value());
    EXPECT_EQ(answer.value().why, Termination::Optimal);
    EXPECT_LT(answer.value().peak_states, 5000U);
  }
}

// What an answer to "at least `least` bytes" must satisfy, against the slow solvers' word.
void expect_filled(const Classes& classes, std::uint64_t least, std::uint64_t budget,
                   std::optional<reference::Answer> (*solver)(std::span<const CandidateClass>, std::uint64_t,
                                                              std::uint64_t)) {
  const auto result = allocate_filled(classes, least, budget);
  ASSERT_TRUE(result) << result.error().message;
  const auto& [answer, unfilled, in_window, proven_empty] = result.value();
  check_answer(classes, budget, unfilled);
  check_answer(classes, budget, answer);
  if (unfilled.why == Termination::BudgetTooSmall) {
    EXPECT_EQ(answer.why, Termination::BudgetTooSmall);
    return;
  }
  EXPECT_EQ(answer.why, Termination::Optimal);
  const auto expected = solver(classes, budget, least);
  ASSERT_EQ(in_window, expected.has_value());
  EXPECT_EQ(proven_empty, !expected);
  if (unfilled.bytes >= least) {  // nothing to fill
    EXPECT_EQ(answer.index, unfilled.index);
    EXPECT_EQ(answer.least_bytes, 0U);
    EXPECT_EQ(answer.objective, expected->cost);
    return;
  }
  if (expected) {
    EXPECT_EQ(answer.least_bytes, least);
    EXPECT_GE(answer.bytes, least);
    EXPECT_EQ(answer.objective, expected->cost);
    return;
  }
  // A wider window was taken: what may stay unused doubled, until a choice lay in it.
  EXPECT_LT(answer.bytes, least);
  if (answer.least_bytes == 0) {
    EXPECT_EQ(answer.index, unfilled.index);
    return;
  }
  EXPECT_GE(answer.bytes, answer.least_bytes);
  EXPECT_EQ(answer.objective, solver(classes, budget, answer.least_bytes)->cost);
}

TEST(Filled, AgreesWithBruteForceOnSmallInstances) {
  Engine random(21);
  std::size_t filled = 0;
  std::size_t empty = 0;
  for (const Family& family : kFamilies) {
    for (int trial = 0; trial < 500; ++trial) {
      const Classes classes =
          make_classes(random, family, 1 + below(random, 6), 8, trial % 3 == 0 ? 1000 : 60);
      const std::uint64_t low = smallest_bytes(classes);
      const std::uint64_t budget =
          low - std::min<std::uint64_t>(low, 2) + below(random, largest_bytes(classes) - low + 5);
      const std::uint64_t least = budget - std::min(budget, below(random, 1 + below(random, 30)));
      SCOPED_TRACE(fmt::format("{}, trial {}: {} to {}", family.name, trial, least, budget));
      expect_filled(classes, least, budget, reference::brute_force);
      const auto result = allocate_filled(classes, least, budget);
      filled += result.value().in_window && result.value().answer.least_bytes > 0;
      empty += !result.value().in_window;
      if (testing::Test::HasFailure()) return;
    }
  }
  // The instances are what they are meant to be.
  EXPECT_GT(filled, 500U);
  EXPECT_GT(empty, 500U);
}

TEST(Filled, AgreesWithWeightsOnMediumInstances) {
  Engine random(22);
  for (const Family& family : kFamilies) {
    for (int trial = 0; trial < 25; ++trial) {
      const Classes classes = make_classes(random, family, 10 + below(random, 40), 10, 100);
      const std::uint64_t low = smallest_bytes(classes);
      const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 2);
      SCOPED_TRACE(fmt::format("{}, trial {}", family.name, trial));
      expect_filled(classes, budget - std::min(budget, below(random, 6)), budget, reference::by_weights);
      if (testing::Test::HasFailure()) return;
    }
  }
}

// Real shapes at the sizes where the optimum leaves most unused, against the recursion over weights.
TEST(Filled, AgreesWithWeightsOnTensorsOfARealModel) {
  const auto instance = benchmarks::dense_8b(12);
  constexpr std::uint64_t kStep = 1 << 15;
  const Classes classes(instance.classes.begin() + 2, instance.classes.begin() + 2 + 49);
  Classes in_steps = classes;
  for (CandidateClass& one : in_steps)
    for (Candidate& candidate : one.candidates) candidate.bytes /= kStep;
  const std::uint64_t low = smallest_bytes(classes);
  const std::uint64_t high = largest_bytes(classes);
  std::size_t filled = 0;
  for (std::uint64_t i = 10; i < 20; ++i) {
    const std::uint64_t budget = low + (high - low) / 20 * i + 4711;
    const std::uint64_t least = budget - budget / 10000;
    const auto expected = reference::by_weights(in_steps, budget / kStep, (least + kStep - 1) / kStep);
    const auto result = allocate_filled(classes, least, budget);
    ASSERT_TRUE(result);
    check_answer(classes, budget, result.value().answer);
    ASSERT_TRUE(expected);
    EXPECT_TRUE(result.value().in_window);
    EXPECT_GE(result.value().answer.bytes, least);
    EXPECT_EQ(result.value().answer.why, Termination::Optimal);
    EXPECT_NEAR(result.value().answer.objective, expected->cost, 1e-11 * expected->cost);
    filled += result.value().answer.least_bytes > 0;
  }
  EXPECT_GT(filled, 0U);
}

// L(lambda) of a window, from scratch: bytes are priced from the end of it that binds.
TEST(Filled, MultiplierProvesABoundOfEitherSign) {
  Engine random(23);
  std::size_t negative = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const Classes classes = make_classes(random, kFamilies[0], 3 + below(random, 20), 8, 1000);
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
    const auto result = allocate_filled(classes, budget - std::min<std::uint64_t>(budget, 3), budget);
    ASSERT_TRUE(result);
    const Allocation& answer = result.value().answer;
    if (answer.least_bytes == 0) continue;
    negative += answer.multiplier < 0;
    const std::uint64_t end = answer.multiplier < 0 ? answer.least_bytes : budget;
    const long double bound = independent_bound(classes, end, answer.multiplier);
    EXPECT_LE(bound, static_cast<long double>(answer.objective) * (1 + 1e-9L));
    EXPECT_GE(answer.lp_bound, static_cast<double>(bound) - 1e-9 * answer.objective);
  }
  EXPECT_GT(negative, 20U);
}

TEST(Filled, RuinousCandidatesDoNotMakeTheUnitCoarse) {
  // 12 bytes need one of the dear ones in neither class; 14 do in one.
  const Classes classes = {
      {"a", {{Format::Q2_K, 2, 1e-3}, {Format::Q4_K, 4, 1e-4}, {Format::Q8_0, 6, 1e300}}},
      {"b", {{Format::Q2_K, 4, 3e-3}, {Format::Q4_K, 6, 5e-3}, {Format::Q8_0, 8, 1e300}}}};
  const auto cheap = allocate_filled(classes, 9, 10);
  ASSERT_TRUE(cheap);
  EXPECT_EQ(cheap.value().answer.choice, (std::vector{Format::Q4_K, Format::Q4_K}));
  EXPECT_LT(cheap.value().answer.cost_unit, 1e-15);
  const auto dear = allocate_filled(classes, 14, 15);
  ASSERT_TRUE(dear);
  EXPECT_EQ(dear.value().answer.choice, (std::vector{Format::Q8_0, Format::Q8_0}));
}

TEST(Filled, BeyondTheLargestChoiceTheOptimumStands) {
  const Classes classes = {{"a", {{Format::Q2_K, 2, 9}, {Format::Q4_K, 4, 5}, {Format::Q8_0, 6, 1}}}};
  for (const std::uint64_t budget : {std::uint64_t{100}, ~std::uint64_t{0}}) {
    const auto result = allocate_filled(classes, budget - 1, budget);
    ASSERT_TRUE(result);
    EXPECT_FALSE(result.value().in_window);
    EXPECT_TRUE(result.value().proven_empty);
    EXPECT_EQ(result.value().answer.bytes, 6U);
    EXPECT_EQ(result.value().answer.why, Termination::Optimal);
  }
  EXPECT_FALSE(allocate_filled(classes, 7, 6));
  EXPECT_TRUE(allocate_filled({}, 7, 8));
}

TEST(Filled, DoesNotDependOnTheOrderGiven) {
  Engine random(24);
  for (int trial = 0; trial < 100; ++trial) {
    const Classes classes = make_classes(random, kFamilies[trial % std::size(kFamilies)], 15, 8, 100);
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
    const auto first = allocate_filled(classes, budget, budget);
    ASSERT_TRUE(first);
    Classes shuffled = classes;
    std::ranges::shuffle(shuffled, random);
    for (CandidateClass& one : shuffled) std::ranges::shuffle(one.candidates, random);
    const auto second = allocate_filled(shuffled, budget, budget);
    ASSERT_TRUE(second);
    for (std::size_t c = 0; c < classes.size(); ++c) {
      const auto at = std::ranges::find(shuffled, classes[c].name, &CandidateClass::name) - shuffled.begin();
      EXPECT_EQ(first.value().answer.choice[c], second.value().answer.choice[static_cast<std::size_t>(at)]);
    }
  }
}

// Caps on states, memory and time: whatever comes back is a valid choice with bounds that enclose the
// optimum.
TEST(Filled, LimitsGiveAnHonestAnswer) {
  Engine random(25);
  std::size_t stopped = 0;
  for (int trial = 0; trial < 300; ++trial) {
    const Classes classes = make_classes(random, kFamilies[trial % 3], 20, 8, 200);
    const std::uint64_t low = smallest_bytes(classes);
    const std::uint64_t budget = low + below(random, largest_bytes(classes) - low + 1);
    const std::uint64_t least = budget - std::min<std::uint64_t>(budget, 1);
    AllocatorLimits limits;
    limits.max_states = 2 + below(random, 60);
    if (trial % 10 == 0) limits.max_seconds = 0;
    const auto result = allocate_filled(classes, least, budget, limits);
    ASSERT_TRUE(result);
    const FilledAllocation& filled = result.value();
    check_answer(classes, budget, filled.answer);
    const auto exact = reference::by_weights(classes, budget, least);
    EXPECT_TRUE(!filled.proven_empty || !exact);
    EXPECT_EQ(filled.in_window, filled.answer.bytes >= least);
    if (filled.in_window) {
      EXPECT_GE(filled.answer.objective, exact->cost);
    }
    const auto widened = reference::by_weights(classes, budget, filled.answer.least_bytes);
    ASSERT_TRUE(widened);
    EXPECT_LE(filled.answer.lower_bound, widened->cost * (1 + 1e-12));
    stopped += filled.answer.why != Termination::Optimal;
  }
  EXPECT_GT(stopped, 30U);
}

TEST(Allocator, TerminationNames) {
  std::set<std::string_view> names;
  for (const Termination why : {Termination::Optimal, Termination::GapReached, Termination::StateLimit,
                                Termination::TimeLimit, Termination::BudgetTooSmall})
    names.insert(to_string(why));
  EXPECT_EQ(names.size(), 5U);
}

}  // namespace
}  // namespace quantfit::optimizer

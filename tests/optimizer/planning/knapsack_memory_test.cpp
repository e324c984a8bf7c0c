#include "optimizer/planning/knapsack_memory.h"

#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

Result<Knapsack> of_bytes(std::uint64_t bytes) {
  Knapsack knapsack;
  knapsack.fixed_bytes = bytes;
  return knapsack;
}

TEST(KnapsackMemory, MakesOnceWhatIsTheSame) {
  KnapsackMemory memory;
  int made = 0;
  const std::vector<std::uint32_t> all = {0, 1, 2}, some = {0, 2};
  const auto get = [&](const KnapsackOptions& options, std::span<const std::uint32_t> subset) {
    const auto found =
        memory.get(options, subset, [&] { return of_bytes(static_cast<std::uint64_t>(++made)); });
    return found.value()->fixed_bytes;
  };
  EXPECT_EQ(get({}, all), 1);
  EXPECT_EQ(get({}, all), 1);
  EXPECT_EQ(get({}, some), 2);
  EXPECT_EQ(get({.alignment = 32}, all), 3);
  EXPECT_EQ(get({.max_nmse = 0.5}, all), 4);
  EXPECT_EQ(get({}, all), 1);
  EXPECT_EQ(get({.alignment = 32}, all), 3);
  EXPECT_EQ(made, 4);
}

TEST(KnapsackMemory, ForgetsWhatWasNotAskedForLately) {
  KnapsackMemory memory;
  int made = 0;
  const auto get = [&](std::uint64_t alignment) {
    const std::vector<std::uint32_t> subset = {0};
    return memory
        .get({.alignment = alignment}, subset, [&] { return of_bytes(static_cast<std::uint64_t>(++made)); })
        .value();
  };
  const auto first = get(1);
  for (std::uint64_t alignment = 2; alignment < 100; ++alignment) {
    EXPECT_EQ(get(alignment)->fixed_bytes, alignment);
    EXPECT_EQ(get(1), first);  // asked for all the time
  }
  EXPECT_NE(get(2)->fixed_bytes, 2);
}

TEST(KnapsackMemory, KeepsNoFailures) {
  KnapsackMemory memory;
  const std::vector<std::uint32_t> subset = {0};
  const auto failed =
      memory.get({}, subset, []() -> Result<Knapsack> { return fail(ErrorCode::Infeasible, "no format"); });
  EXPECT_FALSE(failed);
  EXPECT_TRUE(memory.get({}, subset, [] { return of_bytes(7); }));
}

}  // namespace
}  // namespace quantfit::optimizer

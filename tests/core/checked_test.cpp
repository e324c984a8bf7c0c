#include "core/checked.h"

#include <gtest/gtest.h>

namespace quantfit {
namespace {

constexpr std::uint64_t kMost = kSaturated;
constexpr std::uint64_t kHalf = std::uint64_t{1} << 63;

TEST(Checked, SumsUpToTheLastBit) {
  EXPECT_EQ(checked_sum(2, 3), 5U);
  EXPECT_EQ(checked_sum(kMost - 1, 1), kMost);
  EXPECT_EQ(checked_sum(kMost, 1), std::nullopt);
  EXPECT_EQ(checked_sum(kHalf, kHalf), std::nullopt);
  EXPECT_EQ(saturating_sum(kHalf, kHalf - 1), kMost);
  EXPECT_EQ(saturating_sum(kHalf, kHalf + 5), kMost);
}

TEST(Checked, ProductsOfAnyNumberOfFactors) {
  EXPECT_EQ(checked_product(7), 7U);
  EXPECT_EQ(checked_product(std::uint64_t{1} << 32, 3U, 2), std::uint64_t{6} << 32);
  EXPECT_EQ(checked_product(kHalf, 2), std::nullopt);
  // The order does not matter, and 0 wins.
  EXPECT_EQ(checked_product(kMost, kMost, 0), 0U);
  EXPECT_EQ(checked_product(0, kMost, kMost), 0U);
  EXPECT_EQ(saturating_product(kHalf, 2, 1), kMost);
  EXPECT_EQ(saturating_product(kHalf, 2, 0), 0U);
  EXPECT_EQ(saturating_product(kHalf, 1), kHalf);
}

TEST(Checked, RoundsUpToMultiples) {
  EXPECT_EQ(checked_round_up(0, 32), 0U);
  EXPECT_EQ(checked_round_up(1, 32), 32U);
  EXPECT_EQ(checked_round_up(64, 32), 64U);
  EXPECT_EQ(checked_round_up(10, 7), 14U);
  EXPECT_EQ(checked_round_up(kMost - 31, 32), kMost - 31);
  EXPECT_EQ(checked_round_up(kMost - 30, 32), std::nullopt);
  EXPECT_EQ(checked_round_up(kMost, 1), kMost);
  EXPECT_EQ(saturating_round_up(kMost - 30, 32), kMost);
}

}  // namespace
}  // namespace quantfit

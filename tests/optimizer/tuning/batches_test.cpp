#include "optimizer/tuning/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace quantfit::test {
namespace {

using namespace tuning;

TEST(TuningBatches, AnEighthIsHeldBackEvenly) {
  for (const std::size_t windows : {8, 9, 31, 100, 1000}) {
    const Split split = split_of(windows);
    EXPECT_EQ(split.training.size() + split.held_back.size(), windows);
    EXPECT_EQ(split.held_back.size(), std::clamp<std::size_t>(windows / 8, 4, 32)) << windows;
    const std::set<std::uint32_t> all(split.training.begin(), split.training.end());
    for (const std::uint32_t one : split.held_back) EXPECT_FALSE(all.contains(one));
    EXPECT_LT(split.held_back.front(), windows / 2);
    EXPECT_GE(split.held_back.back(), windows / 2);
  }
}

TEST(TuningBatches, EveryPassSeesEveryWindowInAnotherOrder) {
  WindowList windows(12);
  for (std::uint32_t w = 0; w < 12; ++w) windows[w] = w;
  Batches batches(windows, 4, 7), same(windows, 4, 7), other(windows, 4, 8);
  bool differs = false;
  for (int pass = 0; pass < 2; ++pass) {
    std::set<std::uint32_t> seen;
    for (int step = 0; step < 3; ++step) {
      const WindowList list = batches.next();
      EXPECT_TRUE(std::ranges::is_sorted(list));
      EXPECT_EQ(list, same.next());
      differs = differs || list != other.next();
      seen.insert(list.begin(), list.end());
    }
    EXPECT_EQ(seen.size(), 12U);
  }
  EXPECT_TRUE(differs);
  EXPECT_EQ(Batches(windows, 40, 1).size(), 12U);
}

}  // namespace
}  // namespace quantfit::test

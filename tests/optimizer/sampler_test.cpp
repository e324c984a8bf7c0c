#include "optimizer/sampler.h"

#include <gtest/gtest.h>

#include <set>

namespace quantfit::optimizer {
namespace {

TEST(RowSample, VisitsEveryRowOnce) {
  for (const std::uint64_t rows : {1U, 2U, 3U, 7U, 64U, 100U, 255U, 1000U})
    for (const std::uint64_t matrices : {1U, 2U, 8U, 13U}) {
      const RowSample sample("blk.0.ffn_up.weight", rows, matrices, 1);
      std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
      for (std::uint64_t i = 0; i < sample.size(); ++i) {
        const RowSample::Row row = sample.at(i);
        ASSERT_LT(row.matrix, matrices);
        ASSERT_LT(row.row, rows);
        seen.emplace(row.matrix, row.row);
      }
      EXPECT_EQ(seen.size(), rows * matrices) << rows << " x " << matrices;
    }
}

TEST(RowSample, ReachesEveryMatrixBeforeAnyTwice) {
  const RowSample sample("blk.0.ffn_up_exps.weight", 500, 128, 1);
  std::set<std::uint64_t> matrices;
  for (std::uint64_t i = 0; i < 128; ++i) matrices.insert(sample.at(i).matrix);
  EXPECT_EQ(matrices.size(), 128U);
}

TEST(RowSample, PrefixesAreSpreadOverTheRows) {
  // Among the first n rows no gap is much longer than rows / n (three-distance theorem for the golden ratio).
  const std::uint64_t rows = 10000;
  const RowSample sample("output.weight", rows, 1, 1);
  std::set<std::uint64_t> taken;
  for (std::uint64_t i = 0; i < 100; ++i) taken.insert(sample.at(i).row);
  std::uint64_t previous = *taken.rbegin();
  for (const std::uint64_t row : taken) {
    const std::uint64_t gap = row > previous ? row - previous : row + rows - previous;
    EXPECT_LE(gap, 3 * rows / 100);
    previous = row;
  }
}

TEST(RowSample, DependsOnNameAndSeed) {
  const auto first = [](std::string_view name, std::uint64_t seed) {
    return RowSample(name, 100000, 1, seed).at(0).row;
  };
  EXPECT_EQ(first("a", 1), first("a", 1));
  EXPECT_NE(first("a", 1), first("b", 1));
  EXPECT_NE(first("a", 1), first("a", 2));
}

TEST(SamplingPlan, TextNamesEveryParameter) {
  SamplingPlan plan;
  const std::string text = plan.to_text();
  plan.seed = 2;
  EXPECT_NE(plan.to_text(), text);
  plan = {};
  plan.precision = 0.5;
  EXPECT_NE(plan.to_text(), text);
}

}  // namespace
}  // namespace quantfit::optimizer

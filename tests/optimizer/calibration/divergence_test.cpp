#include "optimizer/calibration/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quantfit::test {
namespace {

using namespace calibration;

TEST(DivergenceFigures, MatchNumbersWorkedOutByHand) {
  const std::vector<BaseScore> base = {{1.0}, {2.0}, {3.0}, {4.0}};
  const std::vector<CandidateScore> candidate = {
      {1.1, 0.1, -0.02, true}, {2.3, 0.3, -0.04, true}, {2.9, 0.2, 0.01, false}, {4.5, 0.8, -0.03, true}};
  const DivergenceFigures figures = divergence_figures(base, candidate, 2);
  EXPECT_EQ(figures.positions, 4U);
  EXPECT_NEAR(perplexity(base).value, std::exp(2.5), 1e-12);
  EXPECT_NEAR(figures.perplexity.value, std::exp(2.7), 1e-12);
  EXPECT_NEAR(figures.log_ratio.value, 0.2, 1e-12);
  // Differences 0.1, 0.3, -0.1, 0.5: squares around 0.2 sum to 0.2; sqrt(0.2 / 3 / 4).
  EXPECT_NEAR(figures.log_ratio.error, std::sqrt(0.2 / 12), 1e-12);
  EXPECT_NEAR(figures.divergence.value, 0.35, 1e-12);
  // Chunk means 0.2 and 0.5: spread 0.15^2 * 2 over 1 and 2.
  EXPECT_NEAR(figures.divergence_chunk_error, 0.15, 1e-12);
  EXPECT_EQ(figures.divergence_max, 0.8);
  EXPECT_NEAR(figures.divergence_quantiles[4], 0.25, 1e-12);  // the median
  EXPECT_NEAR(figures.divergence_quantiles[3], 0.3 + 0.7 * 0.5, 1e-12);
  EXPECT_NEAR(figures.probability_rms.value, std::sqrt((4e-4 + 16e-4 + 1e-4 + 9e-4) / 4), 1e-12);
  EXPECT_NEAR(figures.same_top.value, 0.75, 1e-12);
  EXPECT_GT(figures.correlation, 0.98);
  EXPECT_LT(figures.correlation, 1);
}

TEST(PairedComparison, SeesADifferenceThatIsSmallerThanTheSpread) {
  std::vector<CandidateScore> a, b;
  for (int chunk = 0; chunk < 50; ++chunk)
    for (int i = 0; i < 4; ++i) {
      const double common = 0.1 + 0.08 * std::sin(chunk);
      const double noise = 0.002 * std::sin(17.0 * chunk + i);
      a.push_back({.divergence = common + noise});
      b.push_back({.divergence = 1.02 * common});
    }
  const PairedComparison comparison = compare(a, b, 4);
  EXPECT_TRUE(comparison.decided());
  EXPECT_LT(comparison.difference.value, 0);
  EXPECT_NEAR(comparison.ratio.value, 1 / 1.02, 2e-3);
  const PairedComparison same = compare(a, a, 4);
  EXPECT_EQ(same.difference.value, 0);
  EXPECT_FALSE(same.decided());
  EXPECT_NEAR(same.ratio.value, 1, 1e-15);
}

TEST(DivergenceFigures, NothingScoredIsNoNumber) {
  const DivergenceFigures figures = divergence_figures({}, {}, 4);
  EXPECT_EQ(figures.positions, 0U);
  EXPECT_EQ(figures.divergence.value, 0);
}

}  // namespace
}  // namespace quantfit::test

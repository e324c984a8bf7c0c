#include "optimizer/tuning/moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "optimizer/tuning/adam.h"

namespace quantfit::test {
namespace {

using namespace tuning;

TEST(TuningMoments, WholeOnesComeBackAsTheyWere) {
  Moments moments(2, 32, MomentForm::Whole);
  float mean[32], square[32], a[32], b[32];
  for (int i = 0; i < 32; ++i) mean[i] = std::sin(static_cast<float>(i)), square[i] = mean[i] * mean[i];
  moments.store(1, mean, square, 1);
  moments.load(1, a, b);
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(a[i] == mean[i] && b[i] == square[i]);
  moments.load(0, a, b);
  EXPECT_EQ(a[3], 0);
  EXPECT_EQ(Moments::memory(2, 32, MomentForm::Whole), 2U * 32 * 8);
  EXPECT_EQ(Moments::memory(2, 32, MomentForm::Bytes), 2U * (2 * 32 + 2));
}

// Numbers of very different sizes: within an eighth of themselves, and right on average.
TEST(TuningMoments, InBytesAreCloseAndRightOnAverage) {
  constexpr std::size_t kBlock = 256;
  Moments moments(1, kBlock, MomentForm::Bytes);
  std::mt19937 random(3);
  float mean[kBlock], square[kBlock], a[kBlock], b[kBlock];
  for (std::size_t i = 0; i < kBlock; ++i) {
    square[i] = std::exp(-static_cast<float>(random() % 1400) / 100.0F) * 1e-9F;
    mean[i] = (random() % 2 == 0 ? 1.0F : -1.0F) * std::sqrt(square[i]) * 0.3F;
  }
  mean[7] = square[7] = 0;
  std::vector<double> means(kBlock), squares(kBlock);
  constexpr int kTimes = 4000;
  for (int t = 1; t <= kTimes; ++t) {
    moments.store(0, mean, square, static_cast<std::uint64_t>(t));
    moments.load(0, a, b);
    for (std::size_t i = 0; i < kBlock; ++i) {
      ASSERT_LE(std::abs(a[i] - mean[i]), 0.1251F * std::abs(mean[i]) + 1e-30F) << i;
      ASSERT_LE(std::abs(b[i] - square[i]), 0.1251F * square[i] + 1e-30F) << i;
      means[i] += static_cast<double>(a[i]) / kTimes;
      squares[i] += static_cast<double>(b[i]) / kTimes;
    }
  }
  for (std::size_t i = 0; i < kBlock; ++i) {
    EXPECT_NEAR(means[i], mean[i], 0.01 * std::abs(static_cast<double>(mean[i])) + 1e-30) << i;
    EXPECT_NEAR(squares[i], square[i], 0.01 * static_cast<double>(square[i]) + 1e-30) << i;
  }
}

// A slow decay is not rounded away, and no step is larger than Adam's own may be.
TEST(TuningMoments, InBytesFollowAdam) {
  constexpr std::size_t kBlock = 32;
  Moments whole(1, kBlock, MomentForm::Whole), bytes(1, kBlock, MomentForm::Bytes);
  std::mt19937 random(5);
  double way[2] = {0, 0}, largest = 0;
  std::vector<double> place[2] = {std::vector<double>(kBlock), std::vector<double>(kBlock)};
  for (std::uint64_t step = 1; step <= 300; ++step) {
    const Adam adam({.rate = 0.01, .step = step}, 1e-12);
    double gradient[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i)
      // Large at first, then a thousandth of it; every third comes seldom.
      gradient[i] =
          i % 3 == 0 && step % 50 != 1
              ? 0
              : (step < 20 ? 1e-3 : 1e-6) * (1 + 0.5 * (static_cast<double>(random() % 1000) / 500 - 1));
    for (const int which : {0, 1}) {
      Moments& moments = which == 0 ? whole : bytes;
      float mean[kBlock], square[kBlock];
      moments.load(0, mean, square);
      for (std::size_t i = 0; i < kBlock; ++i) {
        const double change = adam.change(gradient[i], mean[i], square[i]);
        place[which][i] += change;
        way[which] += std::abs(change);
        largest = std::max(largest, std::abs(change));
      }
      moments.store(0, mean, square, step);
    }
  }
  EXPECT_NEAR(way[1] / way[0], 1, 0.05);
  EXPECT_LT(largest, 0.04);
  for (std::size_t i = 1; i < kBlock; i += 3) EXPECT_NEAR(place[1][i] / place[0][i], 1, 0.1) << i;
}

}  // namespace
}  // namespace quantfit::test

// Adam (Kingma and Ba 2015, algorithm 1).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace quantfit::tuning {

struct StepRule {
  double rate = 0;         // of the numbers, in their units
  std::uint64_t step = 1;  // counted from 1, for the corrections of the moments
};

class Adam {
 public:
  // `smallest`: beside the root of the mean square, nats.
  Adam(const StepRule& rule, double smallest) : rate_(rule.rate), smallest_(smallest) {
    for (std::uint64_t i = 0; i < rule.step; ++i) mean_left_ *= kMeanDecay, square_left_ *= kSquareDecay;
  }
  // Takes the gradient into the moments; the change of the number.
  [[nodiscard]] double change(double gradient, float& mean, float& square) const {
    const double m = kMeanDecay * static_cast<double>(mean) + (1 - kMeanDecay) * gradient;
    const double s = kSquareDecay * static_cast<double>(square) + (1 - kSquareDecay) * gradient * gradient;
    mean = static_cast<float>(m);
    square = static_cast<float>(s);
    if (m == 0) return 0;
    return -rate_ * m / (1 - mean_left_) / (std::sqrt(s / (1 - square_left_)) + smallest_);
  }

  // The same of n numbers, in binary32. No two arrays overlap.
  void changes(const float* __restrict gradient, std::size_t n, float* __restrict mean,
               float* __restrict square, float* __restrict change) const {
    constexpr auto kMean = static_cast<float>(kMeanDecay), kSquare = static_cast<float>(kSquareDecay);
    constexpr auto kToMean = static_cast<float>(1 - kMeanDecay);
    constexpr auto kToSquare = static_cast<float>(1 - kSquareDecay);
    const auto rate = static_cast<float>(-rate_ / (1 - mean_left_));
    const auto grown = static_cast<float>(1 / (1 - square_left_));
    const auto smallest = static_cast<float>(smallest_);
    for (std::size_t i = 0; i < n; ++i) {
      const float m = kMean * mean[i] + kToMean * gradient[i];
      const float s = kSquare * square[i] + kToSquare * gradient[i] * gradient[i];
      mean[i] = m;
      square[i] = s;
      change[i] = rate * m / (std::sqrt(s * grown) + smallest);
    }
  }

 private:
  static constexpr double kMeanDecay = 0.9, kSquareDecay = 0.99;
  double rate_, smallest_;
  double mean_left_ = 1, square_left_ = 1;
};

}  // namespace quantfit::tuning

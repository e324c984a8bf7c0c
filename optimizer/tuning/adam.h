// Adam (Kingma and Ba 2015, algorithm 1) on one number.
#pragma once

#include <cmath>
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

 private:
  static constexpr double kMeanDecay = 0.9, kSquareDecay = 0.99;
  double rate_, smallest_;
  double mean_left_ = 1, square_left_ = 1;
};

}  // namespace quantfit::tuning

// One try of a level: what it did to the divergence of the text held back.
#pragma once

#include <cstdint>
#include <vector>

#include "optimizer/tuning/level.h"
#include "optimizer/tuning/moments.h"

namespace quantfit::tuning {

// Mean divergence of the text held back, nats per token; errors are those of means over windows.
struct Gain {
  double before = 0, after = 0;
  double difference = 0, difference_error = 0;  // after - before, windows paired
  [[nodiscard]] double ratio() const { return before > 0 ? after / before : 1; }
  // By more than two standard errors: what is kept must be better than chance.
  [[nodiscard]] bool decided() const { return difference < -2 * difference_error; }
  [[nodiscard]] bool worse() const { return difference > 2 * difference_error; }

  friend bool operator==(const Gain&, const Gain&) = default;
};

// From mean divergences of the same windows, of which there are two at least.
[[nodiscard]] Gain gain_of(const std::vector<double>& before, const std::vector<double>& after);

struct Look {  // at the text held back
  std::uint32_t step = 0;
  double divergence = 0;

  friend bool operator==(const Look&, const Look&) = default;
};

struct Attempt {
  Level level = Level::None;
  MomentForm moments = MomentForm::Whole;  // of codes
  double rates = 1;                        // share of those of the options
  std::uint32_t steps = 0, best_step = 0;
  Gain gain;                                 // of the best step
  std::uint64_t codes = 0, codes_moved = 0;  // that could move, and that differ from the file's
  bool kept = false;
  bool given_up = false;  // at the last look: what was held back had become worse
  std::vector<Look> looks;

  friend bool operator==(const Attempt&, const Attempt&) = default;
};

}  // namespace quantfit::tuning

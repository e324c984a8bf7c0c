// Which windows of a text are trained on, in which order, and which are held back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>

#include "optimizer/tuning/teacher.h"

namespace quantfit::tuning {

// An eighth of the windows is held back, 4 to 32, spread evenly.
struct Split {
  WindowList training, held_back;
};
[[nodiscard]] Split split_of(std::size_t windows);

// Of one figure per window.
[[nodiscard]] double mean_of(std::span<const double> values);

// The windows of every step: the training windows in a new order for every pass over them.
class Batches {
 public:
  Batches(WindowList windows, std::size_t per_step, std::uint32_t seed);

  // Windows of a step.
  [[nodiscard]] std::size_t size() const { return per_step_; }
  // In the order of the text: neighbours lie together in memory.
  [[nodiscard]] WindowList next();

 private:
  void shuffle();
  WindowList windows_;
  std::size_t per_step_;
  std::size_t at_ = 0;
  std::mt19937_64 random_;
};

}  // namespace quantfit::tuning

#include "optimizer/tuning/batches.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace quantfit::tuning {

Split split_of(std::size_t windows) {
  const std::size_t held = std::clamp<std::size_t>(windows / 8, 4, 32);
  Split out;
  for (std::size_t w = 0; w < windows; ++w) {
    // Window w is held back when a multiple of windows / held falls into it, counted from the middle.
    const bool is_held = (w * held + held / 2) / windows != ((w + 1) * held + held / 2) / windows;
    (is_held ? out.held_back : out.training).push_back(static_cast<std::uint32_t>(w));
  }
  return out;
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Batches::Batches(WindowList windows, std::size_t per_step, std::uint32_t seed)
    : windows_(std::move(windows)), per_step_(std::min(per_step, windows_.size())), random_(seed) {}

WindowList Batches::next() {
  WindowList out;
  while (out.size() < per_step_) {
    if (at_ == 0) shuffle();
    out.push_back(windows_[at_]);
    at_ = (at_ + 1) % windows_.size();
  }
  std::ranges::sort(out);
  return out;
}

// Not std::shuffle, whose result is the library's choice.
void Batches::shuffle() {
  for (std::size_t i = windows_.size(); i > 1; --i) std::swap(windows_[i - 1], windows_[random_() % i]);
}

}  // namespace quantfit::tuning

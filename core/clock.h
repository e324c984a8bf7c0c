// How long something took.
#pragma once

#include <chrono>

namespace quantfit {

// Never set back.
using Clock = std::chrono::steady_clock;

// Wall time, in seconds.
[[nodiscard]] inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace quantfit

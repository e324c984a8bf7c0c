// Internal: sizes of the scratch that recurrences work in.
#pragma once

#include <cstddef>

namespace quantfit::kernels::recurrence_layout {

// Tokens between kept states: memory for tokens / kBlock + kBlock states, least near the square root of the
// usual window.
inline constexpr std::size_t kBlock = 32;

constexpr std::size_t padded(std::size_t n) {
  return (n + 15) / 16 * 16;
}

}  // namespace quantfit::kernels::recurrence_layout

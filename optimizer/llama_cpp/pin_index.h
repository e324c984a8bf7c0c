// Which of many pins counts for a tensor: a recipe has one for every tensor, so trying them in turn would
// take the square of their number.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "optimizer/llama_cpp/format_pin.h"

namespace quantfit::optimizer {

// The name that a pattern is found in and in no other, where the pattern is one whole name between '^' and
// '$'.
[[nodiscard]] std::optional<std::string> whole_name(const Pattern& pattern);

// Refers to the pins, which must outlive it and stay as they are.
class PinIndex {
 public:
  explicit PinIndex(std::span<const FormatPin> pins);

  // Index of the first pin whose pattern is found in the name. One look-up, and a search for every pattern
  // that is no whole name and stands before what the look-up found.
  [[nodiscard]] std::optional<std::size_t> first_in(std::string_view name) const;

 private:
  std::span<const FormatPin> pins_;
  std::unordered_map<std::string, std::size_t> whole_names_;  // -> the first such pin
  std::vector<std::size_t> others_;                           // ascending
};

}  // namespace quantfit::optimizer

#include "optimizer/llama_cpp/pin_index.h"

#include <algorithm>

namespace quantfit::optimizer {
namespace {

constexpr std::string_view kSpecial = R"(\^$.|?*+()[]{})";

// '^' and '$' also match at line breaks inside a text.
bool is_one_line(std::string_view name) {
  return std::ranges::all_of(name, [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

std::optional<std::string> whole_name(const Pattern& pattern) {
  std::string_view text = pattern.text();
  if (text.size() < 2 || text.front() != '^' || text.back() != '$') return std::nullopt;
  text = text.substr(1, text.size() - 2);
  std::string name;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\';
    if (escape && ++i == text.size()) return std::nullopt;  // the '$' is no anchor
    if (escape != (kSpecial.find(text[i]) != std::string_view::npos)) return std::nullopt;
    name += text[i];
  }
  return name;
}

PinIndex::PinIndex(std::span<const FormatPin> pins) : pins_(pins) {
  for (std::size_t i = 0; i < pins.size(); ++i) {
    if (auto name = whole_name(pins[i].pattern))
      whole_names_.emplace(std::move(*name), i);
    else
      others_.push_back(i);
  }
}

std::optional<std::size_t> PinIndex::first_in(std::string_view name) const {
  if (!is_one_line(name)) {
    const auto found =
        std::ranges::find_if(pins_, [&](const FormatPin& pin) { return pin.pattern.found_in(name); });
    return found == pins_.end() ? std::nullopt
                                : std::optional(static_cast<std::size_t>(found - pins_.begin()));
  }
  std::optional<std::size_t> first;
  if (const auto found = whole_names_.find(std::string(name)); found != whole_names_.end())
    first = found->second;
  for (const std::size_t i : others_) {
    if (first && i > *first) break;
    if (pins_[i].pattern.found_in(name)) return i;
  }
  return first;
}

}  // namespace quantfit::optimizer

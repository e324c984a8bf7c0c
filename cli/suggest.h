// The nearest of the words that exist, for messages about one that does not.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantfit::cli {

// Insertions, deletions, replacements and swaps of neighbours that turn one into the other, upper and lower
// case alike.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to `word`, the first of equals; empty when none is near enough to be meant.
[[nodiscard]] std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

// "; did you mean 'quantize'?", or empty.
[[nodiscard]] std::string suggestion(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace quantfit::cli

// The major Unicode category of every code point, in the version that the pre-tokenizers of the field use.
#pragma once

#include <cstdint>
#include <span>

namespace quantfit {

inline constexpr char32_t kLastCodePoint = 0x10FFFF;

// From `first` on, up to the next range.
struct CategoryRange {
  char32_t first;
  char category;  // L letter, N number, P punctuation, S symbol, M mark, Z separator, C other, - unassigned
};

// Ascending, the first at 0, the last to kLastCodePoint.
[[nodiscard]] std::span<const CategoryRange> unicode_categories();

// `code_point` is at most kLastCodePoint.
[[nodiscard]] char unicode_category(char32_t code_point);

}  // namespace quantfit

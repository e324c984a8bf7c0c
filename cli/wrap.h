// Prose broken into lines of a given width.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quantfit::cli {

// Code points of UTF-8 text: the columns it takes on a terminal, wide and combining characters aside.
[[nodiscard]] std::size_t columns_of(std::string_view text);

// Lines of at most `width` columns, broken at blanks, each behind `indent` of them; with trailing newline.
// Words longer than a line stand alone.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t indent, std::size_t width);

// `head`, then `text` from `column` on; below the head where that reaches further.
[[nodiscard]] std::string hanging(std::string_view head, std::string_view text, std::size_t column,
                                  std::size_t width);

}  // namespace quantfit::cli

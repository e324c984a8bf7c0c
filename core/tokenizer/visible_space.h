// Vocabularies that are not byte-level write a space as U+2581.
#pragma once

#include <string>
#include <string_view>

namespace quantfit {

inline constexpr std::string_view kVisibleSpace = "\xE2\x96\x81";

[[nodiscard]] std::string with_visible_spaces(std::string_view text);
[[nodiscard]] std::string without_visible_spaces(std::string_view text);

}  // namespace quantfit

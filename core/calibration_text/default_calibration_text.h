// A text for calibration that ships with the program, for people who have none of their own.
#pragma once

#include <string_view>

namespace quantfit {

// Prose, code, several languages and scripts, dialogue and mathematics, in small pieces one after another, so
// that any large part of it has all of them. UTF-8; lives as long as the program. Sources and licences:
// README.md.
[[nodiscard]] std::string_view default_calibration_text();

}  // namespace quantfit

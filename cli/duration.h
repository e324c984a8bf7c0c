// Durations as people write them.
#pragma once

#include <string_view>

#include "core/error.h"

namespace quantfit::cli {

// Seconds: "90s", "45m", "2h", "1h30m", "1d"; fractions too ("1.5h"). InvalidArgument for anything else, a
// number without its unit, and nothing at all.
[[nodiscard]] Result<double> parse_duration(std::string_view text);

}  // namespace quantfit::cli

// The curve for spreadsheets.
#pragma once

#include <string>

#include "cli/report/frontier_report.h"

namespace quantfit::cli {

// RFC 4180, first line the names of the columns; about `points` of the curve (0: all), then the
// static recipes.
[[nodiscard]] std::string to_csv(const FrontierReport& report, std::size_t points);

}  // namespace quantfit::cli

// The curve as a picture, for papers, model cards and web pages.
#pragma once

#include <string>

#include "cli/report/frontier_report.h"

namespace quantfit::cli {

// A whole SVG document: bits per weight against predicted error (logarithmic), the curve, and a named diamond
// per static recipe. Readable on light and dark pages.
[[nodiscard]] std::string to_svg(const FrontierReport& report);

}  // namespace quantfit::cli

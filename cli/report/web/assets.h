// The files of this folder, as the program carries them.
#pragma once

#include <string_view>

namespace quantfit::cli {

extern const std::string_view kReportPage;  // page.html, with {title}, {style}, {data}, {script} to be filled
extern const std::string_view kReportStyle;   // report.css
extern const std::string_view kReportScript;  // report.js

}  // namespace quantfit::cli

// The files of this folder, as the program carries them.
#pragma once

#include <string_view>

namespace quantfit::cli {

extern const std::string_view kReportPage;  // page.html, with {title}, {style}, {data}, {script} to be filled
extern const std::string_view kReportStyle;   // drawing.css, report.css
extern const std::string_view kReportScript;  // the modules in one: defines drawReport(root, data)

}  // namespace quantfit::cli

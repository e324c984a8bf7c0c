// Answers for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/report/diff_report.h"
#include "cli/report/frontier_report.h"
#include "cli/report/model_report.h"
#include "cli/report/plan_report.h"

namespace quantfit::cli {

[[nodiscard]] nlohmann::ordered_json to_json(const ModelReport& report, bool metadata);
[[nodiscard]] nlohmann::ordered_json to_json(const PlanReport& report);
[[nodiscard]] nlohmann::ordered_json to_json(const FrontierReport& report);
[[nodiscard]] nlohmann::ordered_json to_json(const DiffReport& report);

// Indented, with a newline at the end; bytes that are no UTF-8 replaced by U+FFFD, what terminals obey
// escaped.
[[nodiscard]] std::string document_text(const nlohmann::ordered_json& document);

}  // namespace quantfit::cli

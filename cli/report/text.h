// Answers for people: lines and tables, foreign names escaped.
#pragma once

#include <cstddef>
#include <string>

#include "cli/report/diff_report.h"
#include "cli/report/frontier_report.h"
#include "cli/report/model_report.h"
#include "cli/report/plan_report.h"

namespace quantfit::cli {

[[nodiscard]] std::string to_text(const ModelReport& report, bool all_tensors, bool metadata);

// The static recipes nearest in size stand beside the answer.
[[nodiscard]] std::string to_text(const PlanReport& report, bool all_tensors);

// Where the file is, and the command that runs it.
[[nodiscard]] std::string written_text(const PlanReport& report);

// What a memory budget is spent on, line by line; empty for other targets.
[[nodiscard]] std::string memory_table(const PlanReport& report);

// One sentence on why a target cannot be met, with the range that can.
[[nodiscard]] std::string infeasible_sentence(const PlanReport& report);

// At most about `points` of the curve (0: all), then the static recipes; with `steps` every change of format.
[[nodiscard]] std::string to_text(const FrontierReport& report, std::size_t points, bool steps);

[[nodiscard]] std::string to_text(const DiffReport& report);

}  // namespace quantfit::cli

// State files for people and, in short, for programs.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "cli/report/state_report.h"
#include "state/merge.h"

namespace quantfit::cli {

// One line per file. `now`: seconds since 1970.
[[nodiscard]] std::string list_text(std::span<const StateReport> reports, std::int64_t now);
[[nodiscard]] nlohmann::ordered_json list_document(std::span<const StateReport> reports);

// All that is in one file, short of single values; ends with what may go.
[[nodiscard]] std::string to_text(const StateReport& report, std::int64_t now);

[[nodiscard]] std::string to_text(const state::MergeSummary& summary);
[[nodiscard]] nlohmann::ordered_json to_json(const state::MergeSummary& summary);

}  // namespace quantfit::cli

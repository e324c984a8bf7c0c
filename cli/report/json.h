// Answers for programs.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "cli/report/diff_report.h"
#include "cli/report/frontier_report.h"
#include "cli/report/model_report.h"
#include "cli/report/plan_report.h"
#include "core/error.h"

namespace quantfit::cli {

// Version of the documents' shape (docs/schema): raised when a member changes its meaning or goes.
inline constexpr int kSchemaVersion = 1;

// The members that every document begins with: schema version, program, kind ("plan", "error", ...).
[[nodiscard]] nlohmann::ordered_json document_of(std::string_view kind);

[[nodiscard]] nlohmann::ordered_json to_json(const ModelReport& report, bool metadata);
// One answer; a document of the kind "plan" holds one per target.
[[nodiscard]] nlohmann::ordered_json to_json(const PlanReport& report);
[[nodiscard]] nlohmann::ordered_json plan_document(std::span<const PlanReport> reports);
// Rows of an answer.
[[nodiscard]] nlohmann::ordered_json to_json(const TensorReport& tensor);
[[nodiscard]] nlohmann::ordered_json to_json(const GainReport& gain);
[[nodiscard]] nlohmann::ordered_json to_json(const StaticReport& recipe);
[[nodiscard]] nlohmann::ordered_json to_json(const StaticWithoutReport& recipe);
// About `points` of the curve (0: all).
[[nodiscard]] nlohmann::ordered_json to_json(const FrontierReport& report, std::size_t points);
[[nodiscard]] nlohmann::ordered_json to_json(const DiffReport& report);

// Why there is no answer: the document of a command that failed.
[[nodiscard]] nlohmann::ordered_json error_document(std::span<const Error> errors, int exit_status);

// Indented, with a newline at the end; bytes that are no UTF-8 replaced by U+FFFD, what terminals obey
// escaped.
[[nodiscard]] std::string document_text(const nlohmann::ordered_json& document);
// The same on one line.
[[nodiscard]] std::string line_text(const nlohmann::ordered_json& document);

}  // namespace quantfit::cli

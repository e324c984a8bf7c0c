// All that is known about a model and its answers, for a report in a browser: as JSON and as one page of
// HTML.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/report/frontier_report.h"
#include "cli/report/objective_report.h"
#include "cli/report/plan_report.h"
#include "optimizer/job/evaluation.h"
#include "optimizer/job/inputs.h"
#include "state/contents.h"

namespace quantfit::cli {

struct SummaryReport {
  // One number measured on text.
  struct Measured {
    std::string candidate, text;
    std::uint64_t chunks = 0;
    std::string quantity;
    double value = 0;
    std::optional<double> standard_error;
  };

  std::string model_name;
  std::string architecture;    // empty: unknown
  std::uint64_t elements = 0;  // weights
  std::uint64_t bytes = 0;     // of the source's files; 0: unknown
  std::string error_unit = "relative";
  FrontierReport frontier;                   // empty curve: unknown
  std::optional<ObjectiveReport> objective;  // what errors were weighed by
  std::vector<PlanReport> answers;
  std::vector<Measured> evaluations;
  std::vector<std::pair<std::string, std::string>> provenance;  // name and text, in order
};

// Of a job; `command` as it was given. The state file, when there is one, adds what evaluations measured.
[[nodiscard]] SummaryReport make_summary(const optimizer::JobInputs& inputs,
                                         const optimizer::PreparedJob& job, FrontierReport frontier,
                                         std::vector<PlanReport> answers, const std::string& command);

// Adds what was measured just now and is in no state file.
void add_evaluation(const optimizer::EvaluatedFiles& evaluated, SummaryReport& report);
void add_evaluation(const state::Evaluation& evaluation, SummaryReport& report);

// Of a state file alone: the recipes that were saved in it, and of the run that the newest one is from (else
// the one of the most tensors) the curve and what its errors were weighed by.
[[nodiscard]] SummaryReport make_summary(const state::Contents& contents, const std::string& path);

// The document of the kind "report".
[[nodiscard]] nlohmann::ordered_json to_json(const SummaryReport& report);

// One page that needs nothing else.
[[nodiscard]] std::string to_html(const SummaryReport& report);

}  // namespace quantfit::cli

// Documents of the kind "plan" as text, for many answers about one job: what does not depend on the target is
// put into words once.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/report/plan_report.h"

namespace quantfit::cli {

// Const functions may be called by many threads.
class PlanTexts {
 public:
  // Model, job and comparisons outlive it and do not change. Takes about 300 bytes for every format that a
  // tensor may take.
  PlanTexts(const Model& model, const optimizer::PreparedJob& job,
            const optimizer::StaticComparisons& statics);

  // What line_text() makes of the plan_document() of these answers, to the byte.
  [[nodiscard]] std::string line(std::span<const optimizer::Solution> solutions) const;

 private:
  // A tensor in one format.
  struct Row {
    Format format = Format::F32;
    std::string tensor;              // its row as JSON
    std::optional<GainReport> gain;  // what it could do with more bytes ...
    std::string gain_text;           // ... as JSON
  };

  [[nodiscard]] Row make_row(std::size_t index, Format format) const;
  void add_rows(const optimizer::Solution& solution, std::string& text) const;

  const Model& model_;
  const optimizer::PreparedJob& job_;
  StaticReports statics_;
  std::string statics_text_;            // the members that hold them
  std::vector<std::vector<Row>> rows_;  // per tensor, of the formats it may take
};

}  // namespace quantfit::cli

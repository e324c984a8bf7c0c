// Several recipes for one target, each written to a temporary file and measured by running it on text that
// nothing else was measured on; the best is kept. What is predicted chooses well among formats of a tensor
// and less well among whole recipes: errors of many tensors add up in ways that no prediction sees.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/row_kernels.h"
#include "optimizer/calibration/divergence.h"
#include "optimizer/calibration/text.h"
#include "optimizer/job/evaluation.h"
#include "optimizer/job/job.h"
#include "optimizer/job/solve.h"

namespace quantfit::optimizer {

// A text in two parts: what a job measures with, and the windows at its end that judge the results.
struct SplitText {
  calibration::TextRequest measured, held_back;
  std::uint32_t held_windows = 0;
};
// An eighth of the windows, at most kMostHeldWindows. Errors of read_text; InvalidArgument for fewer than
// eight windows.
inline constexpr std::uint32_t kMostHeldWindows = 48;
[[nodiscard]] Result<SplitText> split_text(const Model& model, const calibration::TextRequest& text);

struct Contender {
  std::string rule;  // what it is the best for: "measured sensitivities", "the static recipe Q3_K_M", ...
  Recipe recipe;
  std::uint64_t file_bytes = 0;
  double predicted_error = 0;  // by the job's own sensitivities
  // Measured, nats per token; the error is that over chunks. Zero before the contest.
  calibration::Estimate divergence;
};

// Sensitivities at the weights of a recipe (second_look.h), or nothing where the model runs forward only.
using SecondLook = std::function<Result<std::optional<std::vector<double>>>(const Recipe&)>;

// At most `most` different recipes within the budgets, the one of `solution` first, then the best static one
// where one fits (what is kept is never measured worse than it), then those by other rules: sensitivities at
// the weights of the first recipe (`second_look`, asked for at most once; empty: without), those of the
// prior, a blend of both, and costs that rise faster or slower than the errors. The solution alone for given
// recipes and budgets that cannot be met.
[[nodiscard]] Result<std::vector<Contender>> find_contenders(const JobInputs& inputs, const PreparedJob& job,
                                                             const JobRequest& request, const Budget& budget,
                                                             const Solution& solution, unsigned most,
                                                             const SecondLook& second_look,
                                                             const JobControl& control);

struct ContestRequest {
  EvaluationRequest evaluation;  // on the text held back
  std::filesystem::path folder;  // files are written to and removed again; all recipes at once
};

struct Contest {
  std::vector<Contender> contenders;  // in the order given
  std::size_t best = 0;               // of the lowest divergence
  std::string text;
  std::uint64_t chunks = 0;
  double seconds = 0;
};

// Writes and measures all of them. Errors of write_model and evaluate_files; nothing is left in the folder.
[[nodiscard]] Result<Contest> hold_contest(const JobInputs& inputs, const JobRequest& request,
                                           std::vector<Contender> contenders, const ContestRequest& contest,
                                           const kernels::RowKernels& kernels, const JobControl& control);

}  // namespace quantfit::optimizer

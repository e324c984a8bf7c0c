// The best recipe for one target, and how good it is known to be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/recipe.h"
#include "optimizer/allocation/allocator.h"
#include "optimizer/job/budget.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/job.h"
#include "optimizer/job/request.h"
#include "optimizer/output/model_writer.h"

namespace quantfit::optimizer {

// What demanding a share of a budget came to. Bytes as the budget counts them.
struct Fill {
  std::uint64_t wanted_bytes = 0;  // the share of the budget
  std::uint64_t least_bytes = 0;   // the answer is the best of recipes with so many bytes or more; 0: of all
  std::uint64_t unfilled_bytes = 0;  // of the best recipe for the budget alone
  bool met = true;                   // the answer uses the share
  bool proven_impossible = false;    // no recipe does
};

// The answer as one memory sees it.
struct MemoryAnswer {
  BudgetKind kind = BudgetKind::TensorData;
  std::optional<std::uint64_t> budget_bytes;  // nothing: no limit
  std::uint64_t shortfall_bytes = 0;          // cache and buffers alone need so much more
  std::uint64_t used_bytes = 0;               // never above the budget when feasible
  std::uint64_t smallest_bytes = 0;           // reachable range
  std::uint64_t largest_bytes = 0;
  double multiplier = 0;     // objective saved by one more byte
  std::optional<Fill> fill;  // with a share to fill

  [[nodiscard]] bool feasible() const {
    return shortfall_bytes == 0 && (!budget_bytes || *budget_bytes >= smallest_bytes);
  }
};

// How near the answer is to the best there is, over all memories. The objective is the predicted error plus
// what speed is worth.
struct Proof {
  Termination why = Termination::Optimal;
  double objective = 0;    // of the recipe answered
  double lower_bound = 0;  // of any recipe within the budgets, and as full as they are demanded to be
  double cost_unit = 0;    // the coarsest unit that costs were rounded to for the proof
  std::uint64_t states = 0;
  double seconds = 0;
  bool of_full_ones_only = false;  // holds among recipes that are as full as this one (see Fill::least_bytes)

  [[nodiscard]] double gap() const { return objective - lower_bound; }
};

// What running several recipes came to (contest.h).
struct Judgement {
  std::string rule;  // that found the recipe which is kept
  std::uint32_t candidates = 0;
  double divergence = 0;  // its own, measured on the text that was held back: nats per token
};

struct Solution {
  Target target;
  bool feasible = false;               // false: a budget is below the smallest recipe; `recipe` is that one
  std::vector<MemoryAnswer> memories;  // as Budget::memories; the first is the one the result is told in
  std::uint64_t elements = 0;
  std::uint64_t tensor_bytes = 0;  // of the recipe
  std::uint64_t file_bytes = 0;
  double error_sum = 0;        // of s_t N(t, f), tensors without a choice included
  double predicted_error = 0;  // what that sum foresees (planning/foresight.h)
  state::SensitivityUnit error_unit = state::SensitivityUnit::Relative;  // of every error and cost here
  bool error_is_known = true;       // false: a recipe with formats that were not measured
  double unfilled_error = 0;        // with a share to fill: of the best recipe for the budgets alone
  std::string static_recipe;        // the named mixture that beat a stopped search; empty: the search's own
  std::optional<Proof> proof;       // of a search; nothing for given recipes, and for others that ran better
  std::optional<Judgement> judged;  // with several candidates
  std::vector<std::string> limits;  // what limited the answer, as sentences
  std::vector<std::string> notes;   // what a person should know about the request
  std::optional<MemoryEstimate> estimate;
  Recipe recipe;
  std::vector<GgufKeyValue> keys;  // what a file made by it says about its origin; none when not wanted

  [[nodiscard]] double bpw() const {
    return elements == 0 ? 0 : 8.0 * static_cast<double>(tensor_bytes) / static_cast<double>(elements);
  }
  [[nodiscard]] const MemoryAnswer* find(BudgetKind kind) const;
  [[nodiscard]] bool is_filled() const;  // a memory has a share to fill
};

// What errors are measured in: "nats of KL divergence", or "relative: only ratios mean something".
[[nodiscard]] std::string_view unit_text(state::SensitivityUnit unit);

// The answer for one of the job's budgets, remembered in the state file when there is one. An infeasible
// budget needs no measurements. The objective is never above that of a static recipe which keeps to the same
// constraints and budgets.
[[nodiscard]] Result<Solution> choose(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                                      const Budget& budget, const JobControl& control);

// The answer with another recipe within the same budgets, which `judgement` preferred, or the same one:
// sizes, errors and provenance follow. Remembered as above.
[[nodiscard]] Result<void> keep(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                                const Budget& budget, Recipe recipe, Judgement judgement, Solution& solution);

// How files of this job are written; keys are left to the caller.
[[nodiscard]] WriterOptions writer_options(const JobInputs& inputs, const JobRequest& request);

}  // namespace quantfit::optimizer

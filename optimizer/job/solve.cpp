#include "optimizer/job/solve.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/out_of_memory.h"
#include "optimizer/job/provenance.h"
#include "optimizer/job/search.h"
#include "optimizer/job/yardstick.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/planning/recipe_cost.h"

namespace quantfit::optimizer {
namespace {

Solution unanswered(const JobInputs& inputs, const PreparedJob& job, const Budget& budget) {
  Solution solution;
  solution.target = budget.target;
  solution.feasible = budget.feasible();
  solution.elements = inputs.model.total_elements();
  solution.error_unit = job.error_unit;
  solution.notes = budget.notes;
  solution.estimate = budget.estimate;
  for (const MemoryBudget& memory : budget.memories) {
    MemoryAnswer answer;
    answer.kind = memory.kind;
    answer.budget_bytes = memory.bytes;
    answer.shortfall_bytes = memory.shortfall_bytes;
    answer.smallest_bytes = memory.smallest_bytes;
    answer.largest_bytes = memory.largest_bytes;
    solution.memories.push_back(answer);
  }
  return solution;
}

Result<void> add_search(const JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                        const Budget& budget, const JobControl& control, Solution& solution) {
  AllocatorLimits limits = request.allocator;
  limits.cancel = &control.cancel;
  QF_ASSIGN(Found found, search(job, request, budget, limits));
  const KnapsackOptions options = knapsack_options(job, request, 1);
  const auto cost_of = [&](const Recipe& recipe) {
    return recipe_cost(job.candidates, job.measured.measurements, job.sensitivity, options, recipe);
  };
  solution.recipe = std::move(found.recipe);
  std::ranges::move(found.limits, std::back_inserter(solution.limits));
  std::ranges::move(found.notes, std::back_inserter(solution.notes));
  for (std::size_t m = 0; m < solution.memories.size(); ++m) {
    solution.memories[m].multiplier = found.multipliers[m];
    solution.memories[m].fill = found.fills[m];
  }
  if (const auto cost = request.min_fill ? cost_of(found.unfilled) : std::nullopt)
    solution.unfilled_error = job.foresight(cost->error);

  // An exact optimum cannot lose to a static recipe; a search that a limit stopped short might.
  if (found.proof.why != Termination::Optimal) {
    QF_ASSIGN(const auto better, best_static_recipe(inputs, job, request, budget, solution, found.ruinous));
    const auto cost = better ? cost_of(better->recipe) : std::nullopt;
    if (cost && cost->objective() < found.proof.objective) {
      solution.recipe.entries = better->recipe.entries;
      solution.static_recipe = better->name;
      found.proof.objective = cost->objective();
      found.proof.lower_bound = std::min(found.proof.lower_bound, found.proof.objective);
      solution.limits.push_back(
          fmt::format("the static recipe {} is better than what the stopped search found", better->name));
    }
  }
  solution.proof = found.proof;
  return outcome::success();
}

// What follows from the recipe of an answer: errors, sizes, provenance, and its place in the state file.
Result<void> settle(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                    const Budget& budget, Solution& solution) {
  const auto cost = recipe_cost(job.candidates, job.measured.measurements, job.sensitivity,
                                knapsack_options(job, request, 1), solution.recipe);
  solution.error_is_known = cost.has_value();
  solution.predicted_error = cost ? job.foresight(cost->error) : 0;
  solution.error_sum = cost ? cost->error : 0;
  solution.keys = provenance_keys(inputs, request, budget.target, solution.error_unit, &solution);
  QF_ASSIGN(const OutputLayout layout,
            output_layout(inputs.model, solution.recipe, inputs.importance_or_null(), solution.keys,
                          request.split));
  solution.tensor_bytes = layout.tensor_bytes;
  solution.file_bytes = layout.file_bytes;
  for (std::size_t m = 0; m < budget.memories.size(); ++m) {
    QF_ASSIGN(solution.memories[m].used_bytes,
              bytes_used(budget.memories[m], inputs.model.tensors(), solution.recipe));
    if (auto& fill = solution.memories[m].fill)
      fill->met = solution.memories[m].used_bytes >= fill->wanted_bytes;
  }
  solution.recipe.provenance = provenance_of(inputs, request, solution);
  if (inputs.store && solution.feasible && job.measured.run != 0)
    QF_TRY(remember(*inputs.store, job.measured.run, request, solution));
  return outcome::success();
}

}  // namespace

std::string_view unit_text(state::SensitivityUnit unit) {
  return unit == state::SensitivityUnit::Nats ? "nats of KL divergence"
                                              : "relative: only ratios mean something";
}

const MemoryAnswer* Solution::find(BudgetKind kind) const {
  const auto found = std::ranges::find(memories, kind, &MemoryAnswer::kind);
  return found == memories.end() ? nullptr : &*found;
}

bool Solution::is_filled() const {
  return std::ranges::any_of(memories, [](const MemoryAnswer& memory) { return memory.fill.has_value(); });
}

Result<Solution> choose(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                        const Budget& budget, const JobControl& control) {
  return or_out_of_memory("choosing formats", [&]() -> Result<Solution> {
    Solution solution = unanswered(inputs, job, budget);
    if (const auto* given = std::get_if<RecipeTarget>(&budget.target))
      solution.recipe = given->recipe;
    else if (solution.feasible)
      QF_TRY(add_search(inputs, job, request, budget, control, solution));
    else
      solution.recipe = smallest_recipe(job.candidates);

    QF_TRY(settle(inputs, job, request, budget, solution));
    return solution;
  });
}

Result<void> keep(JobInputs& inputs, const PreparedJob& job, const JobRequest& request, const Budget& budget,
                  Recipe recipe, Judgement judgement, Solution& solution) {
  return or_out_of_memory("keeping the best candidate", [&]() -> Result<void> {
    if (solution.recipe.entries != recipe.entries) {
      solution.limits.push_back(
          fmt::format("of {} candidates that were run {} is best", judgement.candidates, judgement.rule));
      solution.proof.reset();  // it is about the search's own answer
      solution.static_recipe.clear();
    }
    solution.recipe = std::move(recipe);
    solution.judged = std::move(judgement);
    return settle(inputs, job, request, budget, solution);
  });
}

WriterOptions writer_options(const JobInputs& inputs, const JobRequest& request) {
  WriterOptions writer;
  writer.error_model = request.sampler.error_model;
  writer.effort = request.sampler.effort;
  writer.threads = request.sampler.threads;
  writer.covariances = request.sampler.covariances;
  writer.source_fingerprint = inputs.model_fingerprint;
  writer.source_digest = inputs.known_digest;
  writer.split = request.split;
  writer.reuse = request.reuse;
  return writer;
}

}  // namespace quantfit::optimizer

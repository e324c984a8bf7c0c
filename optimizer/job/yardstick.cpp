#include "optimizer/job/yardstick.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "core/out_of_memory.h"
#include "core/progress.h"
#include "optimizer/job/preset.h"
#include "optimizer/planning/recipe_cost.h"

namespace quantfit::optimizer {
namespace {

// True when the recipe gives every tensor a format that it may take, and tied tensors one format.
bool keeps_constraints(std::span<const TensorCandidates> candidates, const Recipe& recipe) {
  std::unordered_map<std::string_view, Format> group_format;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Format format = recipe.entries[i].format;
    if (std::ranges::find(candidates[i].formats, format) == candidates[i].formats.end()) return false;
    if (!candidates[i].tie_group.empty() &&
        group_format.try_emplace(candidates[i].tie_group, format).first->second != format)
      return false;
  }
  return true;
}

// Some format of the recipe ruins a tensor that has a better choice.
bool is_ruinous(const PreparedJob& job, double max_nmse, const Recipe& recipe) {
  if (max_nmse <= 0) return false;
  for (std::size_t i = 0; i < job.candidates.size(); ++i) {
    const TensorCandidates& own = job.candidates[i];
    const auto error = [&](Format format) {
      return nmse_of(own, format, job.measured.measurements).value_or(0);
    };
    if (own.tie_group.empty() && error(recipe.entries[i].format) > max_nmse &&
        std::ranges::any_of(own.formats, [&](Format format) { return error(format) <= max_nmse; }))
      return true;
  }
  return false;
}

// The recipe fits every budget and fills it as demanded; what has no limit must not grow.
Result<bool> fits(const Model& model, const Budget& budget, const Solution& solution, const Recipe& recipe) {
  for (std::size_t m = 0; m < budget.memories.size(); ++m) {
    const MemoryBudget& memory = budget.memories[m];
    QF_ASSIGN(const std::uint64_t bytes, bytes_used(memory, model.tensors(), recipe));
    if (memory.bytes && bytes > *memory.bytes) return false;
    if (const auto& fill = solution.memories[m].fill; fill && bytes < fill->least_bytes) return false;
    if (!memory.bytes) {
      QF_ASSIGN(const std::uint64_t ours, bytes_used(memory, model.tensors(), solution.recipe));
      if (bytes > ours) return false;
    }
  }
  return true;
}

// The first format of the recipe that was not measured, as a phrase.
std::string not_measured(const PreparedJob& job, const Recipe& recipe) {
  for (std::size_t i = 0; i < job.candidates.size(); ++i)
    if (!nmse_of(job.candidates[i], recipe.entries[i].format, job.measured.measurements))
      return fmt::format("tensor '{}' was not measured as {}", recipe.entries[i].tensor,
                         name_of(recipe.entries[i].format));
  return "";
}

}  // namespace

Result<std::optional<NamedRecipe>> best_static_recipe(const JobInputs& inputs, const PreparedJob& job,
                                                      const JobRequest& request, const Budget& budget,
                                                      const Solution& solution, bool ruinous) {
  std::optional<NamedRecipe> best;
  double lowest = 0;
  for (const Preset& preset : all_presets()) {
    QF_ASSIGN(StaticRecipe resolved, ruled_preset(inputs, request.policy.rules, preset));
    Recipe& recipe = resolved.recipe;
    if (!keeps_constraints(job.candidates, recipe)) continue;
    if (!ruinous && is_ruinous(job, request.max_nmse, recipe)) continue;
    const auto cost = recipe_cost(job.candidates, job.measured.measurements, job.sensitivity,
                                  knapsack_options(job, request, 1), recipe);
    if (!cost || (best && cost->objective() >= lowest)) continue;
    QF_ASSIGN(const bool fitting, fits(inputs.model, budget, solution, recipe));
    if (!fitting) continue;
    lowest = cost->objective();
    best = NamedRecipe{std::string(preset.name), std::move(recipe)};
  }
  return best;
}

Result<StaticComparisons> compare_static_recipes(const JobInputs& inputs, const PreparedJob& job,
                                                 const JobRequest& request, const JobControl& control) {
  return or_out_of_memory("comparing with static recipes", [&]() -> Result<StaticComparisons> {
    StaticComparisons answer;
    const auto is_given = [](const Budget& budget) {
      return std::holds_alternative<RecipeTarget>(budget.target);
    };
    if (std::ranges::any_of(job.budgets, is_given)) return answer;
    std::vector<std::uint32_t> all(job.candidates.size());
    std::iota(all.begin(), all.end(), 0U);
    const auto knapsack_of = [&](const KnapsackOptions& options) {
      return make_knapsack(job.candidates, job.measured.measurements, job.sensitivity, options, all);
    };
    KnapsackOptions options = knapsack_options(job, request, 1);
    QF_ASSIGN(const Knapsack sound, knapsack_of(options));
    options.max_nmse = 0;
    QF_ASSIGN(const Knapsack with_ruinous, knapsack_of(options));
    AllocatorLimits limits = request.allocator;
    limits.cancel = &control.cancel;
    std::vector<const Preset*> presets;
    for (const Preset& preset : all_presets())
      if (is_quantized(traits(preset.type).default_format)) presets.push_back(&preset);
    const ProgressPhase phase(control.progress, "comparing static recipes", presets.size());
    for (const Preset* each : presets) {
      const Preset& preset = *each;
      control.progress.advance(1, preset.name);
      const auto leave_out = [&](std::string why) {
        answer.without.push_back({std::string(preset.name), std::move(why)});
      };
      if (preset.type == FileType::MXFP4_MOE && inputs.traits.expert_count == 0) {
        leave_out("it is made for models with experts");
        continue;
      }
      QF_ASSIGN(const StaticRecipe resolved, plain_preset(inputs, preset));
      const Recipe& recipe = resolved.recipe;
      if (!resolved.missing_importance.empty() && !request.policy.rules.low_bits_without_importance) {
        leave_out(
            fmt::format("it needs importance data, and '{}' has none", resolved.missing_importance.front()));
        continue;
      }
      const auto cost =
          recipe_cost(job.candidates, job.measured.measurements, job.sensitivity, options, recipe);
      if (!cost) {
        leave_out(not_measured(job, recipe));
        continue;
      }
      StaticComparison comparison;
      comparison.name = preset.name;
      for (std::size_t i = 0; i < recipe.entries.size(); ++i) {
        const TensorInfo& tensor = *job.candidates[i].tensor;
        QF_ASSIGN(const std::uint64_t bytes,
                  tensor_bytes(recipe.entries[i].format, tensor.row_length(), tensor.rows()));
        comparison.tensor_bytes += bytes;
      }
      comparison.bpw = 8.0 * static_cast<double>(comparison.tensor_bytes) /
                       static_cast<double>(std::max<std::uint64_t>(inputs.model.total_elements(), 1));
      comparison.predicted_error = job.foresight(cost->error);
      const Knapsack& knapsack = comparison.tensor_bytes >= sound.smallest_bytes ? sound : with_ruinous;
      if (comparison.tensor_bytes >= knapsack.smallest_bytes) {
        QF_ASSIGN(const Allocation best,
                  allocate(knapsack.classes, comparison.tensor_bytes - knapsack.fixed_bytes, limits));
        Recipe optimized = smallest_recipe(job.candidates);
        apply(knapsack, best, optimized);
        if (const auto ours =
                recipe_cost(job.candidates, job.measured.measurements, job.sensitivity, options, optimized))
          comparison.optimized_error = job.foresight(ours->error);
      }
      answer.compared.push_back(std::move(comparison));
    }
    std::ranges::stable_sort(answer.compared, {}, &StaticComparison::tensor_bytes);
    return answer;
  });
}

}  // namespace quantfit::optimizer

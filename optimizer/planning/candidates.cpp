#include "optimizer/planning/candidates.h"

#include <algorithm>
#include <iterator>

#include "optimizer/llama_cpp/model_traits.h"
#include "optimizer/llama_cpp/quantize_rules.h"

namespace quantfit::optimizer {

Result<ModelCandidates> find_candidates(const Model& model, const CandidatePolicy& policy) {
  QF_TRY(check_sources(model.tensors(), policy.allow_requantize));
  QF_ASSIGN(const ModelTraits facts, model_traits(model.metadata(), model.tensors()));
  const ConstraintRules& rules = policy.rules;
  QF_ASSIGN(Constraints constraints, resolve_constraints(facts, model.tensors(), rules));

  ModelCandidates answer;
  answer.notes = std::move(constraints.notes);
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    TensorChoices& choices = constraints.tensors[i];
    TensorCandidates entry;
    entry.tensor = &tensor;
    if (choices.kept) entry.kept_because = choices.reason;
    const bool listed = std::ranges::find(choices.formats, tensor.format) != choices.formats.end();
    if (!choices.group && (choices.may_keep || listed)) {
      // What takes more room than the source cannot be worth choosing; what takes as
      // much, only when asked for.
      const double source_bits = bits_per_weight(tensor.format);
      std::erase_if(choices.formats, [&](Format format) {
        const double bits = bits_per_weight(format);
        return format != tensor.format && (bits > source_bits || (bits == source_bits && rules.pool.empty()));
      });
      if (!listed) choices.formats.push_back(tensor.format);
    }
    entry.formats = std::move(choices.formats);
    if (choices.group) {
      entry.tie_group = constraints.groups[*choices.group].name;
      entry.formats = constraints.groups[*choices.group].formats;
    }
    answer.tensors.push_back(std::move(entry));
  }
  return answer;
}

std::vector<SamplingTask> sampling_tasks(std::span<const TensorCandidates> candidates) {
  std::vector<SamplingTask> tasks;
  for (const TensorCandidates& own : candidates) {
    SamplingTask task;
    task.tensor = own.tensor;
    std::ranges::copy_if(own.formats, std::back_inserter(task.formats),
                         [&](Format format) { return format != own.tensor->format; });
    if (!task.formats.empty()) tasks.push_back(std::move(task));
  }
  return tasks;
}

Recipe smallest_recipe(std::span<const TensorCandidates> candidates) {
  Recipe recipe;
  for (const TensorCandidates& own : candidates)
    recipe.entries.push_back({own.tensor->name, *std::ranges::min_element(own.formats, {}, [](Format f) {
                                return bits_per_weight(f);
                              })});
  return recipe;
}

}  // namespace quantfit::optimizer

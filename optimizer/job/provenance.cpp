#include "optimizer/job/provenance.h"

namespace quantfit::optimizer {

std::map<std::string, std::string> provenance_of(const JobInputs& inputs, const JobRequest& request,
                                                 const Solution& solution) {
  std::map<std::string, std::string> provenance = {
      {"program", "quantfit " + request.program_version},
      {"model", inputs.model.shards()[0].path.filename().string()},
      {"model fingerprint", inputs.model_fingerprint},
      {"target", to_text(solution.target)},
      {"bytes", std::to_string(solution.tensor_bytes)},
      {"bpw", fmt::format("{:.6f}", solution.bpw())},
  };
  if (solution.error_is_known) {
    provenance["predicted error"] = fmt::format("{:.9g}", solution.predicted_error);
    provenance["error unit"] = unit_text(solution.error_unit);
  }
  if (solution.proof) {
    provenance["gap"] = fmt::format("{:.3g}", solution.proof->gap());
    if (request.min_fill) provenance["min fill"] = request.min_fill->text;
    std::string& proof = provenance["proof"];
    proof = to_string(solution.proof->why);
    if (!solution.static_recipe.empty())
      proof +=
          fmt::format("; the static recipe {}, better than what the search found", solution.static_recipe);
    for (const MemoryAnswer& memory : solution.memories)
      if (memory.fill && memory.fill->least_bytes != 0)
        proof += fmt::format(", among recipes of {} bytes or more ({})", memory.fill->least_bytes,
                             to_string(memory.kind));
  }
  if (inputs.importance) {
    provenance["importance matrix"] = inputs.importance->path().filename().string();
    provenance["importance fingerprint"] = inputs.importance_fingerprint;
  }
  return provenance;
}

Result<void> remember(state::StateStore& store, state::RunId run, const JobRequest& request,
                      const Solution& solution) {
  state::SavedRecipe saved;
  saved.target = to_text(solution.target);
  if (request.min_fill) saved.target += fmt::format(", at least {} used", request.min_fill->text);
  const MemoryAnswer& first = solution.memories.front();
  saved.bytes = first.used_bytes;
  saved.budget_bytes = first.budget_bytes.value_or(first.used_bytes);
  saved.objective = solution.predicted_error;
  saved.lower_bound = solution.predicted_error - (solution.proof ? solution.proof->gap() : 0);
  saved.recipe = solution.recipe;
  return store.save_recipe(run, saved);
}

}  // namespace quantfit::optimizer

#include "optimizer/job/provenance.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/text.h"
#include "kernels/error_metric.h"
#include "kernels/row_kernels.h"
#include "optimizer/output/model_writer.h"

namespace quantfit::optimizer {
namespace {

// Names of targets can hold those of files, which may be long.
constexpr std::size_t kMaxTargetBytes = 127;

std::string own(std::string_view name) {
  return std::string(kOwnKeys).append(name);
}

// 32 hexadecimal digits over all that decides the covariances.
std::string fingerprint_of(const CovarianceProvider& covariances) {
  Digest digest;
  digest.text(covariances.identity());
  return digest.hex();
}

}  // namespace

std::string recipe_fingerprint(const Recipe& recipe) {
  std::vector<const RecipeEntry*> entries;
  for (const RecipeEntry& entry : recipe.entries) entries.push_back(&entry);
  std::ranges::sort(entries, {},
                    [](const RecipeEntry* entry) -> const std::string& { return entry->tensor; });
  Digest digest;
  digest.number(entries.size());
  for (const RecipeEntry* entry : entries) {
    digest.text(entry->tensor);
    digest.text(name_of(entry->format));
  }
  return digest.hex();
}

std::vector<GgufKeyValue> provenance_keys(const JobInputs& inputs, const JobRequest& request,
                                          const Target& target, state::SensitivityUnit unit,
                                          const Solution* solution) {
  if (!request.keep_provenance) return request.overrides;
  const auto text = [](std::string_view name, std::string_view value) {
    return GgufKeyValue::of_string(own(name), value);
  };
  std::vector<GgufKeyValue> keys = {
      text("version", request.program_version),
      text("target", cut_utf8(to_utf8(to_text(target)), kMaxTargetBytes)),
      text("source_fingerprint", inputs.model_fingerprint),
      text("recipe_fingerprint", recipe_fingerprint(solution != nullptr ? solution->recipe : Recipe{})),
      GgufKeyValue::of_uint32(own("encoder_version"), kernels::kEncoderVersion),
      text("effort", kernels::to_string(request.sampler.effort)),
  };
  if (inputs.importance) keys.push_back(text("importance_fingerprint", inputs.importance_fingerprint));
  if (request.sampler.covariances != nullptr)
    keys.push_back(text("second_moments_fingerprint", fingerprint_of(*request.sampler.covariances)));
  keys.push_back(GgufKeyValue::of_string(
      std::string(kMetricKey),
      metric_identity(request.sampler.error_model.to_text(), request.sampler.covariances)));
  for (GgufKeyValue& key : tensor_digest_keys(inputs.model.tensors().size())) keys.push_back(std::move(key));
  if (solution == nullptr || solution->error_is_known) {
    keys.push_back(GgufKeyValue::of_float64(own("predicted_error"),
                                            solution != nullptr ? solution->predicted_error : 0));
    keys.push_back(text("error_unit", unit == state::SensitivityUnit::Nats ? "nats" : "relative"));
  }
  if (request.candidates > 1 && !std::holds_alternative<RecipeTarget>(target)) {
    const bool judged = solution != nullptr && solution->judged;
    keys.push_back(GgufKeyValue::of_uint32(own("candidates"), judged ? solution->judged->candidates : 0));
    keys.push_back(
        GgufKeyValue::of_float64(own("measured_divergence"), judged ? solution->judged->divergence : 0));
  }
  keys.insert(keys.end(), request.overrides.begin(), request.overrides.end());
  return keys;
}

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
  if (solution.judged) {
    provenance["measured divergence"] = fmt::format("{:.6g}", solution.judged->divergence);
    provenance["best of candidates"] =
        fmt::format("{}, of {} that were run", solution.judged->rule, solution.judged->candidates);
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
  if (request.sampler.covariances != nullptr)
    provenance["error feedback"] = "second moments " + fingerprint_of(*request.sampler.covariances);
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
  saved.objective = solution.error_sum;
  saved.lower_bound = solution.error_sum - (solution.proof ? solution.proof->gap() : 0);
  saved.recipe = solution.recipe;
  return store.save_recipe(run, saved);
}

}  // namespace quantfit::optimizer

#include "optimizer/job/job.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/out_of_memory.h"
#include "optimizer/job/provenance.h"
#include "optimizer/llama_cpp/quantize_rules.h"
#include "optimizer/planning/measured_sensitivity.h"
#include "optimizer/planning/requantization.h"

namespace quantfit::optimizer {
namespace {

bool applies_to_none(const Pattern& pattern, std::span<const TensorInfo> tensors) {
  return std::ranges::none_of(tensors,
                              [&](const TensorInfo& tensor) { return pattern.found_in(tensor.name); });
}

// Of recipes for targets: the formats that they give, and no others.
Result<std::vector<TensorCandidates>> candidates_of_recipes(const Model& model,
                                                            std::span<const Target> targets,
                                                            const CandidatePolicy& policy) {
  QF_TRY(check_sources(model.tensors(), policy.allow_requantize));
  std::vector<TensorCandidates> candidates;
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    TensorCandidates own;
    own.tensor = &model.tensors()[i];
    const Quantizability may_change = quantizability(*own.tensor, policy.rules.leave_output_tensor);
    if (!may_change.quantizable) own.kept_because = fmt::format("kept: {}", may_change.reason);
    for (const Target& target : targets) {
      const Recipe& recipe = std::get<RecipeTarget>(target).recipe;
      if (recipe.entries.size() != model.tensors().size() || recipe.entries[i].tensor != own.tensor->name)
        return fail(ErrorCode::InvalidArgument, "{} is a recipe of another model", to_text(target));
      if (std::ranges::find(own.formats, recipe.entries[i].format) == own.formats.end())
        own.formats.push_back(recipe.entries[i].format);
    }
    std::ranges::sort(own.formats, {}, bits_per_weight);
    candidates.push_back(std::move(own));
  }
  return candidates;
}

Result<void> check_encoders(std::span<const TensorCandidates> candidates,
                            const kernels::RowKernels& kernels) {
  for (const TensorCandidates& own : candidates)
    for (const Format format : own.formats)
      if (format != own.tensor->format && kernels.encode[static_cast<std::size_t>(format)] == nullptr)
        return fail(ErrorCode::InvalidArgument,
                    "tensor '{}' is {} in the model and cannot become {}: this program only writes formats "
                    "that it can encode, or keeps what is there",
                    own.tensor->name, name_of(own.tensor->format), name_of(format));
  return outcome::success();
}

}  // namespace

Result<PreparedJob> check_job(const JobInputs& inputs, const JobRequest& request,
                              std::span<const Target> targets, const kernels::RowKernels& kernels) {
  return or_out_of_memory("checking the job", [&]() -> Result<PreparedJob> {
    PreparedJob job;
    const auto is_recipe = [](const Target& target) { return std::holds_alternative<RecipeTarget>(target); };
    if (!targets.empty() && std::ranges::all_of(targets, is_recipe)) {
      QF_ASSIGN(job.candidates, candidates_of_recipes(inputs.model, targets, request.policy));
    } else {
      CandidatePolicy policy = request.policy;
      policy.rules.importance = inputs.has_importance;
      QF_ASSIGN(ModelCandidates found, find_candidates(inputs.model, policy));
      job.candidates = std::move(found.tensors);
      job.notes = std::move(found.notes);
    }
    QF_TRY(check_encoders(job.candidates, kernels));
    std::vector<state::SensitivitySet> measured_sets;
    if (request.objective == Objective::Measured) {
      if (inputs.store) {
        QF_ASSIGN(measured_sets, inputs.store->load_sensitivity_sets());
      }
      std::ranges::copy(inputs.measured_sets, std::back_inserter(measured_sets));
    }
    ChosenSensitivities sensitivities = choose_sensitivities(
        default_sensitivities(inputs.traits, inputs.model.tensors(), request.role_weights),
        !request.role_weights.empty(), measured_sets, job.candidates, inputs.importance_fingerprint,
        metric_identity(request.sampler.error_model.to_text(), request.sampler.covariances));
    job.error_unit = sensitivities.unit;
    job.foresight = sensitivities.foresight;
    for (TensorSensitivity& sensitivity : sensitivities.values) {
      job.sensitivity.push_back(sensitivity.value);
      job.sensitivity_source.push_back(std::move(sensitivity.obtained));
    }
    std::ranges::move(sensitivities.notes, std::back_inserter(job.notes));
    const std::string_view unit = job.error_unit == state::SensitivityUnit::Nats ? "nats" : "relative";
    if (auto lost = requantization_sentence(inputs.model.tensors(), job.sensitivity, unit); !lost.empty())
      job.notes.push_back(std::move(lost));
    for (const RoleWeight& role : request.role_weights)
      if (applies_to_none(role.pattern, inputs.model.tensors()))
        job.notes.push_back(fmt::format("{} '{}' applies to no tensor", role.given_as, role.pattern.text()));
    job.read_share = read_shares(inputs.traits, inputs.model.tensors());
    for (const Target& target : targets) {
      const auto keys = provenance_keys(inputs, request, target, job.error_unit, nullptr);
      QF_ASSIGN(Budget budget, find_budget(inputs, job.candidates, target, keys, request.split));
      job.budgets.push_back(std::move(budget));
    }
    return job;
  });
}

Result<void> measure_job(JobInputs& inputs, const JobRequest& request, const kernels::RowKernels& kernels,
                         const JobControl& control, PreparedJob& job) {
  return or_out_of_memory("measuring", [&]() -> Result<void> {
    QF_ASSIGN(job.measured,
              measure_tensors(inputs.model, inputs.importance_or_null(), sampling_tasks(job.candidates),
                              request.sampler, kernels, inputs.store ? &*inputs.store : nullptr,
                              inputs.importance_fingerprint, request.program_version, control.progress,
                              control.cancel, request.shard));
    return outcome::success();
  });
}

Result<void> recall_job(const JobInputs& inputs, const JobRequest& request, PreparedJob& job) {
  return or_out_of_memory("looking up measurements", [&]() -> Result<void> {
    if (!inputs.store) return fail(ErrorCode::Io, "there is no state file");
    QF_ASSIGN(job.measured, recall_tensors(sampling_tasks(job.candidates), request.sampler, *inputs.store,
                                           inputs.importance_fingerprint));
    return outcome::success();
  });
}

KnapsackOptions knapsack_options(const PreparedJob& job, const JobRequest& request, std::uint64_t alignment) {
  KnapsackOptions options;
  options.alignment = alignment;
  options.max_nmse = request.max_nmse;
  options.speed_weight = request.speed_weight;
  options.runtime = request.policy.rules.runtime.value_or(Runtime::Cuda);
  if (request.speed_weight > 0) options.read_share = job.read_share;
  return options;
}

}  // namespace quantfit::optimizer

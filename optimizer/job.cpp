#include "optimizer/job.h"

#include <algorithm>
#include <ctime>

#include "core/byte_size.h"
#include "core/fingerprint.h"
#include "core/gguf_writer.h"
#include "optimizer/model_traits.h"
#include "optimizer/quantize_rules.h"

namespace quantfit::optimizer {
namespace {

// Data sections are laid out with this alignment; a source's other alignment is dropped.
constexpr std::uint64_t kFileAlignment = 32;

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec);
}

// The importance matrix must speak of this model: entries that fit, and at least some for its matrices.
Result<void> check_importance(const Model& model, const ImportanceMatrix& importance,
                              std::vector<std::string>& warnings) {
  std::size_t matched = 0;
  std::size_t unmatched = 0;
  std::string first_unmatched;
  for (const auto& [name, entry] : importance.entries()) {
    if (model.find(name) != nullptr) {
      ++matched;
    } else if (unmatched++ == 0) {
      first_unmatched = name;
    }
  }
  if (matched == 0)
    return fail(ErrorCode::IdentityMismatch,
                "{}: none of its {} entries names a tensor of {}; this importance matrix belongs to another model",
                importance.path().string(), importance.entries().size(), model.shards()[0].path.string());
  if (unmatched != 0)
    warnings.push_back(fmt::format("{} of {} importance entries have no tensor in the model ('{}', ...)", unmatched,
                                   importance.entries().size(), first_unmatched));
  std::size_t imputed = 0;
  std::size_t without_entry = 0;
  std::string first_without;
  for (const TensorInfo& tensor : model.tensors()) {
    auto statistics = importance.statistics(tensor);
    if (!statistics) return std::move(statistics).error();
    if (!statistics.value()) {
      if (quantizability(tensor).quantizable && tensor.name.starts_with("blk.") && without_entry++ == 0)
        first_without = tensor.name;
      continue;
    }
    for (const ColumnStatistics& matrix : *statistics.value()) imputed += matrix.imputed ? 1 : 0;
  }
  if (without_entry != 0)
    warnings.push_back(fmt::format("{} quantizable tensors have no importance data ('{}', ...): all their columns "
                                   "count the same",
                                   without_entry, first_without));
  if (imputed != 0)
    warnings.push_back(fmt::format(
        "{} expert matrices were never reached by the calibration text; the mean of the others stands in", imputed));
  return outcome::success();
}

}  // namespace

std::string to_text(const Target& target) {
  if (const auto* bpw = std::get_if<BpwTarget>(&target)) return bpw->text + " bpw";
  return format_bytes(std::get<FileSizeTarget>(target).bytes) + " file";
}

Result<JobInputs> open_inputs(const JobPaths& paths) {
  QF_ASSIGN(Model model, Model::open(paths.model));
  JobInputs inputs{std::move(model), {}, {}, {}, {}, {}};
  if (!paths.importance.empty()) {
    QF_ASSIGN(inputs.importance, ImportanceMatrix::read(paths.importance));
    std::ranges::copy(inputs.importance->warnings(), std::back_inserter(inputs.warnings));
    QF_TRY(check_importance(inputs.model, *inputs.importance, inputs.warnings));
    inputs.importance_fingerprint = fingerprint(*inputs.importance);
  }
  inputs.model_fingerprint = fingerprint(inputs.model);
  if (!paths.state.empty()) {
    QF_ASSIGN(inputs.store,
              state::StateStore::open(paths.state, {inputs.model_fingerprint, paths.model.filename().string(),
                                                    inputs.model.total_elements()}));
    if (inputs.importance) {
      state::ImportanceIdentity identity;
      identity.fingerprint = inputs.importance_fingerprint;
      identity.name = paths.importance.filename().string();
      for (const std::string& dataset : inputs.importance->datasets())
        identity.datasets += (identity.datasets.empty() ? "" : ",") + dataset;
      identity.chunk_count = inputs.importance->chunk_count();
      identity.has_activations = inputs.importance->has_activations();
      QF_TRY(inputs.store->remember_importance(identity));
    }
  }
  return inputs;
}

Result<PreparedJob> prepare_job(JobInputs& inputs, const JobRequest& request, const kernels::RowKernels& kernels,
                                ProgressSink& progress, const CancellationToken& cancel) {
  PreparedJob job;
  QF_ASSIGN(ModelPlan plan, plan_tensors(inputs.model, inputs.importance_or_null(), request.policy));
  job.plans = std::move(plan.tensors);
  job.notes = std::move(plan.notes);
  QF_ASSIGN(const ModelTraits model_facts, model_traits(inputs.model.metadata(), inputs.model.tensors()));
  std::map<std::string, state::Sensitivity> stored;
  if (inputs.store) {
    QF_ASSIGN(stored, inputs.store->load_sensitivities());
  }
  // What was measured on the model itself wins over the prior; what the user says wins over both.
  const auto priors = default_sensitivities(model_facts, inputs.model.tensors(), request.role_weights);
  for (std::size_t i = 0; i < priors.size(); ++i) {
    const auto measured = stored.find(inputs.model.tensors()[i].name);
    const bool use_prior = measured == stored.end() || priors[i].obtained.starts_with("role weight");
    job.sensitivity.push_back(use_prior ? priors[i].value : measured->second.value);
    job.sensitivity_source.push_back(use_prior ? priors[i].obtained : measured->second.obtained);
  }
  QF_ASSIGN(job.measured,
            measure_tensors(inputs.model, inputs.importance_or_null(), job.plans, request.sampler, kernels,
                            inputs.store ? &*inputs.store : nullptr, inputs.importance_fingerprint,
                            request.program_version, progress, cancel));
  return job;
}

Result<Solution> solve(JobInputs& inputs, const PreparedJob& job, const JobRequest& request, const Target& target) {
  Solution solution;
  solution.target = target;
  solution.elements = inputs.model.total_elements();

  // A file counts padding and metadata; both are known whatever the recipe, so they come off the budget.
  const bool whole_file = std::holds_alternative<FileSizeTarget>(target);
  std::uint64_t overhead = 0;
  if (whole_file) {
    Recipe as_is;
    for (const TensorInfo& tensor : inputs.model.tensors()) as_is.entries.push_back({tensor.name, tensor.format});
    QF_ASSIGN(const OutputLayout layout, output_layout(inputs.model, as_is, inputs.importance_or_null()));
    QF_ASSIGN(overhead, gguf_header_bytes(layout.metadata, layout.tensors));
    solution.budget_bytes = std::get<FileSizeTarget>(target).bytes;
  } else {
    QF_ASSIGN(solution.budget_bytes, budget_for_bpw(solution.elements, std::get<BpwTarget>(target).text));
  }
  QF_ASSIGN(const Knapsack knapsack, make_knapsack(job.plans, job.measured.measurements, job.sensitivity,
                                                   whole_file ? kFileAlignment : 1));
  const std::uint64_t spent = overhead + knapsack.fixed_bytes;
  solution.smallest_bytes = overhead + knapsack.smallest_bytes;
  solution.largest_bytes = overhead + knapsack.largest_bytes;
  const std::uint64_t budget = solution.budget_bytes > spent ? solution.budget_bytes - spent : 0;
  QF_ASSIGN(solution.allocation, allocate(knapsack.classes, budget, request.allocator));
  solution.feasible =
      solution.allocation.why != Termination::BudgetTooSmall && solution.budget_bytes >= solution.smallest_bytes;
  solution.used_bytes = spent + solution.allocation.bytes;
  solution.predicted_error = solution.allocation.objective + knapsack.fixed_cost;
  solution.recipe = make_recipe(job.plans, knapsack, solution.allocation);
  solution.recipe.provenance = {
      {"program", "quantfit " + request.program_version},
      {"model", inputs.model.shards()[0].path.filename().string()},
      {"model fingerprint", inputs.model_fingerprint},
      {"target", to_text(target)},
      {"predicted error", fmt::format("{:.9g}", solution.predicted_error)},
      {"lower bound", fmt::format("{:.9g}", solution.allocation.lower_bound + knapsack.fixed_cost)},
      {"proof", std::string(to_string(solution.allocation.why))},
  };
  if (inputs.importance) {
    solution.recipe.provenance["importance matrix"] = inputs.importance->path().filename().string();
    solution.recipe.provenance["importance fingerprint"] = inputs.importance_fingerprint;
  }
  QF_ASSIGN(const OutputLayout layout, output_layout(inputs.model, solution.recipe, inputs.importance_or_null()));
  solution.tensor_bytes = layout.tensor_bytes;
  solution.file_bytes = layout.file_bytes;

  if (inputs.store && solution.feasible) {
    state::SavedRecipe saved;
    saved.target = to_text(target);
    saved.budget_bytes = solution.budget_bytes;
    saved.bytes = solution.used_bytes;
    saved.objective = solution.predicted_error;
    saved.lower_bound = solution.allocation.lower_bound + knapsack.fixed_cost;
    saved.created = utc_now();
    saved.recipe = solution.recipe;
    QF_TRY(inputs.store->save_recipe(job.measured.run, saved));
  }
  return solution;
}

}  // namespace quantfit::optimizer

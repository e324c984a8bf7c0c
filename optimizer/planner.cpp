#include "optimizer/planner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <unordered_map>

#include "optimizer/model_traits.h"
#include "optimizer/quantize_rules.h"
#include "optimizer/tensor_role.h"

namespace quantfit::optimizer {
namespace {

std::uint64_t aligned(std::uint64_t bytes, std::uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// The formats of `wanted` that `known` does not hold.
std::vector<Format> missing_formats(std::span<const Format> wanted, const state::TensorMeasurement* known) {
  std::vector<Format> missing;
  for (const Format format : wanted) {
    const auto has = [&](const FormatError& error) { return error.format == format; };
    if (known == nullptr || std::ranges::none_of(known->errors, has)) missing.push_back(format);
  }
  return missing;
}

// N(t, f), or nothing when it was not measured. Keeping the source costs nothing.
std::optional<double> nmse_of(const TensorPlan& plan, Format format, const Measurements& measurements) {
  if (format == plan.tensor->format) return 0.0;
  const auto found = measurements.find(plan.tensor->name);
  if (found == measurements.end()) return std::nullopt;
  for (const FormatError& error : found->second.errors)
    if (error.format == format) return error.nmse;
  return std::nullopt;
}

}  // namespace

Result<ModelPlan> plan_tensors(const Model& model, const ImportanceMatrix* importance,
                               const CandidatePolicy& policy) {
  QF_TRY(check_sources(model.tensors(), policy.allow_requantize));
  QF_ASSIGN(const ModelTraits facts, model_traits(model.metadata(), model.tensors()));
  ConstraintRules rules = policy.rules;
  rules.has_importance = importance != nullptr;
  QF_ASSIGN(Constraints constraints, resolve_constraints(facts, model.tensors(), rules));

  ModelPlan plan;
  plan.notes = std::move(constraints.notes);
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    TensorChoices& choices = constraints.tensors[i];
    TensorPlan entry;
    entry.tensor = &tensor;
    if (choices.kept) entry.kept_because = choices.reason;
    const bool listed = std::ranges::find(choices.formats, tensor.format) != choices.formats.end();
    if (!choices.group && (choices.may_keep || listed)) {
      // What takes more room than the source cannot be worth choosing; what takes as much, only when asked for.
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
    plan.tensors.push_back(std::move(entry));
  }
  return plan;
}

Result<MeasureReport> measure_tensors(const Model& model, const ImportanceMatrix* importance,
                                      std::span<const TensorPlan> plans, const SamplerOptions& options,
                                      const kernels::RowKernels& kernels, state::StateStore* store,
                                      const std::string& importance_fingerprint, const std::string& program_version,
                                      ProgressSink& progress, const CancellationToken& cancel) {
  const auto started = std::chrono::steady_clock::now();
  MeasureReport report;
  if (store != nullptr) {
    state::RunParameters parameters;
    parameters.importance_fingerprint = importance_fingerprint;
    parameters.effort = kernels::to_string(options.effort);
    parameters.encoder_version = kernels::kEncoderVersion;
    parameters.sampling = options.plan.to_text();
    parameters.metric = options.error_model.to_text();
    QF_ASSIGN(report.run, store->begin_run(parameters, program_version));
    QF_ASSIGN(report.measurements, store->load_run(report.run));
  }

  std::vector<SamplingTask> tasks;
  for (const TensorPlan& plan : plans) {
    std::vector<Format> wanted;
    std::ranges::copy_if(plan.formats, std::back_inserter(wanted),
                         [&](Format format) { return format != plan.tensor->format; });
    if (wanted.empty()) continue;
    for (const Format format : wanted)
      if (kernels.encode[static_cast<std::size_t>(format)] == nullptr)
        return fail(ErrorCode::Unsupported, "{} cannot be encoded", name_of(format));
    const auto known = report.measurements.find(plan.tensor->name);
    SamplingTask task;
    task.tensor = plan.tensor;
    task.formats = missing_formats(wanted, known == report.measurements.end() ? nullptr : &known->second);
    if (task.formats.empty())
      ++report.tensors_known;
    else
      tasks.push_back(std::move(task));
  }
  if (tasks.empty()) return report;

  // The largest first: what is left at the end is small, and no core waits for one huge tensor.
  std::ranges::stable_sort(tasks, std::greater<>(),
                           [&](const SamplingTask& task) { return expected_weights(task, options.plan); });

  const auto finished = [&](const SamplingTask& task, const SampledTensor& sampled) -> Result<void> {
    state::TensorMeasurement fresh;
    fresh.tensor = task.tensor->name;
    fresh.role = std::string(tensor_role(task.tensor->name));
    fresh.layer = layer_of(task.tensor->name);
    fresh.shape = *task.tensor;
    fresh.rows_sampled = sampled.rows_sampled;
    fresh.errors = sampled.errors;
    std::ranges::sort(fresh.errors, {}, &FormatError::format);
    if (store != nullptr) QF_TRY(store->save_tensor(report.run, fresh));
    ++report.tensors_sampled;
    state::TensorMeasurement& merged = report.measurements[fresh.tensor];
    if (merged.tensor.empty()) {
      merged = std::move(fresh);
    } else {
      merged.rows_sampled = fresh.rows_sampled;
      std::ranges::copy(fresh.errors, std::back_inserter(merged.errors));
      std::ranges::sort(merged.errors, {}, &FormatError::format);
    }
    return outcome::success();
  };
  QF_TRY(sample_tensors(model, importance, tasks, options, kernels, progress, cancel, finished));
  if (store != nullptr) QF_TRY(store->finish_run(report.run));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return report;
}

Result<Knapsack> make_knapsack(std::span<const TensorPlan> plans, const Measurements& measurements,
                               std::span<const double> sensitivity, const KnapsackOptions& options,
                               std::span<const std::uint32_t> subset) {
  Knapsack knapsack;
  std::unordered_map<std::string, std::size_t> class_of_group;
  const std::size_t count = subset.empty() ? plans.size() : subset.size();
  for (std::size_t position = 0; position < count; ++position) {
    const auto i = subset.empty() ? static_cast<std::uint32_t>(position) : subset[position];
    const TensorPlan& plan = plans[i];
    const TensorInfo& tensor = *plan.tensor;
    std::vector<Candidate> candidates;
    std::vector<double> errors;
    for (const Format format : plan.formats) {
      const std::optional<double> nmse = nmse_of(plan, format, measurements);
      if (!nmse)
        return fail(ErrorCode::Internal, "tensor '{}' was not measured as {}", tensor.name, name_of(format));
      QF_ASSIGN(const std::uint64_t bytes, tensor_bytes(format, tensor.row_length(), tensor.rows()));
      const double penalty = options.speed_weight > 0 ? options.speed_weight * options.read_share[i] *
                                                            decode_cost(format, options.runtime)
                                                      : 0.0;
      candidates.push_back({format, aligned(bytes, options.alignment), sensitivity[i] * *nmse + penalty});
      errors.push_back(*nmse);
    }
    // Tied tensors must keep all formats in common; a veto of one member would veto the group's.
    if (options.max_nmse > 0 && plan.tie_group.empty() &&
        std::ranges::any_of(errors, [&](double error) { return error <= options.max_nmse; })) {
      std::size_t kept = 0;
      for (std::size_t c = 0; c < candidates.size(); ++c)
        if (errors[c] <= options.max_nmse) candidates[kept++] = candidates[c];
      candidates.resize(kept);
    }
    if (plan.formats.size() == 1 && plan.tie_group.empty()) {
      knapsack.fixed_bytes += candidates[0].bytes;
      knapsack.fixed_cost += candidates[0].cost;
      continue;
    }
    const auto group = plan.tie_group.empty() ? class_of_group.end() : class_of_group.find(plan.tie_group);
    if (group == class_of_group.end()) {
      if (!plan.tie_group.empty()) class_of_group.emplace(plan.tie_group, knapsack.classes.size());
      knapsack.classes.push_back({plan.tie_group.empty() ? tensor.name : plan.tie_group, std::move(candidates)});
      knapsack.members.push_back({i});
      continue;
    }
    // A tied tensor joins its class: bytes and costs add up over the formats that all members allow.
    CandidateClass& joined = knapsack.classes[group->second];
    std::vector<Candidate> common;
    for (const Candidate& candidate : joined.candidates) {
      const auto mine = std::ranges::find(candidates, candidate.format, &Candidate::format);
      if (mine != candidates.end())
        common.push_back({candidate.format, candidate.bytes + mine->bytes, candidate.cost + mine->cost});
    }
    if (common.empty())
      return fail(ErrorCode::Infeasible, "no format is allowed for all tensors of the tied group '{}'",
                  plan.tie_group);
    joined.candidates = std::move(common);
    knapsack.members[group->second].push_back(i);
  }
  knapsack.smallest_bytes = knapsack.largest_bytes = knapsack.fixed_bytes;
  for (const CandidateClass& group : knapsack.classes) {
    const auto [least, most] = std::ranges::minmax(group.candidates, {}, &Candidate::bytes);
    knapsack.smallest_bytes += least.bytes;
    knapsack.largest_bytes += most.bytes;
  }
  return knapsack;
}

Recipe smallest_recipe(std::span<const TensorPlan> plans) {
  Recipe recipe;
  for (const TensorPlan& plan : plans)
    recipe.entries.push_back(
        {plan.tensor->name, *std::ranges::min_element(plan.formats, {}, [](Format f) { return bits_per_weight(f); })});
  return recipe;
}

void apply(const Knapsack& knapsack, const Allocation& allocation, Recipe& recipe) {
  for (std::size_t c = 0; c < knapsack.classes.size(); ++c)
    for (const std::uint32_t member : knapsack.members[c]) recipe.entries[member].format = allocation.choice[c];
}

std::optional<double> predicted_error(std::span<const TensorPlan> plans, const Measurements& measurements,
                                      std::span<const double> sensitivity, const Recipe& recipe) {
  double total = 0;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const std::optional<double> nmse = nmse_of(plans[i], recipe.entries[i].format, measurements);
    if (!nmse) return std::nullopt;
    total += sensitivity[i] * *nmse;
  }
  return total;
}

}  // namespace quantfit::optimizer

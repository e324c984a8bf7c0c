#include "optimizer/job/job.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <span>
#include <utility>

#include "core/byte_size.h"
#include "core/fingerprint.h"
#include "core/gguf_writer.h"
#include "optimizer/llama_cpp/pattern.h"
#include "optimizer/llama_cpp/quantize_rules.h"
#include "optimizer/llama_cpp/tensor_role.h"
#include "optimizer/output/recipe_io.h"
#include "optimizer/planning/measured_sensitivity.h"

namespace quantfit::optimizer {
namespace {

bool applies_to_none(const Pattern& pattern, std::span<const TensorInfo> tensors) {
  return std::ranges::none_of(tensors,
                              [&](const TensorInfo& tensor) { return pattern.found_in(tensor.name); });
}

// Data sections are laid out with this alignment; a source's other alignment is dropped.
constexpr std::uint64_t kFileAlignment = 32;

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
    return fail(
        ErrorCode::IdentityMismatch,
        "{}: none of its {} entries names a tensor of {}; this importance matrix belongs to another model",
        importance.path().string(), importance.entries().size(), model.shards()[0].path.string());
  if (unmatched != 0)
    warnings.push_back(fmt::format("{} of {} importance entries have no tensor in the model ('{}', ...)",
                                   unmatched, importance.entries().size(), first_unmatched));
  std::size_t imputed = 0;
  std::size_t quantizable = 0;
  std::size_t without_entry = 0;
  std::string first_without;
  for (const TensorInfo& tensor : model.tensors()) {
    auto statistics = importance.statistics(tensor);
    if (!statistics) return std::move(statistics).error();
    const bool wanted = quantizability(tensor).quantizable && tensor.name.starts_with("blk.");
    quantizable += wanted ? 1 : 0;
    if (!statistics.value()) {
      if (wanted && without_entry++ == 0) first_without = tensor.name;
      continue;
    }
    for (const ColumnStatistics& matrix : *statistics.value()) imputed += matrix.imputed ? 1 : 0;
  }
  if (2 * without_entry > quantizable)
    return fail(
        ErrorCode::IdentityMismatch,
        "{}: {} of the model's {} quantizable matrices have no entry ('{}', ...); this importance matrix "
        "belongs to another model",
        importance.path().string(), without_entry, quantizable, first_without);
  if (without_entry != 0)
    warnings.push_back(
        fmt::format("{} quantizable tensors have no importance data ('{}', ...): all their columns "
                    "count the same",
                    without_entry, first_without));
  if (imputed != 0)
    warnings.push_back(fmt::format(
        "{} expert matrices were never reached by the calibration text; the mean of the others stands in",
        imputed));
  return outcome::success();
}

}  // namespace

std::string to_text(const Target& target) {
  if (const auto* bpw = std::get_if<BpwTarget>(&target)) return bpw->text + " bpw";
  if (const auto* file = std::get_if<FileSizeTarget>(&target)) return "file of " + format_bytes(file->bytes);
  if (const auto* recipe = std::get_if<RecipeTarget>(&target)) return "recipe " + recipe->name;
  const MemoryRequest& request = std::get<MemoryTarget>(target).request;
  std::string text;
  if (request.vram_bytes) text += "VRAM of " + format_bytes(*request.vram_bytes);
  if (request.ram_bytes) text += (text.empty() ? "RAM of " : ", RAM of ") + format_bytes(*request.ram_bytes);
  return text;
}

Result<JobInputs> open_inputs(const JobPaths& paths) {
  QF_ASSIGN(Model model, Model::open(paths.model));
  QF_ASSIGN(ModelTraits facts, model_traits(model.metadata(), model.tensors()));
  JobInputs inputs{std::move(model), std::move(facts), {}, {}, {}, {}, {}};
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

Result<PreparedJob> prepare_job(JobInputs& inputs, const JobRequest& request,
                                const kernels::RowKernels& kernels, ProgressSink& progress,
                                const CancellationToken& cancel) {
  PreparedJob job;
  QF_ASSIGN(ModelCandidates found,
            find_candidates(inputs.model, inputs.importance_or_null(), request.policy));
  job.candidates = std::move(found.tensors);
  job.notes = std::move(found.notes);
  std::vector<state::SensitivitySet> measured_sets;
  if (inputs.store) {
    QF_ASSIGN(measured_sets, inputs.store->load_sensitivity_sets());
  }
  ChosenSensitivities sensitivities =
      choose_sensitivities(default_sensitivities(inputs.traits, inputs.model.tensors(), request.role_weights),
                           !request.role_weights.empty(), measured_sets, job.candidates,
                           inputs.importance_fingerprint, request.sampler.error_model.to_text());
  for (TensorSensitivity& sensitivity : sensitivities.values) {
    job.sensitivity.push_back(sensitivity.value);
    job.sensitivity_source.push_back(std::move(sensitivity.obtained));
  }
  std::ranges::move(sensitivities.notes, std::back_inserter(job.notes));
  for (const RoleWeight& role : request.role_weights)
    if (applies_to_none(role.pattern, inputs.model.tensors()))
      job.notes.push_back(fmt::format("--role-weight '{}' applies to no tensor", role.pattern.text()));
  const GgufKeyValue* used = inputs.model.arch_key("expert_used_count");
  const auto experts_used = static_cast<std::uint32_t>(used == nullptr ? 0 : used->as_uint().value_or(0));
  job.read_share = read_shares(inputs.traits, experts_used, inputs.model.tensors());
  QF_ASSIGN(job.measured,
            measure_tensors(inputs.model, inputs.importance_or_null(), sampling_tasks(job.candidates),
                            request.sampler, kernels, inputs.store ? &*inputs.store : nullptr,
                            inputs.importance_fingerprint, request.program_version, progress, cancel,
                            request.shard));
  return job;
}

namespace {

KnapsackOptions knapsack_options(const PreparedJob& job, const JobRequest& request, std::uint64_t alignment) {
  KnapsackOptions options;
  options.alignment = alignment;
  options.max_nmse = request.max_nmse;
  options.speed_weight = request.speed_weight;
  options.runtime = request.policy.rules.runtime.value_or(Runtime::Cuda);
  if (request.speed_weight > 0) options.read_share = job.read_share;
  return options;
}

// The knapsack with ruinous formats left out, or with them when the budget cannot be met otherwise.
Result<Knapsack> knapsack_for(const PreparedJob& job, KnapsackOptions options,
                              std::span<const std::uint32_t> subset, std::uint64_t budget,
                              Solution& solution) {
  QF_ASSIGN(Knapsack knapsack,
            make_knapsack(job.candidates, job.measured.measurements, job.sensitivity, options, subset));
  if (options.max_nmse > 0 && knapsack.smallest_bytes > budget) {
    options.max_nmse = 0;
    QF_ASSIGN(knapsack,
              make_knapsack(job.candidates, job.measured.measurements, job.sensitivity, options, subset));
    if (knapsack.smallest_bytes <= budget)
      solution.limits.push_back("the budget forces formats that ruin some tensors");
  }
  return knapsack;
}

std::uint64_t minus(std::uint64_t a, std::uint64_t b) {
  return a > b ? a - b : 0;
}

// The best recipe for a budget of which `spent` bytes are taken already, or the best
// that uses the share wanted.
Result<FilledAllocation> allocate_part(const Knapsack& knapsack, std::uint64_t budget, std::uint64_t spent,
                                       const JobRequest& request, std::optional<Fill>& fill,
                                       Solution& solution) {
  FilledAllocation part;
  if (!request.min_fill) {
    QF_ASSIGN(part.answer, allocate(knapsack.classes, minus(budget, spent), request.allocator));
    part.unfilled = part.answer;
    return part;
  }
  const std::uint64_t wanted = share_of(budget, request.min_fill->share);
  QF_ASSIGN(part,
            allocate_filled(knapsack.classes, minus(wanted, spent), minus(budget, spent), request.allocator));
  if (part.answer.why == Termination::BudgetTooSmall) return part;
  fill.emplace();
  fill->wanted_bytes = wanted;
  fill->least_bytes = part.answer.least_bytes == 0 ? 0 : spent + part.answer.least_bytes;
  fill->unfilled_bytes = spent + part.unfilled.bytes;
  fill->met = part.in_window;
  fill->proven_impossible = part.proven_empty;
  if (!fill->met)
    solution.limits.push_back(fmt::format(
        "{} {} of {} bytes or more; {}",
        part.proven_empty ? "there is no recipe that uses" : "none was found that uses",
        request.min_fill->text, budget,
        fill->least_bytes == 0
            ? std::string("this is the optimum for the budget alone")
            : fmt::format("this is the best found of those with {} bytes or more", fill->least_bytes)));
  return part;
}

// Does every class have its cheapest candidate?
bool all_at_their_best(const Knapsack& knapsack, const Allocation& allocation) {
  for (std::size_t c = 0; c < knapsack.classes.size(); ++c) {
    const std::vector<Candidate>& candidates = knapsack.classes[c].candidates;
    if (candidates[allocation.index[c]].cost > std::ranges::min(candidates, {}, &Candidate::cost).cost)
      return false;
  }
  return true;
}

// One budget for all tensors: bits per weight, or a file's size.
Result<void> solve_one_memory(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                              Solution& solution, Recipe& unfilled) {
  // A file counts padding and metadata; both are known whatever the recipe, so they come off the budget.
  const auto* file = std::get_if<FileSizeTarget>(&solution.target);
  std::uint64_t overhead = 0;
  if (file != nullptr) {
    QF_ASSIGN(const OutputLayout layout,
              output_layout(inputs.model, recipe_of(inputs.model.tensors()), inputs.importance_or_null()));
    QF_ASSIGN(overhead, gguf_header_bytes(layout.metadata, layout.tensors));
    solution.budget_bytes = file->bytes;
  } else {
    QF_ASSIGN(solution.budget_bytes,
              budget_for_bpw(solution.elements, std::get<BpwTarget>(solution.target).text));
  }
  QF_ASSIGN(const Knapsack knapsack,
            knapsack_for(job, knapsack_options(job, request, file != nullptr ? kFileAlignment : 1), {},
                         minus(solution.budget_bytes, overhead), solution));
  const std::uint64_t spent = overhead + knapsack.fixed_bytes;
  solution.smallest_bytes = overhead + knapsack.smallest_bytes;
  solution.largest_bytes = overhead + knapsack.largest_bytes;
  QF_ASSIGN(FilledAllocation part,
            allocate_part(knapsack, solution.budget_bytes, spent, request, solution.fill, solution));
  apply(knapsack, part.unfilled, unfilled);
  apply(knapsack, part.answer, solution.recipe);
  solution.allocation = std::move(part.answer);
  solution.feasible = solution.budget_bytes >= solution.smallest_bytes;
  solution.used_bytes = spent + solution.allocation.bytes;
  if (solution.feasible && spent + part.unfilled.bytes < solution.budget_bytes &&
      all_at_their_best(knapsack, part.unfilled))
    solution.limits.push_back("every tensor has its best format already; a larger budget changes nothing");
  return outcome::success();
}

// Two memories with a given placement: two knapsacks. Tensors in RAM without a limit of their own pay the
// same price per byte as those on the GPU: more would make the file larger than its quality is worth. A share
// to be used is demanded of either budget on its own.
Result<void> solve_two_memories(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                                Solution& solution, Recipe& unfilled) {
  const MemoryRequest& wanted = std::get<MemoryTarget>(solution.target).request;
  QF_ASSIGN(solution.memory, estimate_memory(inputs.model.metadata(), inputs.model.tensors(), wanted));
  const MemoryEstimate& memory = *solution.memory;
  std::vector<std::uint32_t> gpu;
  std::vector<std::uint32_t> host;
  for (std::uint32_t i = 0; i < memory.placement.size(); ++i) {
    const bool on_gpu = memory.placement[i].device == Device::Gpu || memory.placement[i].copied_to_gpu;
    (on_gpu ? gpu : host).push_back(i);
  }
  const auto tensors = inputs.model.tensors();
  for (const PlacementRule& rule : wanted.overrides)
    if (applies_to_none(rule.pattern, tensors))
      solution.notes.push_back(
          fmt::format("--override-tensor '{}' applies to no tensor", rule.pattern.text()));
  if ((wanted.cpu_moe || wanted.n_cpu_moe != 0) &&
      std::ranges::none_of(tensors, [](const TensorInfo& tensor) { return is_routed_experts(tensor.name); }))
    solution.notes.push_back(fmt::format("{} changes nothing: the model has no routed experts",
                                         wanted.cpu_moe ? "--cpu-moe" : "--n-cpu-moe"));
  solution.host_budget_bytes = memory.host_weight_budget_bytes;
  solution.feasible = memory.gpu_shortfall_bytes == 0 && memory.host_shortfall_bytes == 0;
  if (memory.gpu_shortfall_bytes != 0)
    solution.limits.push_back(fmt::format("cache and buffers alone need {} more than the GPU has",
                                          format_bytes(memory.gpu_shortfall_bytes)));
  if (memory.host_shortfall_bytes != 0)
    solution.limits.push_back(fmt::format("cache and buffers alone need {} more than the RAM has",
                                          format_bytes(memory.host_shortfall_bytes)));

  double price = 0;
  if (!gpu.empty() && memory.gpu_weight_budget_bytes) {
    solution.budget_bytes = *memory.gpu_weight_budget_bytes;
    QF_ASSIGN(const Knapsack knapsack,
              knapsack_for(job, knapsack_options(job, request, 1), gpu, solution.budget_bytes, solution));
    QF_ASSIGN(FilledAllocation part, allocate_part(knapsack, solution.budget_bytes, knapsack.fixed_bytes,
                                                   request, solution.fill, solution));
    apply(knapsack, part.unfilled, unfilled);
    apply(knapsack, part.answer, solution.recipe);
    solution.allocation = std::move(part.answer);
    solution.smallest_bytes = knapsack.smallest_bytes;
    solution.largest_bytes = knapsack.largest_bytes;
    solution.used_bytes = knapsack.fixed_bytes + solution.allocation.bytes;
    solution.feasible = solution.feasible && solution.budget_bytes >= knapsack.smallest_bytes;
    price = part.unfilled.multiplier;
  }
  if (!host.empty()) {
    std::uint64_t copied = 0;  // tied embeddings take room in RAM too
    for (const std::uint32_t i : gpu)
      if (memory.placement[i].copied_to_gpu) {
        const TensorInfo& tensor = *job.candidates[i].tensor;
        QF_ASSIGN(const std::uint64_t bytes,
                  tensor_bytes(solution.recipe.entries[i].format, tensor.row_length(), tensor.rows()));
        copied += bytes;
      }
    const std::uint64_t budget = minus(memory.host_weight_budget_bytes.value_or(UINT64_MAX), copied);
    QF_ASSIGN(const Knapsack knapsack,
              knapsack_for(job, knapsack_options(job, request, 1), host, budget, solution));
    Allocation allocation;
    if (memory.host_weight_budget_bytes) {
      QF_ASSIGN(FilledAllocation part,
                allocate_part(knapsack, budget, knapsack.fixed_bytes, request, solution.host_fill, solution));
      apply(knapsack, part.unfilled, unfilled);
      allocation = std::move(part.answer);
      solution.feasible = solution.feasible && budget >= knapsack.smallest_bytes;
      if (budget < knapsack.smallest_bytes)
        solution.limits.push_back(fmt::format("RAM has room for {} of weights, the smallest choice takes {}",
                                              format_bytes(budget), format_bytes(knapsack.smallest_bytes)));
    } else {
      for (const CandidateClass& group : knapsack.classes) {
        const auto best = std::ranges::min_element(group.candidates, {}, [&](const Candidate& candidate) {
          return candidate.cost + price * static_cast<double>(candidate.bytes);
        });
        allocation.choice.push_back(best->format);
        allocation.bytes += best->bytes;
        allocation.objective += best->cost;
      }
      allocation.lower_bound = allocation.objective;
      allocation.multiplier = price;
      apply(knapsack, allocation, unfilled);
    }
    solution.host_used_bytes = knapsack.fixed_bytes + allocation.bytes + copied;
    apply(knapsack, allocation, solution.recipe);
    if (!memory.gpu_weight_budget_bytes) {  // RAM is the only memory: the answer is about it
      solution.budget_bytes = budget;
      solution.used_bytes = solution.host_used_bytes;
      solution.smallest_bytes = knapsack.smallest_bytes;
      solution.largest_bytes = knapsack.largest_bytes;
      solution.allocation = allocation;
      solution.fill = std::exchange(solution.host_fill, std::nullopt);
    } else {
      solution.host_allocation = std::move(allocation);
    }
  }
  return outcome::success();
}

// True when the recipe gives every tensor a format that it may take, and tied tensors one format.
bool keeps_constraints(std::span<const TensorCandidates> candidates, const Recipe& recipe) {
  std::map<std::string, Format> group_format;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Format format = recipe.entries[i].format;
    if (std::ranges::find(candidates[i].formats, format) == candidates[i].formats.end()) return false;
    if (!candidates[i].tie_group.empty() &&
        group_format.try_emplace(candidates[i].tie_group, format).first->second != format)
      return false;
  }
  return true;
}

// An exact optimum cannot lose to a static recipe; one that a limit stopped short might.
Result<void> never_worse_than_static(const JobInputs& inputs, const PreparedJob& job, Solution& solution) {
  if (solution.allocation.why == Termination::Optimal || !solution.feasible ||
      !std::holds_alternative<BpwTarget>(solution.target))
    return outcome::success();
  for (const FileTypeTraits& type : all_file_types()) {
    auto recipe = preset_recipe(inputs, type.type);
    if (!recipe || !keeps_constraints(job.candidates, recipe.value())) continue;
    const auto error =
        predicted_error(job.candidates, job.measured.measurements, job.sensitivity, recipe.value());
    auto layout = output_layout(inputs.model, recipe.value(), inputs.importance_or_null());
    if (!error || !layout || layout.value().tensor_bytes > solution.budget_bytes ||
        (solution.fill && layout.value().tensor_bytes < solution.fill->least_bytes) ||
        *error >= solution.predicted_error)
      continue;
    solution.recipe.entries = recipe.value().entries;
    solution.predicted_error = *error;
    solution.used_bytes = layout.value().tensor_bytes;
    solution.limits.push_back(
        fmt::format("the static recipe {} is better than what the stopped search found", type.name));
  }
  return outcome::success();
}

}  // namespace

Result<Solution> solve(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                       const Target& target) {
  Solution solution;
  solution.target = target;
  solution.elements = inputs.model.total_elements();
  solution.recipe = smallest_recipe(job.candidates);
  Recipe unfilled = solution.recipe;
  if (const auto* given = std::get_if<RecipeTarget>(&target)) {
    solution.recipe = given->recipe;
    solution.feasible = true;
  } else if (std::holds_alternative<MemoryTarget>(target)) {
    QF_TRY(solve_two_memories(inputs, job, request, solution, unfilled));
  } else {
    QF_TRY(solve_one_memory(inputs, job, request, solution, unfilled));
  }
  const auto error =
      predicted_error(job.candidates, job.measured.measurements, job.sensitivity, solution.recipe);
  solution.error_is_known = error.has_value();
  solution.predicted_error = error.value_or(0);
  if (solution.fill || solution.host_fill)
    solution.unfilled_error =
        predicted_error(job.candidates, job.measured.measurements, job.sensitivity, unfilled).value_or(0);
  QF_TRY(never_worse_than_static(inputs, job, solution));
  QF_ASSIGN(const OutputLayout layout,
            output_layout(inputs.model, solution.recipe, inputs.importance_or_null()));
  solution.tensor_bytes = layout.tensor_bytes;
  solution.file_bytes = layout.file_bytes;
  if (std::holds_alternative<RecipeTarget>(target))
    solution.budget_bytes = solution.used_bytes = solution.smallest_bytes = solution.largest_bytes =
        layout.tensor_bytes;

  solution.recipe.provenance = {
      {"program", "quantfit " + request.program_version},
      {"model", inputs.model.shards()[0].path.filename().string()},
      {"model fingerprint", inputs.model_fingerprint},
      {"target", to_text(target)},
      {"bytes", std::to_string(solution.tensor_bytes)},
      {"bpw", fmt::format("{:.6f}", solution.bpw())},
  };
  if (solution.error_is_known)
    solution.recipe.provenance["predicted error"] = fmt::format("{:.9g}", solution.predicted_error);
  if (!std::holds_alternative<RecipeTarget>(target)) {
    solution.recipe.provenance["gap"] = fmt::format("{:.3g}", solution.allocation.gap());
    if (request.min_fill) solution.recipe.provenance["min fill"] = request.min_fill->text;
    std::string& proof = solution.recipe.provenance["proof"];
    proof = to_string(solution.allocation.why);
    if (solution.fill && solution.fill->least_bytes != 0)
      proof += fmt::format(", among recipes of {} bytes or more", solution.fill->least_bytes);
  }
  if (inputs.importance) {
    solution.recipe.provenance["importance matrix"] = inputs.importance->path().filename().string();
    solution.recipe.provenance["importance fingerprint"] = inputs.importance_fingerprint;
  }
  if (inputs.store && solution.feasible && job.measured.run != 0) {
    state::SavedRecipe saved;
    saved.target = to_text(target);
    if (request.min_fill) saved.target += fmt::format(", at least {} used", request.min_fill->text);
    saved.budget_bytes = solution.budget_bytes;
    saved.bytes = solution.used_bytes;
    saved.objective = solution.predicted_error;
    saved.lower_bound = solution.predicted_error - solution.allocation.gap();
    saved.recipe = solution.recipe;
    QF_TRY(inputs.store->save_recipe(job.measured.run, saved));
  }
  return solution;
}

Result<Recipe> preset_recipe(const JobInputs& inputs, FileType type) {
  StaticRecipeRequest request;
  request.file_type = type;
  request.has_importance = inputs.importance.has_value();
  QF_ASSIGN(StaticRecipe resolved, resolve_static_recipe(inputs.traits, inputs.model.tensors(), request));
  return std::move(resolved.recipe);
}

Result<std::vector<StaticComparison>> compare_static_recipes(const JobInputs& inputs, const PreparedJob& job,
                                                             const JobRequest& request) {
  QF_ASSIGN(const Knapsack knapsack, make_knapsack(job.candidates, job.measured.measurements, job.sensitivity,
                                                   knapsack_options(job, request, 1)));
  std::vector<StaticComparison> comparisons;
  for (const FileTypeTraits& type : all_file_types()) {
    if (!type.has_recipe || !is_quantized(type.default_format)) continue;
    auto recipe = preset_recipe(inputs, type.type);
    if (!recipe) continue;  // not for this model
    const auto error =
        predicted_error(job.candidates, job.measured.measurements, job.sensitivity, recipe.value());
    if (!error) continue;  // needs formats that were not measured
    QF_ASSIGN(const OutputLayout layout,
              output_layout(inputs.model, recipe.value(), inputs.importance_or_null()));
    StaticComparison comparison;
    comparison.type = type.type;
    comparison.tensor_bytes = layout.tensor_bytes;
    comparison.bpw =
        8.0 * double(layout.tensor_bytes) / double(std::max<std::uint64_t>(inputs.model.total_elements(), 1));
    comparison.predicted_error = *error;
    if (layout.tensor_bytes < knapsack.smallest_bytes) continue;  // constraints forbid so small a recipe
    QF_ASSIGN(const Allocation best,
              allocate(knapsack.classes, layout.tensor_bytes - knapsack.fixed_bytes, request.allocator));
    Recipe optimized = smallest_recipe(job.candidates);
    apply(knapsack, best, optimized);
    comparison.optimized_error =
        predicted_error(job.candidates, job.measured.measurements, job.sensitivity, optimized).value_or(0);
    comparisons.push_back(comparison);
  }
  std::ranges::stable_sort(comparisons, {}, &StaticComparison::tensor_bytes);
  return comparisons;
}

Result<ModelFrontier> model_frontier(const PreparedJob& job, const JobRequest& request) {
  ModelFrontier result;
  QF_ASSIGN(result.knapsack, make_knapsack(job.candidates, job.measured.measurements, job.sensitivity,
                                           knapsack_options(job, request, 1)));
  QF_ASSIGN(result.frontier, frontier(result.knapsack.classes));
  return result;
}

}  // namespace quantfit::optimizer

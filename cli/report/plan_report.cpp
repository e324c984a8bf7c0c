#include "cli/report/plan_report.h"

#include <algorithm>
#include <map>

#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::cli {
namespace {

TargetReport target_report(const optimizer::Target& target) {
  TargetReport report;
  report.text = to_text(target);
  if (const auto* bpw = std::get_if<optimizer::BpwTarget>(&target)) {
    report.kind = "bpw";
    report.bpw = bpw->text;
  } else if (const auto* file = std::get_if<optimizer::FileSizeTarget>(&target)) {
    report.kind = "file";
    report.file_bytes = file->bytes;
  } else if (const auto* memory = std::get_if<optimizer::MemoryTarget>(&target)) {
    report.kind = "memory";
    report.vram_bytes = memory->request.vram_bytes;
    report.ram_bytes = memory->request.ram_bytes;
  } else {
    report.kind = "recipe";
    report.recipe = std::get<optimizer::RecipeTarget>(target).name;
  }
  return report;
}

ProofReport proof_report(const optimizer::Allocation& allocation) {
  ProofReport report;
  report.optimal = allocation.why == optimizer::Termination::Optimal;
  report.termination = to_string(allocation.why);
  report.objective = allocation.objective;
  report.lower_bound = allocation.lower_bound;
  report.gap = allocation.gap();
  report.multiplier = allocation.multiplier;
  report.cost_unit = allocation.cost_unit;
  report.states = allocation.states;
  report.seconds = allocation.seconds;
  report.least_bytes = allocation.least_bytes;
  return report;
}

std::optional<FillReport> fill_report(const std::optional<optimizer::Fill>& fill) {
  if (!fill) return std::nullopt;
  return FillReport{fill->wanted_bytes, fill->least_bytes, fill->unfilled_bytes, fill->met,
                    fill->proven_impossible};
}

double nmse_of(const optimizer::PreparedJob& job, const std::string& tensor, Format format) {
  const auto found = job.measured.measurements.find(tensor);
  if (found != job.measured.measurements.end())
    for (const auto& error : found->second.errors)
      if (error.format == format) return error.nmse;
  return 0;
}

std::vector<BudgetReport> budget_reports(const optimizer::Solution& solution) {
  std::vector<BudgetReport> budgets;
  BudgetReport first;
  const bool memory = solution.memory.has_value();
  const bool on_gpu = memory && solution.memory->gpu_weight_budget_bytes.has_value();
  if (memory)
    first.of = on_gpu ? "GPU" : "RAM";
  else
    first.of = std::holds_alternative<optimizer::FileSizeTarget>(solution.target) ? "file" : "tensor data";
  first.limit_bytes = solution.budget_bytes;
  first.used_bytes = solution.used_bytes;
  first.smallest_bytes = solution.smallest_bytes;
  first.largest_bytes = solution.largest_bytes;
  if (!std::holds_alternative<optimizer::RecipeTarget>(solution.target))
    first.proof = proof_report(solution.allocation);
  first.fill = fill_report(solution.fill);
  budgets.push_back(std::move(first));
  if (on_gpu && (solution.host_used_bytes != 0 || solution.host_budget_bytes)) {
    BudgetReport host;
    host.of = "RAM";
    host.limit_bytes = solution.host_budget_bytes;
    host.used_bytes = solution.host_used_bytes;
    if (solution.host_allocation) host.proof = proof_report(*solution.host_allocation);
    host.fill = fill_report(solution.host_fill);
    budgets.push_back(std::move(host));
  }
  return budgets;
}

}  // namespace

double bits_per_element(std::uint64_t bytes, std::uint64_t elements) {
  return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
}

std::vector<FormatUse> formats_used(std::span<const TensorInfo> tensors) {
  std::map<Format, FormatUse> uses;
  for (const TensorInfo& tensor : tensors) {
    FormatUse& use = uses[tensor.format];
    use.format = name_of(tensor.format);
    ++use.tensors;
    use.elements += tensor.elements();
    use.bytes += tensor.bytes;
  }
  std::vector<FormatUse> sorted;
  for (auto& [format, use] : uses) sorted.push_back(std::move(use));
  std::ranges::stable_sort(sorted, std::greater<>(), &FormatUse::bytes);
  return sorted;
}

std::vector<StaticReport> make_static_reports(std::span<const optimizer::StaticComparison> comparisons) {
  std::vector<StaticReport> reports;
  for (const optimizer::StaticComparison& recipe : comparisons)
    reports.push_back({std::string(optimizer::name_of(recipe.type)), recipe.bpw, recipe.tensor_bytes,
                       recipe.predicted_error, recipe.optimized_error});
  return reports;
}

PlanReport make_plan_report(const Model& model, const optimizer::PreparedJob& job,
                            const optimizer::Solution& solution,
                            std::span<const optimizer::StaticComparison> statics) {
  PlanReport report;
  report.target = target_report(solution.target);
  report.feasible = solution.feasible;
  report.budgets = budget_reports(solution);
  report.elements = solution.elements;
  report.tensor_bytes = solution.tensor_bytes;
  report.file_bytes = solution.file_bytes;
  report.bpw = solution.bpw();
  if (solution.error_is_known) report.predicted_error = solution.predicted_error;
  if (solution.fill || solution.host_fill) report.unfilled_error = solution.unfilled_error;
  report.limits = solution.limits;
  report.notes = solution.notes;
  if (solution.memory) {
    report.has_memory = true;
    report.ctx_size = solution.memory->ctx_size;
    for (const optimizer::MemoryItem& item : solution.memory->items)
      report.memory.push_back({item.what, std::string(to_string(item.device)), item.bytes, item.how});
  }
  report.statics = make_static_reports(statics);
  std::vector<TensorInfo> outputs(model.tensors().begin(), model.tensors().end());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    TensorInfo& tensor = outputs[i];
    const Format source = tensor.format;
    tensor.format = solution.recipe.entries[i].format;
    if (auto bytes = tensor_bytes(tensor.format, tensor.row_length(), tensor.rows()))
      tensor.bytes = bytes.value();
    TensorReport row;
    row.name = tensor.name;
    row.role = optimizer::tensor_role(tensor.name);
    row.layer = optimizer::layer_of(tensor.name);
    row.shape.assign(tensor.ne.begin(), tensor.ne.begin() + std::max<std::uint32_t>(tensor.n_dims, 1));
    row.from = name_of(source);
    row.format = name_of(tensor.format);
    row.elements = tensor.elements();
    row.bytes = tensor.bytes;
    row.kept = tensor.format == source;
    if (row.kept) {
      row.kept_because = job.candidates[i].kept_because;
    } else {
      row.nmse = nmse_of(job, tensor.name, tensor.format);
      row.sensitivity = job.sensitivity[i];
      row.sensitivity_source = job.sensitivity_source[i];
    }
    report.tensors.push_back(std::move(row));
  }
  report.formats = formats_used(outputs);
  return report;
}

}  // namespace quantfit::cli

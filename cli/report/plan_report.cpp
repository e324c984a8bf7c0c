#include "cli/report/plan_report.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>

#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::cli {
namespace {

TargetReport target_report(const optimizer::Target& target) {
  TargetReport report;
  report.text = to_text(target);
  if (const auto* bpw = std::get_if<optimizer::BpwTarget>(&target)) {
    report.kind = "bpw";
    report.bpw = std::strtod(bpw->text.c_str(), nullptr);
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

ProofReport proof_report(const optimizer::Proof& proof) {
  ProofReport report;
  report.optimal = proof.why == optimizer::Termination::Optimal;
  report.termination = to_string(proof.why);
  report.objective = proof.objective;
  report.lower_bound = proof.lower_bound;
  report.gap = proof.gap();
  report.cost_unit = proof.cost_unit;
  report.states = proof.states;
  report.seconds = proof.seconds;
  report.of_full_ones_only = proof.of_full_ones_only;
  return report;
}

std::optional<FillReport> fill_report(const std::optional<optimizer::Fill>& fill) {
  if (!fill) return std::nullopt;
  return FillReport{fill->wanted_bytes, fill->least_bytes, fill->unfilled_bytes, fill->met,
                    fill->proven_impossible};
}

// Null when it was not measured.
const FormatMeasurement* measured(const optimizer::PreparedJob& job, const std::string& tensor,
                                  Format format) {
  const auto found = job.measured.measurements.find(tensor);
  if (found != job.measured.measurements.end())
    for (const FormatMeasurement& error : found->second.errors)
      if (error.format == format) return &error;
  return nullptr;
}

std::vector<BudgetReport> budget_reports(const optimizer::Solution& solution) {
  std::vector<BudgetReport> budgets;
  for (const optimizer::MemoryAnswer& memory : solution.memories) {
    BudgetReport report;
    report.of = to_string(memory.kind);
    report.limit_bytes = memory.budget_bytes;
    report.used_bytes = memory.used_bytes;
    report.smallest_bytes = memory.smallest_bytes;
    report.largest_bytes = memory.largest_bytes;
    report.shortfall_bytes = memory.shortfall_bytes;
    report.feasible = memory.feasible();
    report.multiplier = memory.multiplier;
    report.fill = fill_report(memory.fill);
    budgets.push_back(std::move(report));
  }
  return budgets;
}

// The mixture whose predicted error is nearest, as a ratio.
std::optional<QualityReport> quality_of(double error, std::span<const StaticReport> statics) {
  const StaticReport* nearest = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (const StaticReport& recipe : statics) {
    const double distance = recipe.predicted_error > 0 && error > 0
                                ? std::abs(std::log(error / recipe.predicted_error))
                                : std::abs(error - recipe.predicted_error);
    if (distance < least) {
      least = distance;
      nearest = &recipe;
    }
  }
  if (nearest == nullptr) return std::nullopt;
  QualityReport quality{nearest->name, {}};
  if (nearest->predicted_error > 0) quality.ratio = error / nearest->predicted_error;
  return quality;
}

// Of the tensor as it is where it cannot have the format.
std::uint64_t bytes_as(const TensorInfo& tensor, Format format) {
  const auto bytes = tensor_bytes(format, tensor.row_length(), tensor.rows());
  return bytes ? bytes.value() : tensor.bytes;
}

// Formats and what they hold, added up.
class FormatUses {
 public:
  void add(Format format, std::uint64_t elements, std::uint64_t bytes) {
    FormatUse& use = uses_[format];
    ++use.tensors;
    use.elements += elements;
    use.bytes += bytes;
  }
  [[nodiscard]] std::vector<FormatUse> sorted() {
    std::vector<FormatUse> sorted;
    for (auto& [format, use] : uses_) {
      use.format = name_of(format);
      sorted.push_back(std::move(use));
    }
    std::ranges::stable_sort(sorted, std::greater<>(), &FormatUse::bytes);
    return sorted;
  }

 private:
  std::map<Format, FormatUse> uses_;
};

}  // namespace

double bits_per_element(std::uint64_t bytes, std::uint64_t elements) {
  return elements == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(elements);
}

std::vector<FormatUse> formats_used(std::span<const TensorInfo> tensors) {
  FormatUses uses;
  for (const TensorInfo& tensor : tensors) uses.add(tensor.format, tensor.elements(), tensor.bytes);
  return uses.sorted();
}

StaticReports make_static_reports(const optimizer::StaticComparisons& comparisons) {
  StaticReports reports;
  for (const optimizer::StaticComparison& recipe : comparisons.compared)
    reports.compared.push_back(
        {recipe.name, recipe.bpw, recipe.tensor_bytes, recipe.predicted_error, recipe.optimized_error});
  for (const optimizer::StaticWithout& recipe : comparisons.without)
    reports.without.push_back({recipe.name, recipe.why});
  return reports;
}

std::vector<CandidateReport> candidate_reports(const optimizer::Contest& contest) {
  std::vector<CandidateReport> reports;
  for (const optimizer::Contender& one : contest.contenders)
    reports.push_back({one.rule, one.file_bytes, one.predicted_error, one.divergence.value,
                       one.divergence.error, reports.size() == contest.best});
  return reports;
}

std::optional<GainReport> make_gain_report(const optimizer::PreparedJob& job, std::size_t index, Format now) {
  const optimizer::TensorCandidates& own = job.candidates[index];
  const TensorInfo& tensor = *own.tensor;
  const auto bytes_now = tensor_bytes(now, tensor.row_length(), tensor.rows());
  const auto error_now = optimizer::nmse_of(own, now, job.measured.measurements);
  if (!bytes_now || !error_now) return std::nullopt;
  std::optional<GainReport> best;
  for (const Format format : own.formats) {
    const auto bytes = tensor_bytes(format, tensor.row_length(), tensor.rows());
    const auto error = optimizer::nmse_of(own, format, job.measured.measurements);
    if (!bytes || !error || bytes.value() <= bytes_now.value() || *error >= *error_now) continue;
    const std::uint64_t more = bytes.value() - bytes_now.value();
    const double saved = job.sensitivity[index] * (*error_now - *error);
    if (!best || saved * double(best->more_bytes) > best->saved_error * double(more))
      best = GainReport{tensor.name, std::string(name_of(now)), std::string(name_of(format)), more, saved};
  }
  if (best && best->saved_error > 0) return best;
  return std::nullopt;
}

bool gains_more(const GainReport& a, const GainReport& b) {
  return a.saved_error * double(b.more_bytes) > b.saved_error * double(a.more_bytes);
}

TensorReport make_tensor_report(const Model& model, const optimizer::PreparedJob& job, std::size_t index,
                                Format format) {
  const TensorInfo& tensor = model.tensors()[index];
  TensorReport row;
  row.name = tensor.name;
  row.role = optimizer::tensor_role(tensor.name);
  row.layer = optimizer::layer_of(tensor.name);
  row.shape.assign(tensor.ne.begin(), tensor.ne.begin() + std::max<std::uint32_t>(tensor.n_dims, 1));
  row.from = name_of(tensor.format);
  row.format = name_of(format);
  row.elements = tensor.elements();
  row.bytes = bytes_as(tensor, format);
  row.kept = format == tensor.format;
  if (row.kept) {
    row.kept_because = job.candidates[index].kept_because;
    return row;
  }
  if (const FormatMeasurement* error = measured(job, tensor.name, format)) {
    row.nmse = error->nmse;
    row.bias_share = error->bias_share;
  }
  row.sensitivity = job.sensitivity[index];
  row.sensitivity_source = job.sensitivity_source[index];
  return row;
}

PlanReport make_plan_summary(const Model& model, const optimizer::Solution& solution,
                             std::span<const StaticReport> statics) {
  PlanReport report;
  report.target = target_report(solution.target);
  report.feasible = solution.feasible;
  report.budgets = budget_reports(solution);
  report.elements = solution.elements;
  report.tensor_bytes = solution.tensor_bytes;
  report.file_bytes = solution.file_bytes;
  report.bpw = solution.bpw();
  report.error_unit = solution.error_unit == state::SensitivityUnit::Nats ? "nats" : "relative";
  if (solution.error_is_known) report.predicted_error = solution.predicted_error;
  if (solution.is_filled()) report.unfilled_error = solution.unfilled_error;
  if (solution.proof) report.proof = proof_report(*solution.proof);
  report.static_recipe = solution.static_recipe;
  report.limits = solution.limits;
  report.notes = solution.notes;
  if (solution.estimate) {
    report.has_memory = true;
    report.ctx_size = solution.estimate->ctx_size;
    for (const optimizer::MemoryItem& item : solution.estimate->items)
      report.memory.push_back({item.what, std::string(to_string(item.device)), item.bytes, item.how});
  }
  if (report.predicted_error) report.quality = quality_of(*report.predicted_error, statics);
  FormatUses uses;
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    const TensorInfo& tensor = model.tensors()[i];
    const Format format = solution.recipe.entries[i].format;
    uses.add(format, tensor.elements(), bytes_as(tensor, format));
  }
  report.formats = uses.sorted();
  return report;
}

PlanReport make_plan_report(const Model& model, const optimizer::PreparedJob& job,
                            const optimizer::Solution& solution,
                            const optimizer::StaticComparisons& statics) {
  StaticReports mixtures = make_static_reports(statics);
  PlanReport report = make_plan_summary(model, solution, mixtures.compared);
  report.statics = std::move(mixtures);
  for (std::size_t i = 0; i < model.tensors().size(); ++i) {
    const Format format = solution.recipe.entries[i].format;
    report.tensors.push_back(make_tensor_report(model, job, i, format));
    if (!report.feasible) continue;
    if (auto gain = make_gain_report(job, i, format)) report.gains.push_back(std::move(*gain));
  }
  std::ranges::stable_sort(report.gains, gains_more);
  return report;
}

}  // namespace quantfit::cli

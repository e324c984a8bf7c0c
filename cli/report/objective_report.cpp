#include "cli/report/objective_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <tuple>

#include "optimizer/llama_cpp/tensor_role.h"
#include "optimizer/planning/sensitivity.h"

namespace quantfit::cli {
namespace {

// metric_identity() writes what a run with covariances was measured by behind what one without is measured
// by.
constexpr std::string_view kCovariances = " covariances=";

constexpr std::string_view kBuiltIn = "built-in weights by role, from measurements of other models";

std::string text_named(const state::Contents* contents, const std::string& fingerprint) {
  if (contents != nullptr)
    for (const auto& [parameters, calibration] : contents->calibrations)
      if (parameters.text_fingerprint == fingerprint && !calibration.text_name.empty())
        return calibration.text_name;
  return fingerprint.empty() ? "an unknown text" : "text " + fingerprint;
}

std::string source_of(const state::Contents* contents, const state::SensitivitySet& set) {
  return fmt::format("measured on the model itself: {}, {} tokens of {}",
                     set.scope.method == "fisher" ? "gradients" : set.scope.method, set.scope.tokens,
                     text_named(contents, set.scope.text_fingerprint));
}

std::string feedback_of(const std::string& metric) {
  return metric.find(kCovariances) == std::string::npos
             ? std::string()
             : "encoders carry errors over to later columns, by how inputs vary together";
}

class LogMean {
 public:
  void add(double ratio) {
    sum_ += std::log(ratio);
    ++count_;
  }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] double value() const { return std::exp(sum_ / static_cast<double>(count_)); }

 private:
  double sum_ = 0;
  std::uint64_t count_ = 0;
};

// The run that differs in nothing but that its encoders had no feedback.
const state::RunContents* without_feedback(const state::Contents& contents, const state::RunParameters& run) {
  const std::size_t at = run.metric.find(kCovariances);
  if (at == std::string::npos) return nullptr;
  state::RunParameters other = run;
  other.metric.resize(at);
  for (const auto& [key, one] : contents.runs)
    if (one.run.parameters == other) return &one;
  return nullptr;
}

void add_gains(const state::Contents& contents, const state::RunContents& with, ObjectiveReport& report) {
  const state::RunContents* without = without_feedback(contents, with.run.parameters);
  if (without == nullptr) return;
  std::map<Format, LogMean> formats;
  for (const auto& [name, own] : with.measurements) {
    const auto other = without->measurements.find(name);
    if (other == without->measurements.end()) continue;
    LogMean tensor;
    for (const FormatMeasurement& one : own.errors) {
      const auto same = std::ranges::find(other->second.errors, one.format, &FormatMeasurement::format);
      if (same == other->second.errors.end() || !(one.nmse > 0) || !(same->nmse > 0)) continue;
      tensor.add(one.nmse / same->nmse);
      formats[one.format].add(one.nmse / same->nmse);
    }
    if (tensor.count() > 0)
      report.gains_by_tensor.push_back({name, own.role, own.layer, tensor.count(), tensor.value()});
  }
  for (const auto& [format, mean] : formats)
    report.gains_by_format.push_back({std::string(name_of(format)), "", {}, mean.count(), mean.value()});
  std::ranges::stable_sort(report.gains_by_format, {}, &ObjectiveReport::Gain::ratio);
}

nlohmann::ordered_json gains_json(const std::vector<ObjectiveReport::Gain>& gains, std::string_view what,
                                  std::string_view counted) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ObjectiveReport::Gain& gain : gains) {
    nlohmann::ordered_json row = {{std::string(what), gain.name}};
    if (!gain.role.empty()) row["role"] = gain.role;
    if (gain.layer) row["layer"] = *gain.layer;
    row[std::string(counted)] = gain.count;
    row["ratio"] = gain.ratio;
    json.push_back(std::move(row));
  }
  return json;
}

}  // namespace

const state::SensitivitySet* sensitivities_of(const state::Contents& contents,
                                              const state::RunParameters& run) {
  const auto rank = [](const state::SensitivitySet& set) {
    return std::tuple(set.scope.unit == state::SensitivityUnit::Nats, set.scope.tokens,
                      set.scope.engine_version);
  };
  const state::SensitivitySet* best = nullptr;
  for (const auto& [key, set] : contents.sensitivities)
    if (!set.partial && set.scope.metric == run.metric &&
        set.scope.importance_fingerprint == run.importance_fingerprint &&
        (best == nullptr || rank(set) > rank(*best)))
      best = &set;
  return best;
}

ObjectiveReport make_objective_report(const optimizer::JobInputs& inputs, const optimizer::PreparedJob& job,
                                      const state::Contents* contents) {
  ObjectiveReport report;
  report.source = kBuiltIn;
  const state::RunContents* run = nullptr;
  if (contents != nullptr)
    for (const auto& [key, one] : contents->runs)
      if (one.run.id == job.measured.run) run = &one;
  const state::SensitivitySet* set = nullptr;
  if (job.error_unit == state::SensitivityUnit::Nats) {
    report.unit = "nats";
    if (run != nullptr) set = sensitivities_of(*contents, run->run.parameters);
    if (set == nullptr && !inputs.measured_sets.empty()) set = &inputs.measured_sets.back();
    if (set != nullptr) report.source = source_of(contents, *set);
  }
  for (std::size_t i = 0; i < job.candidates.size(); ++i) {
    const optimizer::TensorCandidates& tensor = job.candidates[i];
    if (!tensor.kept_because.empty() || !(job.sensitivity[i] > 0)) continue;
    const std::string& name = tensor.tensor->name;
    ObjectiveReport::Weight weight{name, std::string(optimizer::tensor_role(name)), optimizer::layer_of(name),
                                   job.sensitivity[i], std::nullopt};
    const state::Sensitivity* row = set == nullptr ? nullptr : set->find(name);
    if (row != nullptr && row->value == weight.value) weight.standard_error = row->standard_error;
    report.weights.push_back(std::move(weight));
  }
  if (run != nullptr) {
    report.feedback = feedback_of(run->run.parameters.metric);
    add_gains(*contents, *run, report);
  }
  return report;
}

ObjectiveReport make_objective_report(const state::Contents& contents, const state::RunContents& run) {
  ObjectiveReport report;
  const state::SensitivitySet* set = sensitivities_of(contents, run.run.parameters);
  report.source = set != nullptr ? source_of(&contents, *set) : std::string(kBuiltIn);
  report.unit = set != nullptr && set->scope.unit == state::SensitivityUnit::Nats ? "nats" : "relative";
  std::vector<TensorInfo> shapes;
  optimizer::ModelTraits traits;
  traits.tied = !run.measurements.contains("output.weight");
  for (const auto& [name, measured] : run.measurements) {
    shapes.push_back(measured.shape);
    shapes.back().name = name;
    if (measured.layer) traits.block_count = std::max(traits.block_count, *measured.layer + 1);
    if (measured.role.ends_with("_exps"))
      traits.expert_count = static_cast<std::uint32_t>(measured.shape.matrices());
  }
  const std::vector<optimizer::TensorSensitivity> priors = optimizer::default_sensitivities(traits, shapes);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const state::TensorMeasurement& measured = run.measurements.at(shapes[i].name);
    ObjectiveReport::Weight weight{shapes[i].name, measured.role, measured.layer, priors[i].value,
                                   std::nullopt};
    if (set != nullptr) {
      const state::Sensitivity* row = set->find(shapes[i].name);
      if (row == nullptr) continue;
      weight.value = row->value;
      weight.standard_error = row->standard_error;
    }
    report.weights.push_back(std::move(weight));
  }
  report.feedback = feedback_of(run.run.parameters.metric);
  add_gains(contents, run, report);
  return report;
}

nlohmann::ordered_json to_json(const ObjectiveReport& report) {
  nlohmann::ordered_json json = {{"unit", report.unit}, {"source", report.source}};
  if (!report.feedback.empty()) json["error_feedback"] = report.feedback;
  json["weights"] = nlohmann::ordered_json::array();
  for (const ObjectiveReport::Weight& weight : report.weights) {
    nlohmann::ordered_json row = {{"tensor", weight.tensor}, {"role", weight.role}};
    if (weight.layer) row["layer"] = *weight.layer;
    row["value"] = weight.value;
    if (weight.standard_error) row["standard_error"] = *weight.standard_error;
    json["weights"].push_back(std::move(row));
  }
  if (!report.gains_by_format.empty()) {
    json["gains_by_format"] = gains_json(report.gains_by_format, "format", "tensors");
    json["gains_by_tensor"] = gains_json(report.gains_by_tensor, "tensor", "formats");
  }
  return json;
}

}  // namespace quantfit::cli

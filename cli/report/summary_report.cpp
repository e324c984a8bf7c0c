#include "cli/report/summary_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/report/json.h"
#include "cli/report/web/assets.h"
#include "cli/run_command.h"
#include "core/text.h"
#include "kernels/row_kernels.h"
#include "optimizer/planning/measured_sensitivity.h"

namespace quantfit::cli {
namespace {

// No screen shows more points of a curve.
constexpr std::size_t kCurvePoints = 500;
// A state file that served for years: the newest recipes are enough.
constexpr std::size_t kMostAnswers = 50;

void add_evaluations(const state::Contents& contents, SummaryReport& report) {
  for (const auto& [identity, evaluation] : contents.evaluations) add_evaluation(evaluation, report);
}

// Where no measured set counts, built-in weights that the sum of the recipe's errors does not contradict.
void take_built_in_weights(const ObjectiveReport& objective, PlanReport& answer) {
  double sum = 0;
  std::map<std::string_view, double> weights;
  for (const ObjectiveReport::Weight& weight : objective.weights) weights[weight.tensor] = weight.value;
  const auto weight_of = [&](const TensorReport& row) {
    const auto found = weights.find(row.name);
    return row.kept || found == weights.end() ? 0 : found->second;
  };
  for (const TensorReport& row : answer.tensors) sum += weight_of(row) * row.nmse;
  if (!(std::abs(sum - *answer.predicted_error) <= 1e-6 * sum)) return;
  for (TensorReport& row : answer.tensors) {
    row.sensitivity = weight_of(row);
    if (row.sensitivity > 0) row.sensitivity_source = objective.source;
  }
}

PlanReport answer_of(const state::SavedRecipe& saved, const state::RunContents& run,
                     const state::SensitivitySet* set, const ObjectiveReport& objective) {
  PlanReport answer;
  answer.target.kind = "recipe";
  answer.target.text = saved.target;
  answer.feasible = true;
  BudgetReport budget;
  budget.of = "tensor data";
  budget.limit_bytes = saved.budget_bytes;
  budget.used_bytes = saved.bytes;
  answer.budgets.push_back(budget);
  answer.predicted_error = set == nullptr ? saved.objective : optimizer::foresight_of(*set)(saved.objective);
  answer.error_unit = set != nullptr && set->scope.unit == state::SensitivityUnit::Nats ? "nats" : "relative";
  std::vector<TensorInfo> outputs;
  for (const RecipeEntry& entry : saved.recipe.entries) {
    const auto found = run.measurements.find(entry.tensor);
    if (found == run.measurements.end()) continue;  // its shape is not known here
    const state::TensorMeasurement& measured = found->second;
    TensorInfo output = measured.shape;
    output.name = entry.tensor;
    output.format = entry.format;
    const auto bytes = tensor_bytes(entry.format, output.row_length(), output.rows());
    if (!bytes) continue;
    output.bytes = bytes.value();
    TensorReport row;
    row.name = entry.tensor;
    row.role = measured.role;
    row.layer = measured.layer;
    row.shape.assign(output.ne.begin(), output.ne.begin() + std::max<std::uint32_t>(output.n_dims, 1));
    row.from = name_of(measured.shape.format);
    row.format = name_of(entry.format);
    row.elements = output.elements();
    row.bytes = output.bytes;
    row.kept = entry.format == measured.shape.format;
    for (const FormatMeasurement& error : measured.errors)
      if (error.format == entry.format) {
        row.nmse = error.nmse;
        row.bias_share = error.bias_share;
      }
    if (const auto* sensitivity = set == nullptr ? nullptr : set->find(entry.tensor)) {
      row.sensitivity = sensitivity->value;
      row.sensitivity_source = sensitivity->obtained.empty() ? set->scope.method : sensitivity->obtained;
    }
    answer.elements += row.elements;
    answer.tensor_bytes += row.bytes;
    answer.tensors.push_back(std::move(row));
    outputs.push_back(std::move(output));
  }
  answer.bpw = bits_per_element(answer.tensor_bytes, answer.elements);
  answer.formats = formats_used(outputs);
  if (set == nullptr) take_built_in_weights(objective, answer);
  return answer;
}

// The run of the newest recipe; without recipes the one that knows the most tensors.
const state::RunContents* run_to_draw(const state::Contents& contents) {
  const state::RunContents* best = nullptr;
  const auto rank = [](const state::RunContents& run) {
    std::string newest;
    for (const auto& [fingerprint, saved] : run.recipes) newest = std::max(newest, saved.created);
    return std::pair(newest, run.measurements.size());
  };
  for (const auto& [key, run] : contents.runs)
    if (!run.measurements.empty() && (best == nullptr || rank(run) > rank(*best))) best = &run;
  return best;
}

// Bytes of the tensors that a run did not measure: what recipes have beyond the others; without a recipe they
// are taken to be norms in 32 bits.
std::uint64_t other_bytes(const state::Contents& contents, const state::RunContents& run) {
  std::uint64_t elements = 0;
  for (const auto& [name, measured] : run.measurements) elements += measured.shape.elements();
  for (const auto& [fingerprint, saved] : run.recipes) {
    std::uint64_t known = 0;
    for (const RecipeEntry& entry : saved.recipe.entries) {
      const auto found = run.measurements.find(entry.tensor);
      if (found == run.measurements.end()) continue;
      const TensorInfo& shape = found->second.shape;
      if (const auto bytes = tensor_bytes(entry.format, shape.row_length(), shape.rows()))
        known += bytes.value();
    }
    if (known <= saved.bytes) return saved.bytes - known;
  }
  return sizeof(float) * (contents.model.elements - std::min(contents.model.elements, elements));
}

FrontierReport curve_of(const state::Contents& contents, const state::RunContents& run,
                        const ObjectiveReport& objective) {
  std::map<std::string, double> sensitivity;
  for (const ObjectiveReport::Weight& weight : objective.weights) sensitivity[weight.tensor] = weight.value;
  FrontierReport report;
  report.error_unit = objective.unit;
  auto frontier = optimizer::recorded_frontier(run.measurements, sensitivity, other_bytes(contents, run));
  if (!frontier) return report;
  if (const auto* set = sensitivities_of(contents, run.run.parameters))
    frontier.value().foresight = optimizer::foresight_of(*set);
  report = make_frontier_report(
      contents.model.elements, frontier.value(), {},
      objective.unit == "nats" ? state::SensitivityUnit::Nats : state::SensitivityUnit::Relative);
  return report;
}

// The page with its places filled; what is filled in is not looked at again.
std::string filled(std::string_view page, const std::map<std::string_view, std::string>& parts) {
  std::string text;
  while (!page.empty()) {
    const std::size_t brace = page.find('{');
    text += page.substr(0, brace);
    if (brace == std::string_view::npos) break;
    page.remove_prefix(brace);
    const std::size_t end = page.find('}');
    const auto part = end == std::string_view::npos ? parts.end() : parts.find(page.substr(1, end - 1));
    if (part == parts.end()) {
      text += '{';
      page.remove_prefix(1);
    } else {
      text += part->second;
      page.remove_prefix(end + 1);
    }
  }
  return text;
}

}  // namespace

SummaryReport make_summary(const optimizer::JobInputs& inputs, const optimizer::PreparedJob& job,
                           FrontierReport frontier, std::vector<PlanReport> answers,
                           const std::string& command) {
  SummaryReport report;
  report.model_name = inputs.model.shards()[0].path.filename().string();
  report.architecture = inputs.model.architecture();
  report.elements = inputs.model.total_elements();
  for (const GgufShard& shard : inputs.model.shards()) report.bytes += shard.file_bytes;
  report.error_unit = answers.empty() ? frontier.error_unit : answers.front().error_unit;
  report.frontier = std::move(frontier);
  report.answers = std::move(answers);
  report.provenance = {{"program", "quantfit " QUANTFIT_VERSION},
                       {"command", command},
                       {"model", inputs.model.shards()[0].path.string()},
                       {"model fingerprint", inputs.model_fingerprint}};
  if (inputs.importance) {
    report.provenance.emplace_back("importance matrix", inputs.importance->path().string());
    report.provenance.emplace_back("importance fingerprint", inputs.importance_fingerprint);
  } else {
    report.provenance.emplace_back("importance matrix", "none: all columns count the same");
  }
  report.provenance.emplace_back("encoder version", std::to_string(kernels::kEncoderVersion));
  std::optional<state::Contents> contents;
  if (inputs.store)
    if (auto read = inputs.store->contents()) contents = std::move(read).value();
  if (contents) add_evaluations(*contents, report);
  report.objective = make_objective_report(inputs, job, contents ? &*contents : nullptr);
  return report;
}

void add_evaluation(const optimizer::EvaluatedFiles& evaluated, SummaryReport& report) {
  for (const optimizer::EvaluatedFile& file : evaluated.files) {
    const auto add = [&](std::string quantity, double value, std::optional<double> error) {
      report.evaluations.push_back({file.path.filename().string(), evaluated.text, evaluated.chunks,
                                    std::move(quantity), value, error});
    };
    add("mean kl divergence", file.figures.divergence.value, file.figures.divergence_chunk_error);
    if (file.predicted) add(std::string(optimizer::kPredictedQuantity), *file.predicted, std::nullopt);
    add("same top token", file.figures.same_top.value, file.figures.same_top.error);
    add("perplexity", file.figures.perplexity.value, file.figures.perplexity.error);
  }
}

void add_evaluation(const state::Evaluation& evaluation, SummaryReport& report) {
  for (const state::Estimate& estimate : evaluation.estimates)
    report.evaluations.push_back({evaluation.candidate_name, evaluation.text_name, evaluation.identity.chunks,
                                  estimate.quantity, estimate.value, estimate.standard_error});
}

SummaryReport make_summary(const state::Contents& contents, const std::string& path) {
  const state::RunContents* drawn = run_to_draw(contents);
  SummaryReport report;
  report.model_name = contents.model.name;
  report.elements = contents.model.elements;
  std::vector<std::pair<std::string, PlanReport>> answers;  // by time
  for (const auto& [key, run] : contents.runs) {
    const state::SensitivitySet* set = sensitivities_of(contents, run.run.parameters);
    const ObjectiveReport objective = make_objective_report(contents, run);
    for (const auto& [fingerprint, saved] : run.recipes)
      answers.emplace_back(saved.created, answer_of(saved, run, set, objective));
  }
  std::ranges::stable_sort(answers, {}, &std::pair<std::string, PlanReport>::first);
  if (answers.size() > kMostAnswers)
    answers.erase(answers.begin(), answers.end() - static_cast<std::ptrdiff_t>(kMostAnswers));
  for (auto& [created, answer] : answers) report.answers.push_back(std::move(answer));
  if (!report.answers.empty()) report.error_unit = report.answers.back().error_unit;
  if (drawn != nullptr) {
    report.objective = make_objective_report(contents, *drawn);
    if (report.answers.empty()) report.error_unit = report.objective->unit;
    report.frontier = curve_of(contents, *drawn, *report.objective);
  }
  add_evaluations(contents, report);
  report.provenance = {{"program", "quantfit " QUANTFIT_VERSION},
                       {"state file", path},
                       {"model fingerprint", contents.model.fingerprint}};
  for (const auto& [fingerprint, importance] : contents.importances)
    report.provenance.emplace_back("importance matrix",
                                   fmt::format("{} ({})", importance.name, importance.fingerprint));
  for (const auto& [key, run] : contents.runs)
    report.provenance.emplace_back(
        fmt::format("run {}", run.run.id),
        fmt::format("effort {}, encoder version {}, program {}, {} tensors", run.run.parameters.effort,
                    run.run.parameters.encoder_version, run.run.program_version, run.measurements.size()));
  return report;
}

nlohmann::ordered_json to_json(const SummaryReport& report) {
  nlohmann::ordered_json json = document_of("report");
  json["model"] = {{"name", report.model_name}};
  if (!report.architecture.empty()) json["model"]["architecture"] = report.architecture;
  json["model"]["elements"] = report.elements;
  if (report.bytes != 0) json["model"]["bytes"] = report.bytes;
  json["error_unit"] = report.error_unit;
  const nlohmann::ordered_json curve = to_json(report.frontier, kCurvePoints);
  json["curve"] = curve["curve"];
  json["static_recipes"] = curve["static_recipes"];
  if (report.objective) json["objective"] = to_json(*report.objective);
  json["answers"] = nlohmann::ordered_json::array();
  for (const PlanReport& answer : report.answers) {
    json["answers"].push_back(to_json(answer));
    if (!answer.run_command.empty()) json["answers"].back()["run_text"] = shell_text(answer.run_command);
  }
  json["evaluations"] = nlohmann::ordered_json::array();
  for (const SummaryReport::Measured& measured : report.evaluations) {
    json["evaluations"].push_back({{"candidate", measured.candidate},
                                   {"text", measured.text},
                                   {"chunks", measured.chunks},
                                   {"quantity", measured.quantity},
                                   {"value", measured.value}});
    if (measured.standard_error) json["evaluations"].back()["standard_error"] = *measured.standard_error;
  }
  json["provenance"] = report.provenance;
  return json;
}

std::string to_html(const SummaryReport& report) {
  std::string data;
  for (const char letter : line_text(to_json(report)))
    if (letter == '<')
      data += "\\u003c";  // no text can end the script it stands in
    else
      data += letter;
  return filled(kReportPage, {{"title", markup_escaped(report.model_name) + ", quantfit"},
                              {"style", std::string(kReportStyle)},
                              {"data", data},
                              {"script", std::string(kReportScript)}});
}

}  // namespace quantfit::cli

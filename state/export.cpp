#include "state/export.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/text.h"
#include "state/keys.h"

namespace quantfit::state {
namespace {

using Json = nlohmann::ordered_json;

Json json_text(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

template <class Value>
Json value_or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json to_json(const RunParameters& parameters) {
  return {{"importance_fingerprint", json_text(parameters.importance_fingerprint)},
          {"effort", parameters.effort},
          {"encoder_version", parameters.encoder_version},
          {"sampling", parameters.sampling},
          {"metric", parameters.metric},
          {"unit", parameters.unit}};
}

Json to_json(const TensorMeasurement& measurement) {
  Json json = {
      {"tensor", measurement.tensor},
      {"role", measurement.role},
      {"layer", value_or_null(measurement.layer)},
      {"shape", Json(std::vector<std::uint64_t>(measurement.shape.ne.begin(),
                                                measurement.shape.ne.begin() + measurement.shape.n_dims))},
      {"source_format", name_of(measurement.shape.format)},
      {"rows_sampled", measurement.rows_sampled},
      {"saved", measurement.saved}};
  Json& formats = json["formats"] = Json::array();
  for (const FormatMeasurement& row : measurement.errors)
    formats.push_back({{"format", name_of(row.format)},
                       {"nmse", row.nmse},
                       {"standard_error", row.standard_error},
                       {"bias_share", row.bias_share},
                       {"seconds", row.seconds}});
  return json;
}

Json to_json(const SavedRecipe& recipe, const std::string& fingerprint) {
  Json json = {{"fingerprint", fingerprint},          {"target", recipe.target},
               {"budget_bytes", recipe.budget_bytes}, {"bytes", recipe.bytes},
               {"objective", recipe.objective},       {"lower_bound", recipe.lower_bound},
               {"created", recipe.created},           {"provenance", recipe.recipe.provenance}};
  Json& entries = json["tensors"] = Json::array();
  for (const RecipeEntry& entry : recipe.recipe.entries)
    entries.push_back({{"tensor", entry.tensor}, {"format", name_of(entry.format)}});
  return json;
}

Json to_json(const SensitivitySet& set) {
  Json json = {{"unit", to_string(set.scope.unit)},
               {"method", set.scope.method},
               {"text_fingerprint", json_text(set.scope.text_fingerprint)},
               {"importance_fingerprint", json_text(set.scope.importance_fingerprint)},
               {"metric", set.scope.metric},
               {"program_version", set.scope.program_version},
               {"engine_version", set.scope.engine_version},
               {"tokens", set.scope.tokens},
               {"partial", set.partial},
               {"created", set.created}};
  Json& rows = json["tensors"] = Json::array();
  for (const Sensitivity& row : set.rows)
    rows.push_back({{"tensor", row.tensor},
                    {"value", row.value},
                    {"standard_error", row.standard_error},
                    {"obtained", row.obtained},
                    {"group", json_text(row.group)}});
  return json;
}

Json to_json(const Evaluation& evaluation) {
  const EvaluationIdentity& identity = evaluation.identity;
  Json json = {{"base_fingerprint", identity.base_fingerprint},
               {"candidate_fingerprint", identity.candidate_fingerprint},
               {"candidate", evaluation.candidate_name},
               {"text_fingerprint", identity.text_fingerprint},
               {"text", evaluation.text_name},
               {"context", identity.context},
               {"chunks", identity.chunks},
               {"engine_version", identity.engine_version},
               {"program_version", evaluation.program_version},
               {"created", evaluation.created}};
  Json& estimates = json["estimates"] = Json::array();
  for (const Estimate& estimate : evaluation.estimates)
    estimates.push_back({{"quantity", estimate.quantity},
                         {"value", estimate.value},
                         {"standard_error", value_or_null(estimate.standard_error)}});
  return json;
}

// Lines of fields.
class Csv {
 public:
  template <class... Fields>
  void line(const Fields&... fields) {
    bool first = true;
    ((text_ += (std::exchange(first, false) ? "" : ","), text_ += field(fields)), ...);
    text_ += "\r\n";
  }
  [[nodiscard]] std::string text() && { return std::move(text_); }

 private:
  template <class Field>
  static std::string field(const Field& value) {
    if constexpr (std::is_arithmetic_v<Field>)
      return fmt::format("{}", value);
    else
      return csv_field(value);
  }
  std::string text_;
};

std::string text_of(const std::optional<double>& value) {
  return value ? fmt::format("{}", *value) : std::string();
}

std::string measurements_csv(const Contents& contents) {
  Csv csv;
  csv.line("importance_fingerprint", "effort", "encoder_version", "sampling", "metric", "unit", "tensor",
           "role", "source_format", "rows_sampled", "format", "nmse", "standard_error", "bias_share",
           "seconds");
  for (const auto& [key, run] : contents.runs) {
    const RunParameters& parameters = run.run.parameters;
    for (const auto& [tensor, measurement] : run.measurements)
      for (const FormatMeasurement& row : measurement.errors)
        csv.line(parameters.importance_fingerprint, parameters.effort, parameters.encoder_version,
                 parameters.sampling, parameters.metric, parameters.unit, tensor, measurement.role,
                 name_of(measurement.shape.format), measurement.rows_sampled, name_of(row.format), row.nmse,
                 row.standard_error, row.bias_share, row.seconds);
  }
  return std::move(csv).text();
}

std::string sensitivities_csv(const Contents& contents) {
  Csv csv;
  csv.line("unit", "method", "text_fingerprint", "importance_fingerprint", "metric", "program_version",
           "engine_version", "tokens", "partial", "tensor", "value", "standard_error", "obtained", "group");
  for (const auto& [key, set] : contents.sensitivities)
    for (const Sensitivity& row : set.rows)
      csv.line(to_string(set.scope.unit), set.scope.method, set.scope.text_fingerprint,
               set.scope.importance_fingerprint, set.scope.metric, set.scope.program_version,
               set.scope.engine_version, set.scope.tokens, set.partial ? 1 : 0, row.tensor, row.value,
               row.standard_error, row.obtained, row.group);
  return std::move(csv).text();
}

std::string recipes_csv(const Contents& contents) {
  Csv csv;
  csv.line("recipe_fingerprint", "target", "budget_bytes", "bytes", "objective", "created", "tensor",
           "format");
  for (const auto& [key, run] : contents.runs)
    for (const auto& [fingerprint, recipe] : run.recipes)
      for (const RecipeEntry& entry : recipe.recipe.entries)
        csv.line(fingerprint, recipe.target, recipe.budget_bytes, recipe.bytes, recipe.objective,
                 recipe.created, entry.tensor, name_of(entry.format));
  return std::move(csv).text();
}

std::string evaluations_csv(const Contents& contents) {
  Csv csv;
  csv.line("base_fingerprint", "candidate_fingerprint", "candidate", "text_fingerprint", "text", "context",
           "chunks", "engine_version", "created", "quantity", "value", "standard_error");
  for (const auto& [identity, evaluation] : contents.evaluations)
    for (const Estimate& estimate : evaluation.estimates)
      csv.line(identity.base_fingerprint, identity.candidate_fingerprint, evaluation.candidate_name,
               identity.text_fingerprint, evaluation.text_name, identity.context, identity.chunks,
               identity.engine_version, evaluation.created, estimate.quantity, estimate.value,
               text_of(estimate.standard_error));
  return std::move(csv).text();
}

}  // namespace

std::string to_json_text(const Contents& contents) {
  Json json = {{"model",
                {{"fingerprint", contents.model.fingerprint},
                 {"name", contents.model.name},
                 {"elements", contents.model.elements},
                 {"digest", json_text(contents.model.digest)}}}};
  for (const char* part : {"sources", "importance_matrices", "runs", "sensitivity_sets", "calibrations",
                           "statistics_files", "evaluations", "written_files"})
    json[part] = Json::array();
  for (const auto& [stamp, source] : contents.sources) {
    Json entry = {{"proved", source.proved}, {"files", Json::array()}};
    for (const FileStamp& file : source.files)
      entry["files"].push_back({{"name", file.name},
                                {"bytes", file.bytes},
                                {"modified_ns", file.modified},
                                {"inode", file.inode}});
    json["sources"].push_back(std::move(entry));
  }
  for (const auto& [fingerprint, importance] : contents.importances)
    json["importance_matrices"].push_back({{"fingerprint", fingerprint},
                                           {"name", importance.name},
                                           {"datasets", importance.datasets},
                                           {"chunk_count", value_or_null(importance.chunk_count)},
                                           {"has_activations", importance.has_activations}});
  for (const auto& [key, run] : contents.runs) {
    Json entry = {{"parameters", to_json(run.run.parameters)},
                  {"program_version", run.run.program_version},
                  {"started", run.run.started},
                  {"finished", json_text(run.run.finished)}};
    entry["measurements"] = Json::array();
    for (const auto& [tensor, measurement] : run.measurements)
      entry["measurements"].push_back(to_json(measurement));
    entry["recipes"] = Json::array();
    for (const auto& [fingerprint, recipe] : run.recipes)
      entry["recipes"].push_back(to_json(recipe, fingerprint));
    json["runs"].push_back(std::move(entry));
  }
  for (const auto& [key, set] : contents.sensitivities) json["sensitivity_sets"].push_back(to_json(set));
  for (const auto& [parameters, calibration] : contents.calibrations)
    json["calibrations"].push_back({{"text_fingerprint", parameters.text_fingerprint},
                                    {"text", calibration.text_name},
                                    {"tokens", parameters.tokens},
                                    {"context", parameters.context},
                                    {"engine_version", parameters.engine_version},
                                    {"program_version", calibration.program_version},
                                    {"started", calibration.started},
                                    {"finished", json_text(calibration.finished)},
                                    {"layers_finished", calibration.layers_finished}});
  for (const auto& [fingerprint, file] : contents.statistics_files)
    json["statistics_files"].push_back({{"fingerprint", fingerprint},
                                        {"name", file.name},
                                        {"kind", file.kind},
                                        {"bytes", file.bytes},
                                        {"text_fingerprint", json_text(file.text_fingerprint)},
                                        {"created", file.created}});
  for (const auto& [identity, evaluation] : contents.evaluations)
    json["evaluations"].push_back(to_json(evaluation));
  for (const auto& [name, file] : contents.written_files)
    json["written_files"].push_back({{"name", name},
                                     {"recipe_fingerprint", file.recipe_fingerprint},
                                     {"importance_fingerprint", json_text(file.importance_fingerprint)},
                                     {"effort", file.effort},
                                     {"encoder_version", file.encoder_version},
                                     {"bytes", file.bytes},
                                     {"program_version", file.program_version},
                                     {"written", file.written}});
  // Every text was checked to be UTF-8 when it was read.
  return printable_json(json.dump(1)) + '\n';
}

std::string to_csv_text(const Contents& contents, ExportTable table) {
  switch (table) {
    case ExportTable::Sensitivities:
      return sensitivities_csv(contents);
    case ExportTable::Recipes:
      return recipes_csv(contents);
    case ExportTable::Evaluations:
      return evaluations_csv(contents);
    case ExportTable::Measurements:
      break;
  }
  return measurements_csv(contents);
}

}  // namespace quantfit::state

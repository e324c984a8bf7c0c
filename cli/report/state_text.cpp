#include "cli/report/state_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/report/json.h"
#include "cli/report/table.h"
#include "core/byte_size.h"
#include "core/text.h"
#include "state/keys.h"

namespace quantfit::cli {
namespace {

std::uint64_t tensors_of(const state::Contents& contents) {
  std::uint64_t most = 0;
  for (const auto& [key, run] : contents.runs) most = std::max<std::uint64_t>(most, run.measurements.size());
  return most;
}

std::uint64_t values_of(const state::RunContents& run) {
  std::uint64_t values = 0;
  for (const auto& [tensor, measurement] : run.measurements) values += measurement.errors.size();
  return values;
}

std::uint64_t recipes_of(const state::Contents& contents) {
  std::uint64_t recipes = 0;
  for (const auto& [key, run] : contents.runs) recipes += run.recipes.size();
  return recipes;
}

std::uint64_t unproved_of(const state::Contents& contents) {
  return static_cast<std::uint64_t>(
      std::ranges::count_if(contents.sources, [](const auto& source) { return !source.second.proved; }));
}

// What is known of the weights that were measured.
std::string proof_text(const state::Contents& contents) {
  if (contents.model.digest.empty())
    return "weights: known by samples of every tensor; nobody has read them all yet\n";
  std::string text = fmt::format("weights: all were read, digest {}", escaped(contents.model.digest));
  if (const std::uint64_t unproved = unproved_of(contents); unproved != 0)
    text += fmt::format("; of {} of {} sets of files only samples were", unproved, contents.sources.size());
  return text + '\n';
}

std::string modified_text(std::int64_t nanoseconds) {
  constexpr std::int64_t kNanoseconds = 1'000'000'000;
  const std::time_t seconds = nanoseconds / kNanoseconds;
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return "-";
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

// The first digits of a fingerprint are enough to tell two apart.
std::string short_name(const std::string& fingerprint) {
  return fingerprint.empty() ? "-" : fingerprint.substr(0, 8);
}

std::string importance_name(const state::Contents& contents, const std::string& fingerprint) {
  if (fingerprint.empty()) return "none";
  const auto found = contents.importances.find(fingerprint);
  return found == contents.importances.end() || found->second.name.empty() ? short_name(fingerprint)
                                                                           : found->second.name;
}

void append_section(std::string& text, std::string_view title, const Table& table, bool any) {
  if (any) text += fmt::format("\n{}\n{}", title, table.to_text());
}

}  // namespace

std::string list_text(std::span<const StateReport> reports, std::int64_t now) {
  Table table({"file", "size", "beside it", "changed", "model", "runs", "tensors", "recipes"});
  for (const StateReport& report : reports)
    table.add({report.path, format_bytes(report.bytes),
               report.statistics_bytes == 0 ? "-" : format_bytes(report.statistics_bytes),
               age_text(report.last_change, now), report.contents.model.name,
               fmt::to_string(report.contents.runs.size()), fmt::to_string(tensors_of(report.contents)),
               fmt::to_string(recipes_of(report.contents))});
  return table.to_text();
}

nlohmann::ordered_json list_document(std::span<const StateReport> reports) {
  nlohmann::ordered_json json = document_of("states");
  json["files"] = nlohmann::ordered_json::array();
  for (const StateReport& report : reports)
    json["files"].push_back({{"path", report.path},
                             {"bytes", report.bytes},
                             {"statistics_bytes", report.statistics_bytes},
                             {"last_change", report.last_change},
                             {"model", report.contents.model.name},
                             {"model_fingerprint", report.contents.model.fingerprint},
                             {"model_digest", report.contents.model.digest},
                             {"sources_unproved", unproved_of(report.contents)},
                             {"runs", report.contents.runs.size()},
                             {"tensors", tensors_of(report.contents)},
                             {"recipes", recipes_of(report.contents)},
                             {"sensitivity_sets", report.contents.sensitivities.size()},
                             {"calibrations", report.contents.calibrations.size()},
                             {"evaluations", report.contents.evaluations.size()},
                             {"may_go", report.may_go}});
  return json;
}

std::string to_text(const StateReport& report, std::int64_t now) {
  const state::Contents& contents = report.contents;
  std::string text = fmt::format("{}: {}, last changed {}\nmodel {}, {} weights, fingerprint {}\n",
                                 escaped(report.path), format_bytes(report.bytes),
                                 age_text(report.last_change, now), printable(contents.model.name),
                                 contents.model.elements, escaped(contents.model.fingerprint));
  text += proof_text(contents);

  Table sources({"file of the model", "size", "modified", "inode", "all weights read"});
  for (const auto& [stamp, source] : contents.sources) {
    const char* read = source.proved ? "yes" : "no";
    if (source.files.empty()) sources.add({"not noted", "-", "-", "-", read});
    for (const FileStamp& file : source.files)
      sources.add({file.name, fmt::to_string(file.bytes), modified_text(file.modified),
                   fmt::to_string(file.inode), read});
  }
  append_section(text, "read from", sources, !contents.sources.empty());

  Table runs(
      {"run", "importance", "effort", "encoder", "tensors", "values", "recipes", "started", "finished"});
  for (const auto& [key, run] : contents.runs)
    runs.add({fmt::to_string(run.run.id),
              importance_name(contents, run.run.parameters.importance_fingerprint), run.run.parameters.effort,
              fmt::to_string(run.run.parameters.encoder_version), fmt::to_string(run.measurements.size()),
              fmt::to_string(values_of(run)), fmt::to_string(run.recipes.size()),
              age_text(run.run.started, now),
              run.run.finished.empty() ? "not yet" : age_text(run.run.finished, now)});
  append_section(text, "measured errors", runs, !contents.runs.empty());

  Table recipes({"recipe", "run", "target", "bytes", "predicted error", "created"});
  for (const auto& [key, run] : contents.runs)
    for (const auto& [fingerprint, recipe] : run.recipes)
      recipes.add({short_name(fingerprint), fmt::to_string(run.run.id), recipe.target,
                   fmt::to_string(recipe.bytes), fmt::format("{:.4g}", recipe.objective),
                   age_text(recipe.created, now)});
  append_section(text, "recipes", recipes, recipes_of(contents) != 0);

  Table sets({"sensitivities", "unit", "text", "tokens", "tensors", "whole", "created"});
  for (const auto& [key, set] : contents.sensitivities)
    sets.add({set.scope.method, std::string(state::to_string(set.scope.unit)),
              short_name(set.scope.text_fingerprint), fmt::to_string(set.scope.tokens),
              fmt::to_string(set.rows.size()), set.partial ? "no" : "yes", age_text(set.created, now)});
  append_section(text, "sensitivity sets", sets, !contents.sensitivities.empty());

  Table calibrations({"text", "tokens", "context", "engine", "layers", "finished"});
  for (const auto& [key, calibration] : contents.calibrations)
    calibrations.add({calibration.text_name, fmt::to_string(key.tokens), fmt::to_string(key.context),
                      fmt::to_string(key.engine_version), fmt::to_string(calibration.layers_finished),
                      calibration.finished.empty() ? "not yet" : age_text(calibration.finished, now)});
  append_section(text, "calibrations", calibrations, !contents.calibrations.empty());

  Table files({"file", "kind", "size", "fingerprint", "created"});
  for (const auto& [fingerprint, file] : contents.statistics_files)
    files.add({file.name, file.kind, format_bytes(file.bytes), short_name(fingerprint),
               age_text(file.created, now)});
  append_section(text, "statistics files beside it", files, !contents.statistics_files.empty());

  Table evaluations({"candidate", "text", "chunks", "quantity", "value", "error", "created"});
  for (const auto& [identity, evaluation] : contents.evaluations)
    for (const state::Estimate& estimate : evaluation.estimates)
      evaluations.add({evaluation.candidate_name, evaluation.text_name, fmt::to_string(identity.chunks),
                       estimate.quantity, fmt::format("{:.6g}", estimate.value),
                       estimate.standard_error ? fmt::format("{:.2g}", *estimate.standard_error) : "-",
                       age_text(evaluation.created, now)});
  append_section(text, "evaluations", evaluations, !contents.evaluations.empty());

  Table written({"written file", "size", "effort", "encoder", "written"});
  for (const auto& [name, file] : contents.written_files)
    written.add({name, format_bytes(file.bytes), file.effort, fmt::to_string(file.encoder_version),
                 age_text(file.written, now)});
  append_section(text, "files written from it", written, !contents.written_files.empty());

  if (!report.may_go.empty()) {
    text += "\nmay go (quantfit state prune):\n";
    for (const std::string& sentence : report.may_go) text += fmt::format("  {}\n", sentence);
  }
  return text;
}

std::string to_text(const state::MergeSummary& summary) {
  std::string text = fmt::format(
      "added {} runs, {} tensors, {} values, {} recipes, {} sensitivity sets, {} calibrations, {} statistics "
      "files, {} evaluations\n",
      summary.runs_added, summary.tensors_added, summary.errors_added, summary.recipes_added,
      summary.sensitivities_added, summary.calibrations_added, summary.statistics_files_added,
      summary.evaluations_added);
  if (summary.differing != 0)
    text += fmt::format(
        "{} values differ between the files, which measurements of one model never do: a file was edited or "
        "damaged\n",
        summary.differing);
  return text;
}

nlohmann::ordered_json to_json(const state::MergeSummary& summary) {
  nlohmann::ordered_json json = document_of("merge");
  json["runs_added"] = summary.runs_added;
  json["tensors_added"] = summary.tensors_added;
  json["values_added"] = summary.errors_added;
  json["recipes_added"] = summary.recipes_added;
  json["sensitivity_sets_added"] = summary.sensitivities_added;
  json["calibrations_added"] = summary.calibrations_added;
  json["statistics_files_added"] = summary.statistics_files_added;
  json["evaluations_added"] = summary.evaluations_added;
  json["written_files_added"] = summary.written_files_added;
  json["differing"] = summary.differing;
  return json;
}

}  // namespace quantfit::cli

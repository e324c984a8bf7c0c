// `quantfit state`: what a state file holds, whether it is sound, what may go, and joining several.
#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/report/json.h"
#include "cli/report/state_text.h"
#include "core/atomic_file.h"
#include "core/byte_size.h"
#include "core/fingerprint.h"
#include "core/model.h"
#include "core/text.h"
#include "state/export.h"
#include "state/merge.h"
#include "state/state_store.h"
#include "state/upkeep.h"

namespace quantfit::cli {
namespace {

using Path = std::filesystem::path;

constexpr std::string_view kExtension = ".qfstate";

std::int64_t seconds_since_1970() {
  return static_cast<std::int64_t>(std::time(nullptr));
}

std::string last_change(const state::Contents& contents) {
  std::string latest;
  const auto look = [&](const std::string& time) { latest = std::max(latest, time); };
  for (const auto& [key, run] : contents.runs) {
    look(run.run.started);
    look(run.run.finished);
    for (const auto& [tensor, measurement] : run.measurements) look(measurement.saved);
    for (const auto& [fingerprint, recipe] : run.recipes) look(recipe.created);
  }
  for (const auto& [key, set] : contents.sensitivities) look(set.created);
  for (const auto& [key, calibration] : contents.calibrations) look(calibration.started);
  for (const auto& [key, evaluation] : contents.evaluations) look(evaluation.created);
  return latest;
}

Result<StateReport> report_on(const Path& path, const CancellationToken& cancel) {
  StateReport report;
  report.path = path.string();
  {
    QF_ASSIGN(const auto store, state::StateStore::open_read_only(path, &cancel));
    QF_ASSIGN(report.contents, store.contents());
  }
  std::error_code trouble;
  report.bytes = std::filesystem::file_size(path, trouble);
  if (trouble) report.bytes = 0;
  for (const auto& [fingerprint, file] : report.contents.statistics_files)
    report.statistics_bytes += file.bytes;
  report.last_change = last_change(report.contents);
  state::PruneRequest request;
  request.dry_run = true;
  QF_ASSIGN(const auto prune, state::prune_file(path, request, &cancel));
  report.may_go = prune.removed;
  return report;
}

// Files as they are; of folders the state files in them, by name.
Result<std::vector<Path>> files_of(const std::vector<std::string>& names) {
  std::vector<Path> files;
  for (const std::string& name : names.empty() ? std::vector<std::string>{"."} : names) {
    std::error_code trouble;
    if (!std::filesystem::is_directory(name, trouble)) {
      files.emplace_back(name);
      continue;
    }
    std::vector<Path> found;
    for (const auto& entry : std::filesystem::directory_iterator(name, trouble))
      if (entry.path().extension() == kExtension) found.push_back(entry.path().lexically_normal());
    if (trouble) return fail(ErrorCode::Io, "{}: {}", name, trouble.message());
    std::ranges::sort(found);
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

struct StateOptions {
  std::vector<std::string> files;
  std::string file;
  std::string output;
  std::string model;
  std::string format = "json";
  std::string table = "measurements";
  std::optional<std::uint64_t> keep_recipes;
  bool dry_run = false;
  bool json = false;
};

int list(const StateOptions& options, Console& console) {
  const auto files = files_of(options.files);
  if (!files) return console.fail(files.error());
  std::vector<StateReport> reports;
  int status = kDone;
  for (const Path& file : files.value()) {
    auto report = report_on(file, console.token());
    if (report)
      reports.push_back(std::move(report).value());
    else
      status = console.fail(report.error());  // the others are listed all the same
  }
  if (reports.empty() && status == kDone) {
    console.logger().log(LogLevel::Info, fmt::format("no {} files here", kExtension));
    if (!options.json) return status;
  }
  console.print(options.json ? document_text(list_document(reports))
                             : list_text(reports, seconds_since_1970()));
  return status;
}

int show(const StateOptions& options, Console& console) {
  const auto report = report_on(options.file, console.token());
  if (!report) return console.fail(report.error());
  console.print(options.json ? document_text(list_document({&report.value(), 1}))
                             : to_text(report.value(), seconds_since_1970()));
  return kDone;
}

// Every weight of `path` beside those that were measured. Success says what is proved, in a sentence.
Result<std::string> compare_weights(const Path& file, const Path& path, Console& console) {
  QF_ASSIGN(const auto store, state::StateStore::open_read_only(file, &console.token()));
  QF_ASSIGN(const state::ModelIdentity measured, store.model());
  QF_ASSIGN(const Model model, Model::open(path));
  const std::string name = escaped(path.string());
  if (fingerprint(model) != measured.fingerprint)
    return fail(ErrorCode::IdentityMismatch, "{}: not the model that was measured: samples of it differ",
                name);
  QF_ASSIGN(const std::string digest, weights_digest(model, console.progress(), console.token()));
  if (measured.digest.empty())
    return fmt::format(
        "{}: samples of every tensor are those that were measured; the digest of all weights is {}, "
        "and none is on record to compare it with",
        name, digest);
  if (digest != measured.digest)
    return fail(ErrorCode::IdentityMismatch,
                "{}: not the model that was measured: samples agree, the digest of all weights is {}, not {}",
                name, digest, escaped(measured.digest));
  return fmt::format("{}: every weight is that of the model that was measured", name);
}

int verify(const StateOptions& options, Console& console) {
  int status = kDone;
  for (const std::string& file : options.files) {
    const auto troubles = state::verify_file(file, &console.token());
    if (!troubles) {
      status = console.fail(troubles.error());
      if (status == kInterrupted) return status;
      continue;
    }
    for (const std::string& trouble : troubles.value())
      status = console.fail(fail(ErrorCode::Malformed, "{}: {}", file, trouble));
    if (troubles.value().empty()) console.print(fmt::format("{}: sound\n", escaped(file)));
    if (options.model.empty()) continue;
    const auto compared = compare_weights(file, options.model, console);
    if (compared)
      console.print(compared.value() + '\n');
    else
      status = console.fail(compared.error());
    if (status == kInterrupted) return status;
  }
  return status;
}

int prune(const StateOptions& options, Console& console) {
  state::PruneRequest request;
  request.keep_recipes = options.keep_recipes;
  request.dry_run = options.dry_run;
  const auto report = state::prune_file(options.file, request, &console.token());
  if (!report) return console.fail(report.error());
  const state::PruneReport& done = report.value();
  if (options.json) {
    nlohmann::ordered_json json = document_of("prune");
    json["removed"] = done.removed;
    json["dry_run"] = options.dry_run;
    json["bytes_before"] = done.bytes_before;
    json["bytes_after"] = done.bytes_after;
    json["bytes_beside"] = done.bytes_beside;
    console.print(document_text(json));
    return kDone;
  }
  std::string text;
  for (const std::string& sentence : done.removed)
    text += fmt::format("{} {}\n", options.dry_run ? "would remove" : "removed", sentence);
  if (done.removed.empty()) text += "nothing may go\n";
  if (!options.dry_run) text += fmt::format("{} bytes before, {} now\n", done.bytes_before, done.bytes_after);
  if (done.bytes_beside != 0)
    text += fmt::format("{} of files beside it{}\n", format_bytes(done.bytes_beside),
                        options.dry_run ? " would go" : " went");
  console.print(text);
  return kDone;
}

int export_file(const StateOptions& options, Console& console) {
  using state::ExportTable;
  const auto store = state::StateStore::open_read_only(options.file, &console.token());
  if (!store) return console.fail(store.error());
  const auto contents = store.value().contents();
  if (!contents) return console.fail(contents.error());
  ExportTable table = ExportTable::Measurements;
  if (options.table == "sensitivities") table = ExportTable::Sensitivities;
  if (options.table == "recipes") table = ExportTable::Recipes;
  if (options.table == "evaluations") table = ExportTable::Evaluations;
  const std::string text = options.format == "csv" ? state::to_csv_text(contents.value(), table)
                                                   : state::to_json_text(contents.value());
  if (options.output.empty()) {
    console.print(text);
    return kDone;
  }
  std::error_code trouble;
  if (std::filesystem::exists(std::filesystem::symlink_status(options.output, trouble)))
    return console.fail(fail(ErrorCode::InvalidArgument, "{}: exists already; remove it or name another file",
                             options.output));
  if (auto written = write_file_atomically(options.output, text, Existing::Keep); !written)
    return console.fail(written.error());
  return kDone;
}

int merge(const StateOptions& options, Console& console) {
  if (options.files.empty())
    return console.fail(
        fail(ErrorCode::InvalidArgument, "name at least one file to merge into {}", options.file));
  const std::vector<Path> others(options.files.begin(), options.files.end());
  const auto summary = state::merge_files(options.file, others, &console.token());
  if (!summary) return console.fail(summary.error());
  console.print(options.json ? document_text(to_json(summary.value())) : to_text(summary.value()));
  return kDone;
}

// A command below `state` that works on `options`.
template <class Run>
Command part(std::string name, std::string sentence, const std::shared_ptr<StateOptions>& options, Run run) {
  Command command;
  command.name = std::move(name);
  command.sentence = std::move(sentence);
  command.run = [options, run](Console& console) { return run(*options, console); };
  return command;
}

void add_file(Command& command, StateOptions& options) {
  command.table.add("file", options.file, "FILE.qfstate", "state file").needed().file();
}

void add_json(Command& command, StateOptions& options) {
  command.table.flag("--json", options.json, "print one JSON document instead of text");
}

}  // namespace

Command make_state_command() {
  Command command;
  command.name = "state";
  command.sentence = "Look into state files, check, prune, export and merge them";

  auto options = std::make_shared<StateOptions>();
  Command ls = part("ls", "List state files: size, age, model, what was measured", options, list);
  ls.table.add("files", options->files, "FILE", "state files, or folders that hold some (default: this one)")
      .file();
  add_json(ls, *options);
  command.commands.push_back(std::move(ls));

  options = std::make_shared<StateOptions>();
  Command look = part("show", "Show what is in one state file, and what may go", options, show);
  add_file(look, *options);
  add_json(look, *options);
  command.commands.push_back(std::move(look));

  options = std::make_shared<StateOptions>();
  Command check =
      part("verify", "Check everything in state files, and the files beside them", options, verify);
  check.table.add("files", options->files, "FILE.qfstate", "state files").needed().file();
  check.table
      .add("--model", options->model, "MODEL.gguf",
           "read all of it, and compare every weight with what was measured")
      .file();
  command.commands.push_back(std::move(check));

  options = std::make_shared<StateOptions>();
  Command clean = part("prune", "Remove what nothing will read again", options, prune);
  add_file(clean, *options);
  clean.table.flag("--dry-run", options->dry_run, "say what would go, and change nothing");
  clean.table.add("--keep-recipes", options->keep_recipes, "N",
                  "of each run's recipes keep the newest N only");
  add_json(clean, *options);
  clean.notes = {
      "Removed are runs that a newer encoder measured again, runs without measurements, partial sensitivity "
      "sets, importance matrices that nothing was measured with, and files of statistics beside the state "
      "file that serve nothing in it."};
  command.commands.push_back(std::move(clean));

  options = std::make_shared<StateOptions>();
  Command out = part("export", "Write a state file's content as JSON or CSV", options, export_file);
  add_file(out, *options);
  out.table.add("--format", options->format, "FORMAT", "json: everything; csv: one table")
      .one_of({"json", "csv"});
  out.table.add("--table", options->table, "TABLE", "table for csv")
      .one_of({"measurements", "sensitivities", "recipes", "evaluations"});
  out.table.add("--output", options->output, "FILE", "write there instead of to standard output")
      .alias("-o")
      .file();
  command.commands.push_back(std::move(out));

  options = std::make_shared<StateOptions>();
  Command join = part("merge", "Bring into one state file what others know", options, merge);
  join.table
      .add("into", options->file, "INTO.qfstate", "state file that takes it; made when it does not exist")
      .needed()
      .file();
  join.table
      .add("others", options->files, "FILE.qfstate", "state files of the same model; they stay as they are")
      .needed()
      .file();
  add_json(join, *options);
  join.notes = {"The result is the same for any order of the files, and merging again changes nothing.",
                "  quantfit state merge model.qfstate part-*.qfstate"};
  command.commands.push_back(std::move(join));
  return command;
}

}  // namespace quantfit::cli

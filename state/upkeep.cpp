#include "state/upkeep.h"

#include <algorithm>
#include <functional>
#include <system_error>
#include <tuple>

#include "core/text.h"
#include "state/contents.h"
#include "state/keys.h"
#include "state/schema.h"
#include "state/sqlite.h"
#include "state/state_store.h"
#include "state/statistics_files.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kCheckEverything = "PRAGMA integrity_check(1)";
constexpr Sql kCheckReferences = "PRAGMA foreign_key_check";

Result<void> check_deeply(const Database& database) {
  QF_ASSIGN(auto integrity, Statement::prepare(database, kCheckEverything));
  QF_TRY(check_structure(database, std::move(integrity)));
  QF_ASSIGN(auto references, Statement::prepare(database, kCheckReferences));
  QF_ASSIGN(const bool dangling, references.step());
  if (dangling)
    return fail(ErrorCode::Malformed, "{}: the file is damaged: a row of table {} refers to nothing",
                database.path(), printable(references.text(0)));
  return references.finish();
}

std::uint64_t bytes_of_file(const std::filesystem::path& path) {
  std::error_code trouble;
  const std::uintmax_t bytes = std::filesystem::file_size(path, trouble);
  return trouble ? 0 : bytes;
}

// What goes, and how: what stands in the state file, a file beside it, or both.
struct Removal {
  std::string sentence;
  std::function<Result<void>(Database&)> remove = {};
  std::filesystem::path file = {};
};

// What stays, as far as statistics files are about it.
struct Kept {
  std::vector<std::string> metrics;           // of runs
  std::vector<std::string> gradient_texts;    // fingerprints, of sensitivity sets
  std::vector<std::string> importance_names;  // of importance matrices

  // Whether something that stays was measured with that file.
  [[nodiscard]] bool uses(const StatisticsFile& file) const {
    const std::string text = file.text_fingerprint.substr(0, file.text_fingerprint.find('-'));
    const auto is_among = [](const std::vector<std::string>& all, const std::string& one) {
      return std::ranges::find(all, one) != all.end();
    };
    if (file.kind == "importance") return is_among(importance_names, file.name);
    if (file.kind == "row weights") return is_among(gradient_texts, text);
    if (file.kind == "moments")
      return std::ranges::any_of(metrics, [&](const std::string& metric) {
        return metric.find("text=" + text) != std::string::npos;
      });
    return true;
  }
};

// Why an entry goes; empty: it stays.
std::string_view why_gone(const StatisticsFile& file, const Contents& contents, const Kept& kept,
                          const std::filesystem::path& path) {
  std::error_code trouble;
  if (!std::filesystem::exists(path_beside(path, file.name), trouble) && !trouble)
    return "it is not there any more";
  const bool replaced = std::ranges::any_of(contents.statistics_files, [&](const auto& other) {
    return other.second.name == file.name && other.second.created > file.created;
  });
  if (replaced) return "a newer one has its name";
  return kept.uses(file) ? "" : "nothing that is known was measured with it";
}

// Of statistics files: entries, the files themselves, and files that no entry names any more.
void add_statistics(const Contents& contents, const Kept& kept, const std::filesystem::path& path,
                    std::vector<Removal>& removals) {
  std::vector<std::string> stay;
  for (const auto& [fingerprint, file] : contents.statistics_files)
    if (why_gone(file, contents, kept, path).empty()) stay.push_back(file.name);
  const auto stays = [&](const std::string& name) { return std::ranges::find(stay, name) != stay.end(); };
  std::vector<std::string> named;
  for (const auto& [fingerprint, file] : contents.statistics_files) {
    named.push_back(file.name);
    const std::string_view why = why_gone(file, contents, kept, path);
    if (why.empty()) continue;
    Removal removal{fmt::format("statistics file {}: {}", printable(file.name), why),
                    [fingerprint = fingerprint](Database& database) {
                      return delete_statistics_file(database, fingerprint);
                    }};
    if (!stays(file.name)) removal.file = path_beside(path, file.name);
    removals.push_back(std::move(removal));
  }
  for (const std::filesystem::path& file : statistics_files_of(path)) {
    const std::string name = file.filename().string();
    if (std::ranges::find(named, name) == named.end())
      removals.push_back(
          {fmt::format("file {}: a run that was cut short left it", printable(name)), {}, file});
  }
}

bool replaces(const RunSummary& newer, const RunSummary& older) {
  const auto kind = [](const RunParameters& parameters) {
    return std::tie(parameters.importance_fingerprint, parameters.effort, parameters.sampling,
                    parameters.metric, parameters.unit);
  };
  return newer.parameters.encoder_version > older.parameters.encoder_version &&
         newer.tensors >= older.tensors && kind(newer.parameters) == kind(older.parameters);
}

std::vector<Removal> removals_for(const Contents& contents, const PruneRequest& request,
                                  const std::filesystem::path& path) {
  std::vector<Removal> removals;
  std::vector<std::string> importances_in_use;
  Kept kept;
  for (const auto& entry : contents.runs) {
    const auto& run = entry.second;  // Clang 14 lets no lambda refer to a structured binding
    const RunId id = run.run.id;
    const std::string name = fmt::format(
        "run {} (effort {}, encoder {}, {} tensors, {} recipes)", id, printable(run.run.parameters.effort),
        run.run.parameters.encoder_version, run.measurements.size(), run.recipes.size());
    const auto goes = [&](const char* why) {
      removals.push_back(
          {fmt::format("{}: {}", name, why), [id](Database& file) { return delete_run(file, id); }});
    };
    if (run.measurements.empty()) {
      goes("nothing was measured");
      continue;
    }
    if (std::ranges::any_of(contents.runs,
                            [&](const auto& other) { return replaces(other.second.run, run.run); })) {
      goes("a run with a newer encoder has taken its place");
      continue;
    }
    importances_in_use.push_back(run.run.parameters.importance_fingerprint);
    kept.metrics.push_back(run.run.parameters.metric);
    if (!request.keep_recipes || run.recipes.size() <= *request.keep_recipes) continue;
    std::vector<const SavedRecipe*> recipes;
    for (const auto& [fingerprint, recipe] : run.recipes) recipes.push_back(&recipe);
    std::ranges::stable_sort(recipes, std::greater<>(),
                             [](const SavedRecipe* recipe) { return recipe->created; });
    for (std::size_t i = *request.keep_recipes; i < recipes.size(); ++i)
      removals.push_back(
          {fmt::format("recipe for {} of {}: older than the newest {}", printable(recipes[i]->target),
                       escaped(recipes[i]->created), *request.keep_recipes),
           [id, recipe = *recipes[i]](Database& file) { return delete_recipe(file, id, recipe); }});
  }
  for (const auto& [key, set] : contents.sensitivities) {
    if (!set.partial) {
      importances_in_use.push_back(set.scope.importance_fingerprint);
      kept.gradient_texts.push_back(set.scope.text_fingerprint);
      continue;
    }
    removals.push_back({fmt::format("sensitivity set (method {}, {} tensors): partial, so never used",
                                    printable(set.scope.method), set.rows.size()),
                        [scope = set.scope](Database& file) { return delete_sensitivity_set(file, scope); }});
  }
  for (const auto& [fingerprint, importance] : contents.importances) {
    if (std::ranges::find(importances_in_use, fingerprint) != importances_in_use.end()) {
      kept.importance_names.push_back(importance.name);
      continue;
    }
    removals.push_back(
        {fmt::format("importance matrix {}: nothing was measured with it", printable(importance.name)),
         [fingerprint = fingerprint](Database& file) { return delete_importance(file, fingerprint); }});
  }
  add_statistics(contents, kept, path, removals);
  return removals;
}

}  // namespace

Result<std::vector<std::string>> verify_file(const std::filesystem::path& path,
                                             const CancellationToken* cancel) {
  QF_ASSIGN(const auto store, StateStore::open_read_only(path, cancel));
  QF_ASSIGN(const Contents contents, store.contents());
  {
    QF_ASSIGN(auto database, Database::open(path, Access::ReadOnly, cancel));
    QF_TRY(check_deeply(database));
  }
  std::vector<StatisticsFile> files;
  for (const auto& [fingerprint, file] : contents.statistics_files) files.push_back(file);
  return check_statistics_files(path, files, cancel);
}

Result<PruneReport> prune_file(const std::filesystem::path& path, const PruneRequest& request,
                               const CancellationToken* cancel) {
  PruneReport report;
  report.bytes_before = bytes_of_file(path);
  if (request.dry_run) {
    QF_ASSIGN(const auto store, StateStore::open_read_only(path, cancel));
    QF_ASSIGN(const Contents contents, store.contents());
    for (Removal& removal : removals_for(contents, request, path)) {
      if (!removal.file.empty()) report.bytes_beside += bytes_of_file(removal.file);
      report.removed.push_back(std::move(removal.sentence));
    }
    report.bytes_after = report.bytes_before;
    return report;
  }
  std::vector<std::filesystem::path> files;
  {
    // Brings an older file up to date, and makes sure that it is one.
    QF_ASSIGN(const auto store, StateStore::open_existing(path, cancel));
    QF_ASSIGN(auto database, Database::open(path, Access::ReadWrite, cancel));
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    QF_ASSIGN(const Contents contents, select_contents(database));
    for (Removal& removal : removals_for(contents, request, path)) {
      if (removal.remove) QF_TRY(removal.remove(database));
      if (!removal.file.empty()) files.push_back(std::move(removal.file));
      report.removed.push_back(std::move(removal.sentence));
    }
    QF_TRY(delete_unmeasured_tensors(database));
    QF_TRY(transaction.commit());
    QF_TRY(database.shrink());
  }
  // Nothing names them any more: one that cannot be removed is found again next time.
  for (const std::filesystem::path& file : files) {
    report.bytes_beside += bytes_of_file(file);
    std::error_code trouble;
    std::filesystem::remove(file, trouble);
    if (trouble) return fail(ErrorCode::Io, "{}: {}", file.string(), trouble.message());
  }
  report.bytes_after = bytes_of_file(path);
  return report;
}

}  // namespace quantfit::state

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
  QF_ASSIGN(const bool row, integrity.step());
  const std::string answer = row ? integrity.text(0) : std::string();
  QF_TRY(integrity.finish());
  if (answer != "ok")
    return fail(ErrorCode::Malformed,
                "{}: the file is damaged ({}); restore a copy, or remove it to measure again",
                database.path(), escaped(answer));
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

// What goes, and how.
struct Removal {
  std::string sentence;
  std::function<Result<void>(Database&)> remove;
};

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
  for (const auto& [key, run] : contents.runs) {
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
      continue;
    }
    removals.push_back({fmt::format("sensitivity set (method {}, {} tensors): partial, so never used",
                                    printable(set.scope.method), set.rows.size()),
                        [scope = set.scope](Database& file) { return delete_sensitivity_set(file, scope); }});
  }
  for (const auto& [fingerprint, importance] : contents.importances)
    if (std::ranges::find(importances_in_use, fingerprint) == importances_in_use.end())
      removals.push_back(
          {fmt::format("importance matrix {}: nothing was measured with it", printable(importance.name)),
           [fingerprint = fingerprint](Database& file) { return delete_importance(file, fingerprint); }});
  for (const auto& [fingerprint, file] : contents.statistics_files) {
    std::error_code trouble;
    if (std::filesystem::exists(path_beside(path, file.name), trouble) || trouble) continue;
    removals.push_back({fmt::format("statistics file {}: it is not there any more", printable(file.name)),
                        [fingerprint = fingerprint](Database& database) {
                          return delete_statistics_file(database, fingerprint);
                        }});
  }
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
    for (Removal& removal : removals_for(contents, request, path))
      report.removed.push_back(std::move(removal.sentence));
    report.bytes_after = report.bytes_before;
    return report;
  }
  {
    // Brings an older file up to date, and makes sure that it is one.
    QF_ASSIGN(const auto store, StateStore::open_existing(path, cancel));
    QF_ASSIGN(auto database, Database::open(path, Access::ReadWrite, cancel));
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    QF_ASSIGN(const Contents contents, select_contents(database));
    for (Removal& removal : removals_for(contents, request, path)) {
      QF_TRY(removal.remove(database));
      report.removed.push_back(std::move(removal.sentence));
    }
    QF_TRY(delete_unmeasured_tensors(database));
    QF_TRY(transaction.commit());
    QF_TRY(database.shrink());
  }
  report.bytes_after = bytes_of_file(path);
  return report;
}

}  // namespace quantfit::state

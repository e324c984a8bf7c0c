// The model, importance matrices and runs.
#include "core/text.h"
#include "state/checks.h"
#include "state/keys.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kSelectModel = "SELECT fingerprint, name, elements, digest FROM model ORDER BY model_id";
constexpr Sql kInsertModel = "INSERT INTO model (model_id, fingerprint, name, elements) VALUES (1, ?, ?, ?)";
constexpr Sql kRenameModel = "UPDATE model SET name = ? WHERE model_id = 1";

constexpr Sql kUpsertImportance =
    "INSERT INTO importance (fingerprint, name, datasets, chunk_count, has_activations) "
    "VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name, datasets = excluded.datasets, "
    "chunk_count = excluded.chunk_count, has_activations = excluded.has_activations";
constexpr Sql kInsertNamelessImportance =
    "INSERT INTO importance (fingerprint, name, datasets, chunk_count, has_activations) "
    "VALUES (?, '', '', NULL, 0) ON CONFLICT (fingerprint) DO NOTHING";
constexpr Sql kSelectImportanceId = "SELECT importance_id FROM importance WHERE fingerprint = ?";
constexpr Sql kDeleteImportance = "DELETE FROM importance WHERE fingerprint = ?";
constexpr Sql kSelectImportances =
    "SELECT fingerprint, name, datasets, chunk_count, has_activations FROM importance ORDER BY importance_id";

constexpr Sql kSelectRunByParameters = "SELECT run_id FROM run WHERE parameters = ?";
constexpr Sql kInsertRun =
    "INSERT INTO run (parameters, importance_id, effort, encoder_version, sampling, metric, unit, "
    "program_version, started, finished) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), ?)";
constexpr Sql kUpdateRun = "UPDATE run SET program_version = ?, started = ?, finished = ? WHERE run_id = ?";
constexpr Sql kFinishRun = "UPDATE run SET finished = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE run_id = ?";
constexpr Sql kDeleteRun = "DELETE FROM run WHERE run_id = ?";
constexpr Sql kSelectRuns =
    "SELECT run.run_id, coalesce(importance.fingerprint, ''), run.effort, run.encoder_version, run.sampling, "
    "run.metric, run.unit, run.program_version, run.started, coalesce(run.finished, ''), "
    "(SELECT count(*) FROM measurement WHERE measurement.run_id = run.run_id) AS tensors "
    "FROM run LEFT JOIN importance ON importance.importance_id = run.importance_id ORDER BY run.run_id";
constexpr Sql kSelectRunExists = "SELECT 1 FROM run WHERE run_id = ?";

// The row of the importance matrix, made without a name when nobody has told of it yet.
Result<std::optional<std::int64_t>> importance_id_of(Database& database, const std::string& fingerprint) {
  if (fingerprint.empty()) return std::optional<std::int64_t>();
  QF_ASSIGN(auto insert, Statement::prepare(database, kInsertNamelessImportance));
  QF_TRY(insert.run(fingerprint));
  QF_ASSIGN(auto select, Statement::prepare(database, kSelectImportanceId));
  QF_TRY(select.bind(fingerprint));
  QF_ASSIGN(const bool row, select.step());
  if (!row) return fail(ErrorCode::Internal, "{}: a row just written is missing", database.path());
  const std::int64_t id = select.integer(0);
  QF_TRY(select.finish());
  return std::optional<std::int64_t>(id);
}

}  // namespace

Result<std::optional<ModelIdentity>> select_model(const Database& database) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectModel));
  QF_ASSIGN(const bool row, statement.step());
  if (!row) return std::optional<ModelIdentity>();
  ModelIdentity model{statement.text(0), statement.text(1), statement.unsigned_integer(2), statement.text(3)};
  QF_TRY(statement.finish());
  QF_TRY(sound(database, check_text(model.fingerprint, "the model's fingerprint")));
  QF_TRY(sound(database, check_text(model.name, "the model's name")));
  QF_TRY(sound(database, check_text(model.digest, "the digest of the model's weights")));
  return std::optional<ModelIdentity>(std::move(model));
}

Result<void> insert_model(Database& database, const ModelIdentity& model) {
  QF_ASSIGN(auto insert, Statement::prepare(database, kInsertModel));
  return insert.run(model.fingerprint, storable_name(model.name), model.elements);
}

Result<void> rename_model(Database& database, const std::string& name) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kRenameModel));
  return statement.run(storable_name(name));
}

Result<void> upsert_importance(Database& database, const ImportanceIdentity& importance) {
  QF_TRY(check_text(importance.fingerprint, "the importance matrix's fingerprint"));
  QF_ASSIGN(auto statement, Statement::prepare(database, kUpsertImportance));
  return statement.run(importance.fingerprint, storable_name(importance.name),
                       storable_name(importance.datasets), importance.chunk_count,
                       importance.has_activations);
}

Result<void> delete_importance(Database& database, const std::string& fingerprint) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteImportance));
  return statement.run(fingerprint);
}

Result<std::vector<ImportanceIdentity>> select_importances(const Database& database) {
  std::vector<ImportanceIdentity> importances;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectImportances));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    ImportanceIdentity& importance = importances.emplace_back();
    importance.fingerprint = statement.text(0);
    importance.name = statement.text(1);
    importance.datasets = statement.text(2);
    if (!statement.is_null(3)) importance.chunk_count = statement.unsigned_integer(3);
    importance.has_activations = statement.integer(4) != 0;
  }
  for (const ImportanceIdentity& importance : importances)
    for (const std::string* text : {&importance.fingerprint, &importance.name, &importance.datasets})
      QF_TRY(sound(database, check_text(*text, "importance matrix")));
  return importances;
}

Result<std::optional<RunId>> find_run(const Database& database, const RunParameters& parameters) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRunByParameters));
  QF_TRY(statement.bind(canonical_key(parameters)));
  QF_ASSIGN(const bool row, statement.step());
  if (!row) return std::optional<RunId>();
  const RunId id = statement.integer(0);
  QF_TRY(statement.finish());
  return std::optional<RunId>(id);
}

Result<RunId> insert_run(Database& database, const RunSummary& run) {
  const RunParameters& parameters = run.parameters;
  QF_ASSIGN(const auto importance_id, importance_id_of(database, parameters.importance_fingerprint));
  QF_ASSIGN(auto statement, Statement::prepare(database, kInsertRun));
  QF_TRY(statement.run(canonical_key(parameters), importance_id, parameters.effort,
                       parameters.encoder_version, parameters.sampling, parameters.metric, parameters.unit,
                       run.program_version, text_or_null(run.started), text_or_null(run.finished)));
  return database.last_insert_rowid();
}

Result<void> update_run(Database& database, const RunSummary& run) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kUpdateRun));
  return statement.run(run.program_version, run.started, text_or_null(run.finished), run.id);
}

Result<void> finish_run_now(Database& database, RunId run) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kFinishRun));
  return statement.run(run);
}

Result<void> delete_run(Database& database, RunId run) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteRun));
  return statement.run(run);
}

Result<std::vector<RunSummary>> select_runs(const Database& database) {
  std::vector<RunSummary> runs;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRuns));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    RunSummary& run = runs.emplace_back();
    run.id = statement.integer(0);
    run.parameters.importance_fingerprint = statement.text(1);
    run.parameters.effort = statement.text(2);
    run.parameters.encoder_version = statement.unsigned_integer32(3);
    run.parameters.sampling = statement.text(4);
    run.parameters.metric = statement.text(5);
    run.parameters.unit = statement.text(6);
    run.program_version = statement.text(7);
    run.started = statement.text(8);
    run.finished = statement.text(9);
    run.tensors = statement.unsigned_integer(10);
  }
  for (const RunSummary& run : runs) {
    QF_TRY(sound(database, check(run.parameters)));
    for (const std::string* text : {&run.program_version, &run.started, &run.finished})
      QF_TRY(sound(database, check_text(*text, "run")));
  }
  return runs;
}

Result<void> check_run_exists(const Database& database, RunId run) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRunExists));
  QF_TRY(statement.bind(run));
  QF_ASSIGN(const bool row, statement.step());
  QF_TRY(statement.finish());
  if (!row) return fail(ErrorCode::InvalidArgument, "{}: has no run {}", database.path(), run);
  return outcome::success();
}

}  // namespace quantfit::state

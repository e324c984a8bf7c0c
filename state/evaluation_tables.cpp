// What came from running the model (calibrations, statistics files, evaluations) and what was written.
#include "state/checks.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kUpsertCalibration =
    "INSERT INTO calibration (text_fingerprint, tokens, context, engine_version, text_name, program_version, "
    "started, finished, layers_finished) "
    "VALUES (?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), ?, ?) "
    "ON CONFLICT (text_fingerprint, tokens, context, engine_version) DO UPDATE SET "
    "text_name = excluded.text_name, program_version = excluded.program_version, started = excluded.started, "
    "finished = excluded.finished, layers_finished = excluded.layers_finished";
constexpr Sql kSelectCalibrations =
    "SELECT text_fingerprint, tokens, context, engine_version, text_name, program_version, started, "
    "coalesce(finished, ''), layers_finished FROM calibration "
    "ORDER BY text_fingerprint, tokens, context, engine_version";

constexpr Sql kUpsertStatisticsFile =
    "INSERT INTO statistics_file (fingerprint, name, kind, bytes, text_fingerprint, created) "
    "VALUES (?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))) "
    "ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name, kind = excluded.kind, "
    "bytes = excluded.bytes, text_fingerprint = excluded.text_fingerprint, created = excluded.created";
constexpr Sql kSelectStatisticsFiles =
    "SELECT fingerprint, name, kind, bytes, text_fingerprint, created FROM statistics_file "
    "ORDER BY fingerprint";
constexpr Sql kDeleteReplacedFiles = "DELETE FROM statistics_file WHERE name = ? AND fingerprint <> ?";
constexpr Sql kDeleteStatisticsFile = "DELETE FROM statistics_file WHERE fingerprint = ?";

constexpr Sql kDeleteEvaluation =
    "DELETE FROM evaluation WHERE base_fingerprint = ? AND candidate_fingerprint = ? AND "
    "text_fingerprint = ? AND context = ? AND chunks = ? AND engine_version = ?";
constexpr Sql kInsertEvaluation =
    "INSERT INTO evaluation (base_fingerprint, candidate_fingerprint, text_fingerprint, context, chunks, "
    "engine_version, candidate_name, text_name, program_version, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')))";
constexpr Sql kInsertEstimate =
    "INSERT INTO estimate (evaluation_id, quantity, value, standard_error) VALUES (?, ?, ?, ?)";
constexpr Sql kSelectEvaluations =
    "SELECT evaluation_id, base_fingerprint, candidate_fingerprint, text_fingerprint, context, chunks, "
    "engine_version, candidate_name, text_name, program_version, created FROM evaluation "
    "ORDER BY base_fingerprint, candidate_fingerprint, text_fingerprint, context, chunks, engine_version";
constexpr Sql kSelectEstimates =
    "SELECT quantity, value, standard_error FROM estimate WHERE evaluation_id = ? ORDER BY quantity";

constexpr Sql kUpsertWrittenFile =
    "INSERT INTO written_file (name, recipe_fingerprint, importance_fingerprint, effort, encoder_version, "
    "bytes, program_version, written) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))) "
    "ON CONFLICT (name) DO UPDATE SET recipe_fingerprint = excluded.recipe_fingerprint, "
    "importance_fingerprint = excluded.importance_fingerprint, effort = excluded.effort, "
    "encoder_version = excluded.encoder_version, bytes = excluded.bytes, "
    "program_version = excluded.program_version, written = excluded.written";
constexpr Sql kSelectWrittenFiles =
    "SELECT name, recipe_fingerprint, importance_fingerprint, effort, encoder_version, bytes, "
    "program_version, written FROM written_file ORDER BY name";
constexpr Sql kDeleteWrittenFile = "DELETE FROM written_file WHERE name = ?";

}  // namespace

Result<void> write_calibration(Database& database, const Calibration& calibration) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kUpsertCalibration));
  const CalibrationParameters& parameters = calibration.parameters;
  return statement.run(parameters.text_fingerprint, parameters.tokens, parameters.context,
                       parameters.engine_version, calibration.text_name, calibration.program_version,
                       text_or_null(calibration.started), text_or_null(calibration.finished),
                       calibration.layers_finished);
}

Result<std::vector<Calibration>> select_calibrations(const Database& database) {
  std::vector<Calibration> calibrations;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectCalibrations));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    Calibration& calibration = calibrations.emplace_back();
    calibration.parameters.text_fingerprint = statement.text(0);
    calibration.parameters.tokens = statement.unsigned_integer(1);
    calibration.parameters.context = statement.unsigned_integer32(2);
    calibration.parameters.engine_version = statement.unsigned_integer32(3);
    calibration.text_name = statement.text(4);
    calibration.program_version = statement.text(5);
    calibration.started = statement.text(6);
    calibration.finished = statement.text(7);
    calibration.layers_finished = statement.unsigned_integer32(8);
  }
  for (const Calibration& calibration : calibrations) QF_TRY(sound(database, check(calibration)));
  return calibrations;
}

Result<void> write_statistics_file(Database& database, const StatisticsFile& file) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kUpsertStatisticsFile));
  return statement.run(file.fingerprint, file.name, file.kind, file.bytes, file.text_fingerprint,
                       text_or_null(file.created));
}

Result<std::vector<StatisticsFile>> select_statistics_files(const Database& database) {
  std::vector<StatisticsFile> files;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectStatisticsFiles));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    StatisticsFile& file = files.emplace_back();
    file.fingerprint = statement.text(0);
    file.name = statement.text(1);
    file.kind = statement.text(2);
    file.bytes = statement.unsigned_integer(3);
    file.text_fingerprint = statement.text(4);
    file.created = statement.text(5);
  }
  for (const StatisticsFile& file : files) QF_TRY(sound(database, check(file)));
  return files;
}

Result<void> replace_statistics_file(Database& database, const StatisticsFile& file) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteReplacedFiles));
  QF_TRY(statement.run(file.name, file.fingerprint));
  return write_statistics_file(database, file);
}

Result<void> delete_statistics_file(Database& database, const std::string& fingerprint) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteStatisticsFile));
  return statement.run(fingerprint);
}

Result<void> write_evaluation(Database& database, const Evaluation& evaluation) {
  const EvaluationIdentity& identity = evaluation.identity;
  QF_ASSIGN(auto remove, Statement::prepare(database, kDeleteEvaluation));
  QF_TRY(remove.run(identity.base_fingerprint, identity.candidate_fingerprint, identity.text_fingerprint,
                    identity.context, identity.chunks, identity.engine_version));
  QF_ASSIGN(auto insert, Statement::prepare(database, kInsertEvaluation));
  QF_TRY(insert.run(identity.base_fingerprint, identity.candidate_fingerprint, identity.text_fingerprint,
                    identity.context, identity.chunks, identity.engine_version, evaluation.candidate_name,
                    evaluation.text_name, evaluation.program_version, text_or_null(evaluation.created)));
  const std::int64_t evaluation_id = database.last_insert_rowid();
  QF_ASSIGN(auto insert_estimate, Statement::prepare(database, kInsertEstimate));
  for (const Estimate& estimate : evaluation.estimates)
    QF_TRY(insert_estimate.run(evaluation_id, estimate.quantity, estimate.value, estimate.standard_error));
  return outcome::success();
}

Result<std::vector<Evaluation>> select_evaluations(const Database& database) {
  std::vector<Evaluation> evaluations;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectEvaluations));
  QF_ASSIGN(auto estimates, Statement::prepare(database, kSelectEstimates));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    Evaluation& evaluation = evaluations.emplace_back();
    const std::int64_t evaluation_id = statement.integer(0);
    evaluation.identity.base_fingerprint = statement.text(1);
    evaluation.identity.candidate_fingerprint = statement.text(2);
    evaluation.identity.text_fingerprint = statement.text(3);
    evaluation.identity.context = statement.unsigned_integer32(4);
    evaluation.identity.chunks = statement.unsigned_integer(5);
    evaluation.identity.engine_version = statement.unsigned_integer32(6);
    evaluation.candidate_name = statement.text(7);
    evaluation.text_name = statement.text(8);
    evaluation.program_version = statement.text(9);
    evaluation.created = statement.text(10);
    QF_TRY(estimates.bind(evaluation_id));
    while (true) {
      QF_ASSIGN(const bool found, estimates.step());
      if (!found) break;
      Estimate& estimate = evaluation.estimates.emplace_back();
      estimate.quantity = estimates.text(0);
      estimate.value = estimates.real(1);
      if (!estimates.is_null(2)) estimate.standard_error = estimates.real(2);
    }
  }
  for (const Evaluation& evaluation : evaluations) QF_TRY(sound(database, check(evaluation)));
  return evaluations;
}

Result<void> write_written_file(Database& database, const WrittenFile& file) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kUpsertWrittenFile));
  return statement.run(file.name, file.recipe_fingerprint, file.importance_fingerprint, file.effort,
                       file.encoder_version, file.bytes, file.program_version, text_or_null(file.written));
}

Result<std::vector<WrittenFile>> select_written_files(const Database& database) {
  std::vector<WrittenFile> files;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectWrittenFiles));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    WrittenFile& file = files.emplace_back();
    file.name = statement.text(0);
    file.recipe_fingerprint = statement.text(1);
    file.importance_fingerprint = statement.text(2);
    file.effort = statement.text(3);
    file.encoder_version = statement.unsigned_integer32(4);
    file.bytes = statement.unsigned_integer(5);
    file.program_version = statement.text(6);
    file.written = statement.text(7);
  }
  for (const WrittenFile& file : files) QF_TRY(sound(database, check(file)));
  return files;
}

Result<void> delete_written_file(Database& database, const std::string& name) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteWrittenFile));
  return statement.run(name);
}

}  // namespace quantfit::state

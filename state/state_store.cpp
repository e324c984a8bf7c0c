#include "state/state_store.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <system_error>
#include <tuple>
#include <utility>

#include "core/text.h"
#include "state/schema.h"
#include "state/sqlite.h"

namespace quantfit::state {
namespace {

Result<void> check_text(std::string_view text, std::string_view what) {
  if (is_utf8(text)) return outcome::success();
  return fail(ErrorCode::InvalidArgument, "{} '{}' is not UTF-8 text without zero bytes", what,
              to_utf8(text));
}

Result<void> check_finite(double value, std::string_view tensor, std::string_view what) {
  if (std::isfinite(value)) return outcome::success();
  return fail(ErrorCode::InvalidArgument, "tensor '{}': {} is {}, which is not a measurement", tensor, what,
              value);
}

// One text per set of parameters and one set per text: every value is preceded by its length in bytes.
std::string canonical_key(const RunParameters& parameters) {
  std::string key;
  const auto add = [&](std::string_view name, std::string_view value) {
    key += fmt::format("{}{}={}:{}", key.empty() ? "" : " ", name, value.size(), value);
  };
  add("importance", parameters.importance_fingerprint);
  add("effort", parameters.effort);
  add("encoder", fmt::format("{}", parameters.encoder_version));
  add("sampling", parameters.sampling);
  add("metric", parameters.metric);
  add("unit", parameters.unit);
  return key;
}

// Format names are part of the file, written in the specification's spelling and read only in it.
Result<Format> format_from_text(const std::string& text, const std::string& path) {
  const std::optional<Format> format = parse_format(text);
  if (format && name_of(*format) == text) return *format;
  return fail(ErrorCode::Unsupported, "{}: format '{}' is unknown to this program; a newer one may know it",
              path, to_utf8(text));
}

constexpr Sql kSelectModel = "SELECT fingerprint, name, elements FROM model ORDER BY model_id";

// Nothing when the file has no model yet.
Result<std::optional<ModelIdentity>> select_model(const Database& database) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectModel));
  QF_ASSIGN(const bool row, statement.step());
  if (!row) return std::optional<ModelIdentity>();
  ModelIdentity model{statement.text(0), statement.text(1), statement.unsigned_integer(2)};
  QF_TRY(statement.finish());
  return std::optional<ModelIdentity>(std::move(model));
}

constexpr Sql kInsertModel = "INSERT INTO model (model_id, fingerprint, name, elements) VALUES (1, ?, ?, ?)";

// The file's model is `model` afterwards, or IdentityMismatch.
Result<void> claim_for_model(Database& database, const ModelIdentity& model) {
  QF_ASSIGN(auto stored, select_model(database));
  if (!stored) {
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    QF_ASSIGN(stored, select_model(database));  // another process may have been faster
    if (!stored) {
      QF_ASSIGN(auto insert, Statement::prepare(database, kInsertModel));
      QF_TRY(insert.run(model.fingerprint, to_utf8(model.name), model.elements));
      QF_TRY(transaction.commit());
      return outcome::success();
    }
  }
  if (stored->fingerprint != model.fingerprint)
    return fail(ErrorCode::IdentityMismatch,
                "{}: holds measurements of model '{}' (fingerprint {}), not of '{}' (fingerprint {}); "
                "name another state file for this model",
                database.path(), stored->name, stored->fingerprint, to_utf8(model.name), model.fingerprint);
  return outcome::success();
}

Result<void> verify_kind(Database& database, FileKind kind) {
  // A newer program may have extended definitions; it vouches for them by the lowest compatible version.
  if (kind == FileKind::NewerCompatible) return outcome::success();
  return verify(database);
}

constexpr Sql kUpsertImportance =
    "INSERT INTO importance (fingerprint, name, datasets, chunk_count, has_activations) "
    "VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name, datasets = excluded.datasets, "
    "chunk_count = excluded.chunk_count, has_activations = excluded.has_activations";

Result<void> upsert_importance(Database& database, const ImportanceIdentity& importance) {
  QF_TRY(check_text(importance.fingerprint, "the importance matrix's fingerprint"));
  QF_ASSIGN(auto statement, Statement::prepare(database, kUpsertImportance));
  return statement.run(importance.fingerprint, to_utf8(importance.name), to_utf8(importance.datasets),
                       importance.chunk_count, importance.has_activations);
}

constexpr Sql kSelectImportances =
    "SELECT fingerprint, name, datasets, chunk_count, has_activations FROM importance ORDER BY importance_id";

Result<std::vector<ImportanceIdentity>> select_importances(const Database& database) {
  std::vector<ImportanceIdentity> importances;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectImportances));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return importances;
    ImportanceIdentity& importance = importances.emplace_back();
    importance.fingerprint = statement.text(0);
    importance.name = statement.text(1);
    importance.datasets = statement.text(2);
    if (!statement.is_null(3)) importance.chunk_count = statement.unsigned_integer(3);
    importance.has_activations = statement.integer(4) != 0;
  }
}

constexpr Sql kInsertNamelessImportance =
    "INSERT INTO importance (fingerprint, name, datasets, chunk_count, has_activations) "
    "VALUES (?, '', '', NULL, 0) "
    "ON CONFLICT (fingerprint) DO NOTHING";
constexpr Sql kSelectImportanceId = "SELECT importance_id FROM importance WHERE fingerprint = ?";

// The row of the importance matrix, made without a name when remember_importance()
// has not been told of it yet.
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

constexpr Sql kSelectRunByParameters = "SELECT run_id FROM run WHERE parameters = ?";

Result<std::optional<RunId>> find_run(const Database& database, const RunParameters& parameters) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRunByParameters));
  QF_TRY(statement.bind(canonical_key(parameters)));
  QF_ASSIGN(const bool row, statement.step());
  if (!row) return std::optional<RunId>();
  const RunId id = statement.integer(0);
  QF_TRY(statement.finish());
  return std::optional<RunId>(id);
}

constexpr Sql kInsertRun =
    "INSERT INTO run (parameters, importance_id, effort, encoder_version, sampling, metric, unit, "
    "program_version, started, finished) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), ?)";

// `started` and `finished` empty: now, and not yet.
Result<RunId> insert_run(Database& database, const RunParameters& parameters,
                         const std::string& program_version, const std::optional<std::string>& started,
                         const std::optional<std::string>& finished) {
  QF_ASSIGN(const auto importance_id, importance_id_of(database, parameters.importance_fingerprint));
  QF_ASSIGN(auto statement, Statement::prepare(database, kInsertRun));
  QF_TRY(statement.run(canonical_key(parameters), importance_id, parameters.effort,
                       parameters.encoder_version, parameters.sampling, parameters.metric, parameters.unit,
                       program_version, started, finished));
  return database.last_insert_rowid();
}

constexpr Sql kSelectRuns =
    "SELECT run.run_id, coalesce(importance.fingerprint, ''), run.effort, run.encoder_version, run.sampling, "
    "run.metric, run.unit, run.program_version, run.started, coalesce(run.finished, ''), "
    "(SELECT count(*) FROM measurement WHERE measurement.run_id = run.run_id) AS tensors "
    "FROM run LEFT JOIN importance ON importance.importance_id = run.importance_id ORDER BY run.run_id";

Result<std::vector<RunSummary>> select_runs(const Database& database) {
  std::vector<RunSummary> runs;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRuns));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return runs;
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
}

constexpr Sql kSelectRunExists = "SELECT 1 FROM run WHERE run_id = ?";

Result<void> check_run_exists(const Database& database, RunId run) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRunExists));
  QF_TRY(statement.bind(run));
  QF_ASSIGN(const bool row, statement.step());
  QF_TRY(statement.finish());
  if (!row) return fail(ErrorCode::InvalidArgument, "{}: has no run {}", database.path(), run);
  return outcome::success();
}

constexpr Sql kFinishRun = "UPDATE run SET finished = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE run_id = ?";

// Bytes of the tensor's data. ShapeMismatch when its shape has none.
Result<std::uint64_t> bytes_of(const TensorInfo& shape) {
  std::uint64_t rows = 0;
  if (__builtin_mul_overflow(shape.ne[1], shape.ne[2], &rows) ||
      __builtin_mul_overflow(rows, shape.ne[3], &rows))
    return fail(ErrorCode::ShapeMismatch, "more than 2^64 rows");
  return tensor_bytes(shape.format, shape.ne[0], rows);
}

bool is_known(Format format) {
  return find_format(static_cast<std::uint32_t>(format)) != nullptr;
}

Result<void> check_measurement(const TensorMeasurement& measurement) {
  QF_TRY(check_text(measurement.tensor, "tensor name"));
  QF_TRY(check_text(measurement.role, "tensor role"));
  if (measurement.shape.n_dims > 4 || !is_known(measurement.shape.format))
    return fail(ErrorCode::InvalidArgument, "tensor '{}': {} dimensions, format id {}", measurement.tensor,
                measurement.shape.n_dims, static_cast<std::uint32_t>(measurement.shape.format));
  if (auto bytes = bytes_of(measurement.shape); !bytes)
    return fail(ErrorCode::ShapeMismatch, "tensor '{}': {}", measurement.tensor, bytes.error().message);
  std::vector<Format> formats;
  for (const FormatMeasurement& row : measurement.errors) {
    if (!is_known(row.format))
      return fail(ErrorCode::InvalidArgument, "tensor '{}': format id {} does not exist", measurement.tensor,
                  static_cast<std::uint32_t>(row.format));
    if (std::find(formats.begin(), formats.end(), row.format) != formats.end())
      return fail(ErrorCode::InvalidArgument, "tensor '{}': format {} is listed twice", measurement.tensor,
                  name_of(row.format));
    formats.push_back(row.format);
    QF_TRY(check_finite(row.nmse, measurement.tensor, "the NMSE"));
    QF_TRY(check_finite(row.standard_error, measurement.tensor, "the standard error"));
    QF_TRY(check_finite(row.bias_share, measurement.tensor, "the bias share"));
    QF_TRY(check_finite(row.seconds, measurement.tensor, "the time"));
  }
  return outcome::success();
}

constexpr Sql kSelectTensor =
    "SELECT tensor_id, dimensions, ne0, ne1, ne2, ne3, source_format FROM tensor WHERE name = ?";
constexpr Sql kInsertTensor =
    "INSERT INTO tensor (name, role, layer, dimensions, ne0, ne1, ne2, ne3, source_format) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
constexpr Sql kUpdateTensor = "UPDATE tensor SET role = ?, layer = ? WHERE tensor_id = ?";

// The tensor's row, added when there is none.
Result<std::int64_t> tensor_id_of(Database& database, const TensorMeasurement& measurement) {
  const TensorInfo& shape = measurement.shape;
  QF_ASSIGN(auto select, Statement::prepare(database, kSelectTensor));
  QF_TRY(select.bind(measurement.tensor));
  QF_ASSIGN(const bool row, select.step());
  if (!row) {
    QF_ASSIGN(auto insert, Statement::prepare(database, kInsertTensor));
    QF_TRY(insert.run(measurement.tensor, measurement.role, measurement.layer, shape.n_dims, shape.ne[0],
                      shape.ne[1], shape.ne[2], shape.ne[3], name_of(shape.format)));
    return database.last_insert_rowid();
  }
  const std::int64_t id = select.integer(0);
  const std::uint32_t dimensions = select.unsigned_integer32(1);
  const std::array<std::uint64_t, 4> ne = {select.unsigned_integer(2), select.unsigned_integer(3),
                                           select.unsigned_integer(4), select.unsigned_integer(5)};
  const std::string source = select.text(6);
  QF_TRY(select.finish());
  if (dimensions != shape.n_dims || ne != shape.ne || source != name_of(shape.format))
    return fail(ErrorCode::ShapeMismatch,
                "{}: tensor '{}' is {} [{}] in the file, but {} [{}] is to be saved", database.path(),
                measurement.tensor, source, fmt::join(ne, ", "), name_of(shape.format),
                fmt::join(shape.ne, ", "));
  QF_ASSIGN(auto update, Statement::prepare(database, kUpdateTensor));
  QF_TRY(update.run(measurement.role, measurement.layer, id));
  return id;
}

constexpr Sql kUpsertMeasurement =
    "INSERT INTO measurement (run_id, tensor_id, rows_sampled, saved) "
    "VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')) "
    "ON CONFLICT (run_id, tensor_id) DO UPDATE SET rows_sampled = excluded.rows_sampled, saved = "
    "excluded.saved";
constexpr Sql kUpsertError =
    "INSERT INTO error (run_id, tensor_id, format, nmse, standard_error, bias_share, seconds) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (run_id, tensor_id, format) DO UPDATE SET nmse = excluded.nmse, "
    "standard_error = excluded.standard_error, bias_share = excluded.bias_share, seconds = excluded.seconds";

// Inside a transaction of the caller's.
Result<void> write_measurement(Database& database, RunId run, const TensorMeasurement& measurement) {
  QF_ASSIGN(const std::int64_t tensor_id, tensor_id_of(database, measurement));
  QF_ASSIGN(auto upsert_measurement, Statement::prepare(database, kUpsertMeasurement));
  QF_TRY(upsert_measurement.run(run, tensor_id, measurement.rows_sampled));
  QF_ASSIGN(auto upsert_error, Statement::prepare(database, kUpsertError));
  for (const FormatMeasurement& row : measurement.errors) {
    QF_TRY(upsert_error.run(run, tensor_id, name_of(row.format), row.nmse, row.standard_error, row.bias_share,
                            row.seconds));
  }
  return outcome::success();
}

constexpr Sql kSelectMeasurements =
    "SELECT tensor.name, tensor.role, tensor.layer, tensor.dimensions, tensor.ne0, tensor.ne1, tensor.ne2, "
    "tensor.ne3, tensor.source_format, measurement.rows_sampled "
    "FROM measurement JOIN tensor ON tensor.tensor_id = measurement.tensor_id "
    "WHERE measurement.run_id = ? ORDER BY tensor.name";
constexpr Sql kSelectErrors =
    "SELECT tensor.name, error.format, error.nmse, error.standard_error, error.bias_share, error.seconds "
    "FROM error JOIN tensor ON tensor.tensor_id = error.tensor_id "
    "WHERE error.run_id = ? ORDER BY tensor.name, error.format";

// Inside a transaction of the caller's.
Result<std::map<std::string, TensorMeasurement>> select_run(const Database& database, RunId run) {
  QF_TRY(check_run_exists(database, run));
  std::map<std::string, TensorMeasurement> measurements;
  QF_ASSIGN(auto tensors, Statement::prepare(database, kSelectMeasurements));
  QF_TRY(tensors.bind(run));
  while (true) {
    QF_ASSIGN(const bool row, tensors.step());
    if (!row) break;
    TensorMeasurement measurement;
    measurement.tensor = tensors.text(0);
    measurement.role = tensors.text(1);
    if (!tensors.is_null(2)) measurement.layer = tensors.unsigned_integer32(2);
    measurement.shape.name = measurement.tensor;
    measurement.shape.n_dims = tensors.unsigned_integer32(3);
    for (int dimension = 0; dimension < 4; ++dimension)
      measurement.shape.ne[static_cast<std::size_t>(dimension)] = tensors.unsigned_integer(4 + dimension);
    const std::string source = tensors.text(8);
    measurement.rows_sampled = tensors.unsigned_integer(9);
    QF_ASSIGN(measurement.shape.format, format_from_text(source, database.path()));
    auto bytes = bytes_of(measurement.shape);
    if (!bytes || measurement.shape.n_dims > 4)
      return fail(ErrorCode::Malformed, "{}: the file is damaged: tensor '{}' has an impossible shape",
                  database.path(), measurement.tensor);
    measurement.shape.bytes = bytes.value();
    std::string name = measurement.tensor;
    measurements.insert_or_assign(std::move(name), std::move(measurement));
  }
  QF_ASSIGN(auto errors, Statement::prepare(database, kSelectErrors));
  QF_TRY(errors.bind(run));
  while (true) {
    QF_ASSIGN(const bool row, errors.step());
    if (!row) break;
    const auto measurement = measurements.find(errors.text(0));
    if (measurement == measurements.end())
      return fail(ErrorCode::Malformed, "{}: the file is damaged: errors without a measurement",
                  database.path());
    FormatMeasurement error;
    QF_ASSIGN(error.format, format_from_text(errors.text(1), database.path()));
    error.nmse = errors.real(2);
    error.standard_error = errors.real(3);
    error.bias_share = errors.real(4);
    error.seconds = errors.real(5);
    measurement->second.errors.push_back(error);
  }
  for (auto& [name, measurement] : measurements)
    std::sort(measurement.errors.begin(), measurement.errors.end(),
              [](const FormatMeasurement& a, const FormatMeasurement& b) { return a.format < b.format; });
  return measurements;
}

constexpr Sql kUpsertSensitivity =
    "INSERT INTO sensitivity (tensor, value, obtained) VALUES (?, ?, ?) "
    "ON CONFLICT (tensor) DO UPDATE SET value = excluded.value, obtained = excluded.obtained";
constexpr Sql kSelectSensitivities = "SELECT tensor, value, obtained FROM sensitivity ORDER BY tensor";

Result<std::map<std::string, Sensitivity>> select_sensitivities(const Database& database) {
  std::map<std::string, Sensitivity> sensitivities;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectSensitivities));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return sensitivities;
    Sensitivity sensitivity{statement.text(0), statement.real(1), statement.text(2)};
    std::string tensor = sensitivity.tensor;
    sensitivities.insert_or_assign(std::move(tensor), std::move(sensitivity));
  }
}

Result<void> check_recipe(const SavedRecipe& saved) {
  QF_TRY(check_text(saved.target, "target"));
  QF_TRY(check_text(saved.created, "time"));
  if (!std::isfinite(saved.objective) || !std::isfinite(saved.lower_bound))
    return fail(ErrorCode::InvalidArgument, "recipe for '{}': objective {} and lower bound {} must be finite",
                saved.target, saved.objective, saved.lower_bound);
  for (const RecipeEntry& entry : saved.recipe.entries) {
    QF_TRY(check_text(entry.tensor, "tensor name"));
    if (!is_known(entry.format))
      return fail(ErrorCode::InvalidArgument, "recipe for '{}', tensor '{}': format id {} does not exist",
                  saved.target, entry.tensor, static_cast<std::uint32_t>(entry.format));
  }
  for (const auto& [key, value] : saved.recipe.provenance) {
    QF_TRY(check_text(key, "provenance key"));
    QF_TRY(check_text(value, "provenance value"));
  }
  return outcome::success();
}

constexpr Sql kInsertRecipe =
    "INSERT INTO recipe (run_id, target, budget_bytes, bytes, objective, lower_bound, created) "
    "VALUES (?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')))";
constexpr Sql kInsertRecipeEntry =
    "INSERT INTO recipe_entry (recipe_id, position, tensor, format) VALUES (?, ?, ?, ?)";
constexpr Sql kInsertRecipeProvenance =
    "INSERT INTO recipe_provenance (recipe_id, key, value) VALUES (?, ?, ?)";

// Inside a transaction of the caller's.
Result<void> write_recipe(Database& database, RunId run, const SavedRecipe& saved) {
  QF_ASSIGN(auto insert, Statement::prepare(database, kInsertRecipe));
  const auto created = saved.created.empty() ? std::nullopt : std::optional<std::string>(saved.created);
  QF_TRY(insert.run(run, saved.target, saved.budget_bytes, saved.bytes, saved.objective, saved.lower_bound,
                    created));
  const std::int64_t recipe_id = database.last_insert_rowid();
  QF_ASSIGN(auto insert_entry, Statement::prepare(database, kInsertRecipeEntry));
  std::int64_t position = 0;
  for (const RecipeEntry& entry : saved.recipe.entries)
    QF_TRY(insert_entry.run(recipe_id, position++, entry.tensor, name_of(entry.format)));
  QF_ASSIGN(auto insert_provenance, Statement::prepare(database, kInsertRecipeProvenance));
  for (const auto& [key, value] : saved.recipe.provenance)
    QF_TRY(insert_provenance.run(recipe_id, key, value));
  return outcome::success();
}

constexpr Sql kSelectRecipes =
    "SELECT recipe_id, target, budget_bytes, bytes, objective, lower_bound, created FROM recipe "
    "WHERE run_id = ? ORDER BY recipe_id";
constexpr Sql kSelectRecipeEntries =
    "SELECT tensor, format FROM recipe_entry WHERE recipe_id = ? ORDER BY position";
constexpr Sql kSelectRecipeProvenance =
    "SELECT key, value FROM recipe_provenance WHERE recipe_id = ? ORDER BY key";

// Inside a transaction of the caller's.
Result<std::vector<SavedRecipe>> select_recipes(const Database& database, RunId run) {
  QF_TRY(check_run_exists(database, run));
  std::vector<SavedRecipe> recipes;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRecipes));
  QF_ASSIGN(auto entries, Statement::prepare(database, kSelectRecipeEntries));
  QF_ASSIGN(auto provenance, Statement::prepare(database, kSelectRecipeProvenance));
  QF_TRY(statement.bind(run));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return recipes;
    const std::int64_t recipe_id = statement.integer(0);
    SavedRecipe& saved = recipes.emplace_back();
    saved.target = statement.text(1);
    saved.budget_bytes = statement.unsigned_integer(2);
    saved.bytes = statement.unsigned_integer(3);
    saved.objective = statement.real(4);
    saved.lower_bound = statement.real(5);
    saved.created = statement.text(6);
    QF_TRY(entries.bind(recipe_id));
    while (true) {
      QF_ASSIGN(const bool entry, entries.step());
      if (!entry) break;
      QF_ASSIGN(const Format format, format_from_text(entries.text(1), database.path()));
      saved.recipe.entries.push_back({entries.text(0), format});
    }
    QF_TRY(provenance.bind(recipe_id));
    while (true) {
      QF_ASSIGN(const bool pair, provenance.step());
      if (!pair) break;
      std::string key = provenance.text(0);
      saved.recipe.provenance.insert_or_assign(std::move(key), provenance.text(1));
    }
  }
}

bool same_recipe(const SavedRecipe& a, const SavedRecipe& b) {
  return std::tie(a.target, a.budget_bytes, a.bytes, a.objective, a.lower_bound, a.created, a.recipe.entries,
                  a.recipe.provenance) == std::tie(b.target, b.budget_bytes, b.bytes, b.objective,
                                                   b.lower_bound, b.created, b.recipe.entries,
                                                   b.recipe.provenance);
}

constexpr Sql kFinishRunAt = "UPDATE run SET finished = ? WHERE run_id = ? AND finished IS NULL";

// Everything a state file knows, as one state of it.
struct Contents {
  ModelIdentity model;
  std::vector<ImportanceIdentity> importances;
  std::vector<RunSummary> runs;
  std::vector<std::map<std::string, TensorMeasurement>> measurements;  // one per run
  std::vector<std::vector<SavedRecipe>> recipes;                       // one per run
  std::map<std::string, Sensitivity> sensitivities;
};

Result<Contents> select_everything(Database& database) {
  Contents contents;
  QF_ASSIGN(auto transaction, Transaction::begin_read(database));
  QF_ASSIGN(auto model, select_model(database));
  if (!model) return fail(ErrorCode::Malformed, "{}: holds no model yet", database.path());
  contents.model = std::move(*model);
  QF_ASSIGN(contents.importances, select_importances(database));
  QF_ASSIGN(contents.runs, select_runs(database));
  for (const RunSummary& run : contents.runs) {
    QF_ASSIGN(auto measurements, select_run(database, run.id));
    contents.measurements.push_back(std::move(measurements));
    QF_ASSIGN(auto recipes, select_recipes(database, run.id));
    contents.recipes.push_back(std::move(recipes));
  }
  QF_ASSIGN(contents.sensitivities, select_sensitivities(database));
  QF_TRY(transaction.commit());
  return contents;
}

// What `theirs` has and `ours` has not is left in `theirs`; nothing is to be written when the answer is
// false.
bool keep_news(const TensorMeasurement* ours, TensorMeasurement& theirs, MergeSummary& summary) {
  if (ours == nullptr) {
    ++summary.tensors_added;
    summary.errors_added += theirs.errors.size();
    return true;
  }
  // Formats are compared on the same rows; values from another sample would not be comparable with ours.
  if (ours->rows_sampled != theirs.rows_sampled) {
    ++summary.differing;
    return false;
  }
  std::vector<FormatMeasurement> news;
  for (const FormatMeasurement& row : theirs.errors) {
    const auto same = std::find_if(ours->errors.begin(), ours->errors.end(),
                                   [&](const FormatMeasurement& own) { return own.format == row.format; });
    if (same == ours->errors.end()) {
      news.push_back(row);
    } else if (same->nmse != row.nmse || same->standard_error != row.standard_error) {
      ++summary.differing;
    }
  }
  summary.errors_added += news.size();
  theirs.errors = std::move(news);
  // The description stays ours.
  theirs.role = ours->role;
  theirs.layer = ours->layer;
  return !theirs.errors.empty();
}

// Inside a transaction of the caller's.
Result<void> merge_run(Database& database, const RunSummary& run,
                       std::map<std::string, TensorMeasurement>& measurements,
                       const std::vector<SavedRecipe>& recipes, MergeSummary& summary) {
  std::optional<std::string> finished;
  if (!run.finished.empty()) finished = run.finished;
  QF_ASSIGN(auto id, find_run(database, run.parameters));
  if (!id) {
    QF_ASSIGN(id, insert_run(database, run.parameters, run.program_version, run.started, finished));
    ++summary.runs_added;
  }
  QF_ASSIGN(const auto ours, select_run(database, *id));
  for (auto& [name, measurement] : measurements) {
    const auto own = ours.find(name);
    if (keep_news(own == ours.end() ? nullptr : &own->second, measurement, summary))
      QF_TRY(write_measurement(database, *id, measurement));
  }
  QF_ASSIGN(const auto own_recipes, select_recipes(database, *id));
  for (const SavedRecipe& recipe : recipes) {
    if (std::any_of(own_recipes.begin(), own_recipes.end(),
                    [&](const SavedRecipe& own) { return same_recipe(own, recipe); }))
      continue;
    QF_TRY(write_recipe(database, *id, recipe));
    ++summary.recipes_added;
  }
  if (finished) {
    QF_ASSIGN(auto statement, Statement::prepare(database, kFinishRunAt));
    QF_TRY(statement.run(*finished, *id));
  }
  return outcome::success();
}

constexpr Sql kInsertSensitivity =
    "INSERT INTO sensitivity (tensor, value, obtained) VALUES (?, ?, ?) ON CONFLICT (tensor) DO NOTHING";

}  // namespace

struct StateStore::Impl {
  Database database;
  bool read_only = false;

  [[nodiscard]] Result<void> check_writable() const {
    if (read_only)
      return fail(ErrorCode::InvalidArgument, "{}: was opened for reading only", database.path());
    return outcome::success();
  }
};

StateStore::StateStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StateStore::StateStore(StateStore&&) noexcept = default;
StateStore& StateStore::operator=(StateStore&&) noexcept = default;
StateStore::~StateStore() = default;

Result<StateStore> StateStore::open(const std::filesystem::path& path, const ModelIdentity& model) {
  if (model.fingerprint.empty())
    return fail(ErrorCode::InvalidArgument, "a model's fingerprint must not be empty");
  QF_TRY(check_text(model.fingerprint, "the model's fingerprint"));
  QF_ASSIGN(auto database, Database::open(path, Access::ReadWrite));
  // Nothing is written before the file is known to be empty or ours.
  QF_ASSIGN(const FileKind kind, inspect(database));
  if (kind == FileKind::Current) QF_TRY(verify_kind(database, kind));
  QF_TRY(database.use_write_ahead_log());
  if (kind == FileKind::Empty || kind == FileKind::Older) {
    QF_TRY(migrate(database));
    QF_TRY(verify(database));
  }
  QF_TRY(claim_for_model(database, model));
  return StateStore(std::make_unique<Impl>(Impl{std::move(database), false}));
}

Result<StateStore> StateStore::open_read_only(const std::filesystem::path& path) {
  QF_ASSIGN(auto database, Database::open(path, Access::ReadOnly));
  QF_ASSIGN(const FileKind kind, inspect(database));
  if (kind == FileKind::Empty)
    return fail(ErrorCode::Malformed, "{}: an empty file, not a state file; name another file",
                database.path());
  if (kind == FileKind::Older)
    return fail(ErrorCode::Unsupported,
                "{}: an older program wrote it; open it once for writing to upgrade it", database.path());
  QF_TRY(verify_kind(database, kind));
  return StateStore(std::make_unique<Impl>(Impl{std::move(database), true}));
}

Result<ModelIdentity> StateStore::model() const {
  QF_ASSIGN(auto model, select_model(impl_->database));
  if (!model) return fail(ErrorCode::Malformed, "{}: holds no model yet", impl_->database.path());
  return std::move(*model);
}

Result<void> StateStore::remember_importance(const ImportanceIdentity& importance) {
  QF_TRY(impl_->check_writable());
  if (importance.fingerprint.empty()) return outcome::success();
  return upsert_importance(impl_->database, importance);
}

Result<std::vector<ImportanceIdentity>> StateStore::importances() const {
  return select_importances(impl_->database);
}

Result<RunId> StateStore::begin_run(const RunParameters& parameters, const std::string& program_version) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check_text(parameters.importance_fingerprint, "the importance matrix's fingerprint"));
  QF_TRY(check_text(parameters.effort, "effort"));
  QF_TRY(check_text(parameters.sampling, "the sampling parameters"));
  QF_TRY(check_text(parameters.metric, "the metric's parameters"));
  QF_TRY(check_text(program_version, "the program's version"));
  if (parameters.unit != "nmse" && parameters.unit != "nats")
    return fail(ErrorCode::InvalidArgument, "unit '{}' is neither 'nmse' nor 'nats'",
                to_utf8(parameters.unit));
  QF_ASSIGN(auto transaction, Transaction::begin_write(impl_->database));
  QF_ASSIGN(const auto existing, find_run(impl_->database, parameters));
  if (existing) return *existing;
  QF_ASSIGN(const RunId run,
            insert_run(impl_->database, parameters, program_version, std::nullopt, std::nullopt));
  QF_TRY(transaction.commit());
  return run;
}

Result<void> StateStore::finish_run(RunId run) {
  QF_TRY(impl_->check_writable());
  QF_ASSIGN(auto transaction, Transaction::begin_write(impl_->database));
  QF_TRY(check_run_exists(impl_->database, run));
  {
    QF_ASSIGN(auto statement, Statement::prepare(impl_->database, kFinishRun));
    QF_TRY(statement.run(run));
  }
  return transaction.commit();
}

Result<std::vector<RunSummary>> StateStore::runs() const {
  return select_runs(impl_->database);
}

Result<void> StateStore::save_tensor(RunId run, const TensorMeasurement& measurement) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check_measurement(measurement));
  QF_ASSIGN(auto transaction, Transaction::begin_write(impl_->database));
  QF_TRY(check_run_exists(impl_->database, run));
  QF_TRY(write_measurement(impl_->database, run, measurement));
  return transaction.commit();
}

Result<std::map<std::string, TensorMeasurement>> StateStore::load_run(RunId run) const {
  QF_ASSIGN(auto transaction, Transaction::begin_read(impl_->database));
  QF_ASSIGN(auto measurements, select_run(impl_->database, run));
  QF_TRY(transaction.commit());
  return measurements;
}

Result<void> StateStore::save_sensitivities(const std::vector<Sensitivity>& sensitivities) {
  QF_TRY(impl_->check_writable());
  for (const Sensitivity& sensitivity : sensitivities) {
    QF_TRY(check_text(sensitivity.tensor, "tensor name"));
    QF_TRY(check_text(sensitivity.obtained, "a sensitivity's origin"));
    QF_TRY(check_finite(sensitivity.value, sensitivity.tensor, "the sensitivity"));
  }
  QF_ASSIGN(auto transaction, Transaction::begin_write(impl_->database));
  {
    QF_ASSIGN(auto upsert, Statement::prepare(impl_->database, kUpsertSensitivity));
    for (const Sensitivity& sensitivity : sensitivities)
      QF_TRY(upsert.run(sensitivity.tensor, sensitivity.value, sensitivity.obtained));
  }
  return transaction.commit();
}

Result<std::map<std::string, Sensitivity>> StateStore::load_sensitivities() const {
  return select_sensitivities(impl_->database);
}

Result<void> StateStore::save_recipe(RunId run, const SavedRecipe& recipe) {
  QF_TRY(impl_->check_writable());
  QF_TRY(check_recipe(recipe));
  QF_ASSIGN(auto transaction, Transaction::begin_write(impl_->database));
  QF_TRY(check_run_exists(impl_->database, run));
  QF_TRY(write_recipe(impl_->database, run, recipe));
  return transaction.commit();
}

Result<std::vector<SavedRecipe>> StateStore::load_recipes(RunId run) const {
  QF_ASSIGN(auto transaction, Transaction::begin_read(impl_->database));
  QF_ASSIGN(auto recipes, select_recipes(impl_->database, run));
  QF_TRY(transaction.commit());
  return recipes;
}

Result<MergeSummary> StateStore::merge(const std::filesystem::path& other) {
  QF_TRY(impl_->check_writable());
  Contents theirs;
  {
    QF_ASSIGN(auto store, open_read_only(other));
    QF_ASSIGN(theirs, select_everything(store.impl_->database));
  }
  QF_ASSIGN(const ModelIdentity ours, model());
  if (theirs.model.fingerprint != ours.fingerprint)
    return fail(
        ErrorCode::IdentityMismatch,
        "{}: holds measurements of model '{}' (fingerprint {}), but {} is about '{}' (fingerprint {}); "
        "only files of the same model can be merged",
        other.string(), theirs.model.name, theirs.model.fingerprint, impl_->database.path(), ours.name,
        ours.fingerprint);
  MergeSummary summary;
  Database& database = impl_->database;
  QF_ASSIGN(auto transaction, Transaction::begin_write(database));
  QF_ASSIGN(const auto known, select_importances(database));
  for (const ImportanceIdentity& importance : theirs.importances) {
    const auto own = std::find_if(known.begin(), known.end(), [&](const ImportanceIdentity& entry) {
      return entry.fingerprint == importance.fingerprint;
    });
    if (own == known.end() || own->name.empty()) QF_TRY(upsert_importance(database, importance));
  }
  for (std::size_t index = 0; index < theirs.runs.size(); ++index)
    QF_TRY(
        merge_run(database, theirs.runs[index], theirs.measurements[index], theirs.recipes[index], summary));
  const auto known_sensitivities = select_sensitivities(database);
  if (!known_sensitivities) return known_sensitivities.error();
  {
    QF_ASSIGN(auto insert, Statement::prepare(database, kInsertSensitivity));
    for (const auto& [tensor, sensitivity] : theirs.sensitivities) {
      const auto own = known_sensitivities.value().find(tensor);
      if (own == known_sensitivities.value().end()) {
        QF_TRY(insert.run(sensitivity.tensor, sensitivity.value, sensitivity.obtained));
        ++summary.sensitivities_added;
      } else if (own->second.value != sensitivity.value) {
        ++summary.differing;
      }
    }
  }
  QF_TRY(transaction.commit());
  return summary;
}

}  // namespace quantfit::state

#include "state/schema.h"

#include <array>
#include <charconv>
#include <map>
#include <string>
#include <utility>

namespace quantfit::state {
namespace {

// Version 1. Rules that hold for all tables: strict types, NOT NULL wherever nothing is not an answer, enums
// and formats as text, times as UTC text in ISO 8601.
constexpr Sql kVersion1 = R"sql(
CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE model (
  model_id INTEGER NOT NULL PRIMARY KEY CHECK (model_id = 1),
  fingerprint TEXT NOT NULL CHECK (fingerprint <> ''),
  name TEXT NOT NULL,
  elements INTEGER NOT NULL CHECK (elements >= 0)
) STRICT;

CREATE TABLE importance (
  importance_id INTEGER NOT NULL PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE CHECK (fingerprint <> ''),
  name TEXT NOT NULL,
  datasets TEXT NOT NULL,
  chunk_count INTEGER CHECK (chunk_count >= 0),
  has_activations INTEGER NOT NULL CHECK (has_activations IN (0, 1))
) STRICT;

CREATE TABLE run (
  run_id INTEGER NOT NULL PRIMARY KEY,
  parameters TEXT NOT NULL UNIQUE,
  importance_id INTEGER REFERENCES importance (importance_id),
  effort TEXT NOT NULL,
  encoder_version INTEGER NOT NULL CHECK (encoder_version >= 0),
  sampling TEXT NOT NULL,
  metric TEXT NOT NULL,
  unit TEXT NOT NULL CHECK (unit IN ('nmse', 'nats')),
  program_version TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT
) STRICT;

CREATE TABLE tensor (
  tensor_id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  role TEXT NOT NULL,
  layer INTEGER CHECK (layer >= 0),
  dimensions INTEGER NOT NULL CHECK (dimensions BETWEEN 0 AND 4),
  ne0 INTEGER NOT NULL CHECK (ne0 >= 0),
  ne1 INTEGER NOT NULL CHECK (ne1 >= 0),
  ne2 INTEGER NOT NULL CHECK (ne2 >= 0),
  ne3 INTEGER NOT NULL CHECK (ne3 >= 0),
  source_format TEXT NOT NULL
) STRICT;

CREATE TABLE measurement (
  run_id INTEGER NOT NULL REFERENCES run (run_id) ON DELETE CASCADE,
  tensor_id INTEGER NOT NULL REFERENCES tensor (tensor_id) ON DELETE CASCADE,
  rows_sampled INTEGER NOT NULL CHECK (rows_sampled >= 0),
  saved TEXT NOT NULL,
  PRIMARY KEY (run_id, tensor_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX measurement_by_tensor ON measurement (tensor_id);

CREATE TABLE error (
  run_id INTEGER NOT NULL,
  tensor_id INTEGER NOT NULL,
  format TEXT NOT NULL,
  nmse REAL NOT NULL,
  standard_error REAL NOT NULL,
  bias_share REAL NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY (run_id, tensor_id, format),
  FOREIGN KEY (run_id, tensor_id) REFERENCES measurement (run_id, tensor_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE sensitivity (
  tensor TEXT NOT NULL PRIMARY KEY,
  value REAL NOT NULL,
  obtained TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE recipe (
  recipe_id INTEGER NOT NULL PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES run (run_id) ON DELETE CASCADE,
  target TEXT NOT NULL,
  budget_bytes INTEGER NOT NULL CHECK (budget_bytes >= 0),
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  objective REAL NOT NULL,
  lower_bound REAL NOT NULL,
  created TEXT NOT NULL
) STRICT;

CREATE INDEX recipe_by_run ON recipe (run_id);

CREATE TABLE recipe_entry (
  recipe_id INTEGER NOT NULL REFERENCES recipe (recipe_id) ON DELETE CASCADE,
  position INTEGER NOT NULL CHECK (position >= 0),
  tensor TEXT NOT NULL,
  format TEXT NOT NULL,
  PRIMARY KEY (recipe_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE recipe_provenance (
  recipe_id INTEGER NOT NULL REFERENCES recipe (recipe_id) ON DELETE CASCADE,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (recipe_id, key)
) STRICT, WITHOUT ROWID;

CREATE VIEW measured AS
SELECT run.run_id, tensor.name AS tensor, tensor.role, tensor.layer, tensor.source_format,
       measurement.rows_sampled, error.format, error.nmse, error.standard_error, error.bias_share, error.seconds,
       run.effort, run.encoder_version, run.sampling, run.metric, run.unit,
       importance.name AS importance, importance.fingerprint AS importance_fingerprint
FROM error
JOIN measurement ON measurement.run_id = error.run_id AND measurement.tensor_id = error.tensor_id
JOIN tensor ON tensor.tensor_id = error.tensor_id
JOIN run ON run.run_id = error.run_id
LEFT JOIN importance ON importance.importance_id = run.importance_id;

CREATE VIEW best AS
SELECT run_id, tensor, role, layer, source_format, rows_sampled, format, nmse, standard_error, bias_share, seconds,
       effort, encoder_version, sampling, metric, unit, importance, importance_fingerprint
FROM (SELECT measured.*,
             row_number() OVER (PARTITION BY tensor, format, unit, metric, importance_fingerprint
                                ORDER BY nmse, run_id) AS place
      FROM measured)
WHERE place = 1;

CREATE VIEW progress AS
SELECT run.run_id, run.effort, run.unit, importance.name AS importance,
       (SELECT count(*) FROM measurement WHERE measurement.run_id = run.run_id) AS tensors,
       (SELECT count(*) FROM error WHERE error.run_id = run.run_id) AS errors,
       (SELECT total(seconds) FROM error WHERE error.run_id = run.run_id) AS seconds,
       run.started, run.finished
FROM run
LEFT JOIN importance ON importance.importance_id = run.importance_id;

INSERT INTO meta (key, value) VALUES ('writer_version', '1'), ('lowest_compatible_version', '1');
PRAGMA application_id = 1363571572;
PRAGMA user_version = 1;
)sql";
static_assert(kApplicationId == 1363571572, "the number in the script above");

constexpr std::array kMigrations = {Migration{1, kVersion1}};

constexpr Sql kSelectApplicationId = "PRAGMA application_id";
constexpr Sql kSelectUserVersion = "PRAGMA user_version";
constexpr Sql kCountObjects = "SELECT count(*) FROM sqlite_schema";

Result<std::int64_t> single_integer(const Database& database, Sql sql) {
  QF_ASSIGN(auto statement, Statement::prepare(database, sql));
  QF_ASSIGN(const bool row, statement.step());
  if (!row)
    return fail(ErrorCode::Malformed, "{}: the file is damaged: a number is missing", database.path());
  const std::int64_t value = statement.integer(0);
  QF_TRY(statement.finish());
  return value;
}

constexpr Sql kSelectMeta = "SELECT value FROM meta WHERE key = ?";

Result<std::int64_t> meta_number(const Database& database, std::string_view key) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectMeta));
  QF_TRY(statement.bind(key));
  QF_ASSIGN(const bool row, statement.step());
  const std::string text = row ? statement.text(0) : std::string();
  QF_TRY(statement.finish());
  std::int64_t value = 0;
  const auto [end, trouble] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (trouble != std::errc() || end != text.data() + text.size() || value < 1)
    return fail(ErrorCode::Malformed, "{}: the file is damaged: '{}' in table meta is '{}', not a version",
                database.path(), key, text);
  return value;
}

// Inside a transaction of the caller's.
Result<FileKind> inspect_inside(Database& database, std::span<const Migration> steps) {
  const std::int64_t current = steps.back().to_version;
  QF_ASSIGN(const std::int64_t application, single_integer(database, kSelectApplicationId));
  QF_ASSIGN(const std::int64_t version, single_integer(database, kSelectUserVersion));
  if (application != kApplicationId) {
    QF_ASSIGN(const std::int64_t objects, single_integer(database, kCountObjects));
    if (application == 0 && version == 0 && objects == 0) return FileKind::Empty;
    return fail(
        ErrorCode::Malformed,
        "{}: a database of another application (application id {:#x}), not a state file; name another file",
        database.path(), static_cast<std::uint32_t>(application));
  }
  if (version < 1)
    return fail(ErrorCode::Malformed, "{}: the file is damaged: schema version {}", database.path(), version);
  QF_ASSIGN(const std::int64_t writer, meta_number(database, "writer_version"));
  QF_ASSIGN(const std::int64_t lowest, meta_number(database, "lowest_compatible_version"));
  if (writer != version || lowest > version)
    return fail(ErrorCode::Malformed,
                "{}: the file is damaged: schema version {}, but table meta says {} (compatible down to {})",
                database.path(), version, writer, lowest);
  if (lowest > current)
    return fail(ErrorCode::Unsupported,
                "{}: written by a newer program (schema {}, readable from schema {} on; this program "
                "has {}); use the newer program or another file",
                database.path(), version, lowest, current);
  if (version > current) return FileKind::NewerCompatible;
  return version < current ? FileKind::Older : FileKind::Current;
}

// type + name -> definition
using Objects = std::map<std::pair<std::string, std::string>, std::string>;

constexpr Sql kSelectObjects =
    "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name";

Result<Objects> objects_of(const Database& database) {
  Objects objects;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectObjects));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return objects;
    std::pair key{statement.text(0), statement.text(1)};
    objects.insert_or_assign(std::move(key), statement.text(2));
  }
}

constexpr Sql kQuickCheck = "PRAGMA quick_check(1)";

}  // namespace

std::span<const Migration> migrations() {
  return kMigrations;
}

Result<FileKind> inspect(Database& database, std::span<const Migration> steps) {
  QF_ASSIGN(auto transaction, Transaction::begin_read(database));
  QF_ASSIGN(const FileKind kind, inspect_inside(database, steps));
  QF_TRY(transaction.commit());
  return kind;
}

Result<void> migrate(Database& database, std::span<const Migration> steps) {
  for (const Migration& step : steps) {
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    // Looked at again under the write lock: another process may have been faster.
    QF_ASSIGN(const FileKind kind, inspect_inside(database, steps));
    if (kind != FileKind::Empty && kind != FileKind::Older) return outcome::success();
    QF_ASSIGN(const std::int64_t version, single_integer(database, kSelectUserVersion));
    if (version + 1 != step.to_version) continue;
    QF_TRY(database.execute(step.sql));
    QF_ASSIGN(const std::int64_t reached, single_integer(database, kSelectUserVersion));
    if (reached != step.to_version)
      return fail(ErrorCode::Internal, "the step to schema {} ends at {}", step.to_version, reached);
    QF_TRY(transaction.commit());
  }
  return outcome::success();
}

Result<void> verify(Database& database, std::span<const Migration> steps) {
  {
    QF_ASSIGN(auto check, Statement::prepare(database, kQuickCheck));
    QF_ASSIGN(const bool row, check.step());
    const std::string answer = row ? check.text(0) : std::string();
    QF_TRY(check.finish());
    if (answer != "ok")
      return fail(ErrorCode::Malformed,
                  "{}: the file is damaged ({}); restore a copy, or remove it to measure again",
                  database.path(), answer);
  }
  // What the same steps make of an empty database is what the file must have.
  QF_ASSIGN(auto reference, Database::open_in_memory());
  QF_TRY(migrate(reference, steps));
  QF_ASSIGN(const Objects expected, objects_of(reference));
  QF_ASSIGN(const Objects found, objects_of(database));
  for (const auto& [key, definition] : expected) {
    const auto position = found.find(key);
    if (position == found.end())
      return fail(ErrorCode::Malformed, "{}: the file is damaged: {} '{}' is missing", database.path(),
                  key.first, key.second);
    if (position->second != definition)
      return fail(ErrorCode::Malformed, "{}: {} '{}' is not defined as in schema {}", database.path(),
                  key.first, key.second, steps.back().to_version);
  }
  return outcome::success();
}

}  // namespace quantfit::state

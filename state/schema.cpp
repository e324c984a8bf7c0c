#include "state/schema.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/text.h"
#include "state/keys.h"

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

// Version 2. Sensitivities become sets that are used whole, recipes are known by their content, and there is
// a place for what the program measures by running the model. Loose rows of version 1 said neither what they
// were obtained from nor that they were all; they become one partial set, which is never used to choose
// formats. `before_v2` is a name of this step alone.
constexpr Sql kVersion2 = R"sql(
ALTER TABLE sensitivity RENAME TO before_v2;

CREATE TABLE sensitivity_set (
  set_id INTEGER NOT NULL PRIMARY KEY,
  scope TEXT NOT NULL UNIQUE,
  unit TEXT NOT NULL CHECK (unit IN ('relative', 'nats')),
  method TEXT NOT NULL,
  text_fingerprint TEXT NOT NULL,
  importance_fingerprint TEXT NOT NULL,
  metric TEXT NOT NULL,
  program_version TEXT NOT NULL,
  engine_version INTEGER NOT NULL CHECK (engine_version >= 0),
  tokens INTEGER NOT NULL CHECK (tokens >= 0),
  partial INTEGER NOT NULL CHECK (partial IN (0, 1)),
  created TEXT NOT NULL
) STRICT;

CREATE TABLE sensitivity (
  set_id INTEGER NOT NULL REFERENCES sensitivity_set (set_id) ON DELETE CASCADE,
  tensor TEXT NOT NULL,
  value REAL NOT NULL,
  standard_error REAL NOT NULL,
  obtained TEXT NOT NULL,
  tensor_group TEXT NOT NULL,
  PRIMARY KEY (set_id, tensor)
) STRICT, WITHOUT ROWID;

INSERT INTO sensitivity_set (set_id, scope, unit, method, text_fingerprint, importance_fingerprint, metric,
                             program_version, engine_version, tokens, partial, created)
SELECT 1, 'unit=4:nats method=8:schema 1 text=0: importance=0: metric=0: program=0: engine=1:0 tokens=1:0',
       'nats', 'schema 1', '', '', '', '', 0, 0, 1, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')
WHERE EXISTS (SELECT 1 FROM before_v2);
INSERT INTO sensitivity (set_id, tensor, value, standard_error, obtained, tensor_group)
SELECT 1, tensor, value, 0.0, obtained, '' FROM before_v2;
DROP TABLE before_v2;

ALTER TABLE recipe ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX recipe_by_content ON recipe (run_id, fingerprint) WHERE fingerprint <> '';

CREATE TABLE calibration (
  calibration_id INTEGER NOT NULL PRIMARY KEY,
  text_fingerprint TEXT NOT NULL,
  tokens INTEGER NOT NULL CHECK (tokens >= 0),
  context INTEGER NOT NULL CHECK (context >= 0),
  engine_version INTEGER NOT NULL CHECK (engine_version >= 0),
  text_name TEXT NOT NULL,
  program_version TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT,
  layers_finished INTEGER NOT NULL CHECK (layers_finished >= 0),
  UNIQUE (text_fingerprint, tokens, context, engine_version)
) STRICT;

CREATE TABLE statistics_file (
  statistics_file_id INTEGER NOT NULL PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE CHECK (fingerprint <> ''),
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  text_fingerprint TEXT NOT NULL,
  created TEXT NOT NULL
) STRICT;

CREATE TABLE evaluation (
  evaluation_id INTEGER NOT NULL PRIMARY KEY,
  base_fingerprint TEXT NOT NULL,
  candidate_fingerprint TEXT NOT NULL,
  text_fingerprint TEXT NOT NULL,
  context INTEGER NOT NULL CHECK (context >= 0),
  chunks INTEGER NOT NULL CHECK (chunks >= 0),
  engine_version INTEGER NOT NULL CHECK (engine_version >= 0),
  candidate_name TEXT NOT NULL,
  text_name TEXT NOT NULL,
  program_version TEXT NOT NULL,
  created TEXT NOT NULL,
  UNIQUE (base_fingerprint, candidate_fingerprint, text_fingerprint, context, chunks, engine_version)
) STRICT;

CREATE TABLE estimate (
  evaluation_id INTEGER NOT NULL REFERENCES evaluation (evaluation_id) ON DELETE CASCADE,
  quantity TEXT NOT NULL,
  value REAL NOT NULL,
  standard_error REAL,
  PRIMARY KEY (evaluation_id, quantity)
) STRICT, WITHOUT ROWID;

CREATE TABLE written_file (
  written_file_id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  recipe_fingerprint TEXT NOT NULL,
  importance_fingerprint TEXT NOT NULL,
  effort TEXT NOT NULL,
  encoder_version INTEGER NOT NULL CHECK (encoder_version >= 0),
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  program_version TEXT NOT NULL,
  written TEXT NOT NULL
) STRICT;

UPDATE meta SET value = '2' WHERE key IN ('writer_version', 'lowest_compatible_version');
PRAGMA user_version = 2;
)sql";

// Version 3. Of which files the measurements are, and the digest of every weight where all were read.
// Programs of older versions would measure without a note: they may not.
constexpr Sql kVersion3 = R"sql(
ALTER TABLE model ADD COLUMN digest TEXT NOT NULL DEFAULT '';

CREATE TABLE source (
  source_id INTEGER NOT NULL PRIMARY KEY,
  stamp TEXT NOT NULL UNIQUE,
  proved INTEGER NOT NULL CHECK (proved IN (0, 1))
) STRICT;

CREATE TABLE source_file (
  source_id INTEGER NOT NULL REFERENCES source (source_id) ON DELETE CASCADE,
  position INTEGER NOT NULL CHECK (position >= 0),
  name TEXT NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  modified INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  PRIMARY KEY (source_id, position)
) STRICT, WITHOUT ROWID;

INSERT INTO source (stamp, proved) SELECT '', 0 WHERE EXISTS (SELECT 1 FROM measurement);

UPDATE meta SET value = '3' WHERE key IN ('writer_version', 'lowest_compatible_version');
PRAGMA user_version = 3;
)sql";

constexpr Sql kSelectOldRecipes =
    "SELECT recipe_id, run_id, target, budget_bytes, bytes, objective, lower_bound FROM recipe "
    "ORDER BY recipe_id";
constexpr Sql kSelectOldEntries =
    "SELECT tensor, format FROM recipe_entry WHERE recipe_id = ? ORDER BY position";
constexpr Sql kSelectOldProvenance = "SELECT key, value FROM recipe_provenance WHERE recipe_id = ?";
constexpr Sql kNameRecipe = "UPDATE recipe SET fingerprint = ? WHERE recipe_id = ?";
constexpr Sql kDropRecipe = "DELETE FROM recipe WHERE recipe_id = ?";

// The end of the step to version 2: recipes get their fingerprints, and of equal ones the first stays.
Result<void> name_recipes(Database& database) {
  QF_ASSIGN(auto recipes, Statement::prepare(database, kSelectOldRecipes));
  QF_ASSIGN(auto entries, Statement::prepare(database, kSelectOldEntries));
  QF_ASSIGN(auto provenance, Statement::prepare(database, kSelectOldProvenance));
  std::vector<std::tuple<std::int64_t, std::int64_t, std::string>> named;  // recipe, run, fingerprint
  while (true) {
    QF_ASSIGN(const bool row, recipes.step());
    if (!row) break;
    const std::int64_t recipe_id = recipes.integer(0);
    RecipeText recipe{recipes.text(2),
                      recipes.unsigned_integer(3),
                      recipes.unsigned_integer(4),
                      recipes.real(5),
                      recipes.real(6),
                      {},
                      {}};
    QF_TRY(entries.bind(recipe_id));
    while (true) {
      QF_ASSIGN(const bool entry, entries.step());
      if (!entry) break;
      std::string tensor = entries.text(0);
      recipe.entries.emplace_back(std::move(tensor), entries.text(1));
    }
    QF_TRY(provenance.bind(recipe_id));
    while (true) {
      QF_ASSIGN(const bool pair, provenance.step());
      if (!pair) break;
      std::string key = provenance.text(0);
      recipe.provenance.insert_or_assign(std::move(key), provenance.text(1));
    }
    named.emplace_back(recipe_id, recipes.integer(1), recipe_fingerprint(recipe));
  }
  QF_ASSIGN(auto name, Statement::prepare(database, kNameRecipe));
  QF_ASSIGN(auto drop, Statement::prepare(database, kDropRecipe));
  std::set<std::pair<std::int64_t, std::string>> seen;
  for (const auto& [recipe_id, run_id, fingerprint] : named) {
    if (seen.emplace(run_id, fingerprint).second)
      QF_TRY(name.run(fingerprint, recipe_id));
    else
      QF_TRY(drop.run(recipe_id));
  }
  return outcome::success();
}

constexpr std::array kMigrations = {Migration{1, kVersion1}, Migration{2, kVersion2, name_recipes},
                                    Migration{3, kVersion3}};

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

constexpr Sql kSelectMetaDefinition =
    "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'meta' AND tbl_name = 'meta'";
// The same in all versions: everything else is read only after what it says is known.
constexpr std::string_view kMetaDefinition =
    "CREATE TABLE meta (\n  key TEXT NOT NULL PRIMARY KEY,\n  value TEXT NOT NULL\n) STRICT, WITHOUT ROWID";

// A view of that name could run for ever.
Result<void> check_meta_is_a_table(const Database& database) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectMetaDefinition));
  QF_ASSIGN(const bool row, statement.step());
  const bool sound = row && statement.text(0) == kMetaDefinition;
  QF_TRY(statement.finish());
  if (!sound)
    return fail(ErrorCode::Malformed, "{}: the file is damaged: table 'meta' is missing or defined otherwise",
                database.path());
  return outcome::success();
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
                database.path(), key, escaped(text));
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
  QF_TRY(check_meta_is_a_table(database));
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

// One row of sqlite_schema that has a definition: automatic indexes have none.
struct Object {
  std::string type;
  std::string table;  // that it belongs to
  std::string definition;
};
using Objects = std::map<std::string, Object>;  // by name

constexpr Sql kSelectObjects =
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";

Result<Objects> objects_of(const Database& database) {
  Objects objects;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectObjects));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return objects;
    Object object{statement.text(0), statement.text(2), statement.text(3)};
    std::string name = statement.text(1);
    objects.insert_or_assign(std::move(name), std::move(object));
  }
}

bool is_table_of_ours(const Objects& expected, const std::string& name) {
  const auto found = expected.find(name);
  return found != expected.end() && found->second.type == "table";
}

// Everything of ours is there and defined to the letter, and nothing was hung onto it.
Result<void> verify_exactly(const Database& database, const Objects& expected, const Objects& found,
                            std::int64_t version) {
  for (const auto& [name, object] : expected) {
    const auto position = found.find(name);
    if (position == found.end())
      return fail(ErrorCode::Malformed, "{}: the file is damaged: {} '{}' is missing", database.path(),
                  object.type, name);
    if (position->second.type != object.type || position->second.table != object.table ||
        position->second.definition != object.definition)
      return fail(ErrorCode::Malformed, "{}: {} '{}' is not defined as in schema {}", database.path(),
                  object.type, name, version);
  }
  for (const auto& [name, object] : found)
    if (object.type != "table" && object.type != "view" && !expected.contains(name) &&
        is_table_of_ours(expected, object.table))
      return fail(
          ErrorCode::Malformed,
          "{}: {} {} was added to table '{}', where it would run with every value; remove it (DROP {})",
          database.path(), object.type, printable(name), object.table, object.type);
  return outcome::success();
}

// What SQLite made of a name when it read the schema, whatever the schema's own column 'type' says.
constexpr Sql kSelectTableType = "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?";
constexpr Sql kSelectColumns =
    "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?) ORDER BY name";
// Parts of indexes that are expressions, and indexes of a part of the rows, which have a condition.
constexpr Sql kSelectComputedIndexes =
    "SELECT list.name FROM pragma_index_list(?) AS list WHERE list.partial <> 0 OR EXISTS "
    "(SELECT 1 FROM pragma_index_xinfo(list.name) AS part WHERE part.cid = -2)";

// name -> type, not null, place in the primary key, kind (0: stored as given)
using Columns = std::map<std::string, std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t>>;

Result<Columns> columns_of(const Database& database, const std::string& table) {
  Columns columns;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectColumns));
  QF_TRY(statement.bind(table));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) return columns;
    std::string name = statement.text(0);
    std::tuple column{statement.text(1), statement.integer(2), statement.integer(3), statement.integer(4)};
    columns.insert_or_assign(std::move(name), std::move(column));
  }
}

// A newer program may have extended definitions. What this one reads must still be a table with the columns
// that it knows, and nothing may be computed from values.
Result<void> verify_extended(const Database& database, const Database& reference, const Objects& expected,
                             const Objects& found) {
  for (const auto& [table, object] : expected) {
    if (object.type != "table") continue;
    QF_ASSIGN(auto type, Statement::prepare(database, kSelectTableType));
    QF_TRY(type.bind(table));
    QF_ASSIGN(const bool there, type.step());
    if (!there || type.text(0) != "table")
      return fail(ErrorCode::Malformed, "{}: the file is damaged: '{}' is not a table", database.path(),
                  table);
    QF_TRY(type.finish());
    QF_ASSIGN(const Columns known, columns_of(reference, table));
    QF_ASSIGN(const Columns columns, columns_of(database, table));
    for (const auto& [name, column] : known) {
      const auto position = columns.find(name);
      if (position == columns.end() || position->second != column)
        return fail(ErrorCode::Malformed,
                    "{}: the file is damaged: column '{}' of table '{}' is missing or of "
                    "another kind",
                    database.path(), name, table);
    }
    for (const auto& [name, column] : columns)
      if (std::get<3>(column) != 0)
        return fail(ErrorCode::Malformed, "{}: column {} of table '{}' is computed, which no state file has",
                    database.path(), printable(name), table);
    QF_ASSIGN(auto indexes, Statement::prepare(database, kSelectComputedIndexes));
    QF_TRY(indexes.bind(table));
    while (true) {
      QF_ASSIGN(const bool computed, indexes.step());
      if (!computed) break;
      const std::string name = indexes.text(0);
      const auto own = expected.find(name);
      const auto theirs = found.find(name);
      if (own == expected.end() || theirs == found.end() ||
          own->second.definition != theirs->second.definition)
        return fail(ErrorCode::Malformed, "{}: index {} of table '{}' is computed, which no state file has",
                    database.path(), printable(name), table);
    }
  }
  return outcome::success();
}

// Of one table and its indexes; tables of others may hold definitions that cost without end.
constexpr Sql kCheckTable = "SELECT quick_check FROM pragma_quick_check(?)";
constexpr Sql kCheckQuickly = "PRAGMA quick_check(1)";

// SQLite's check tells of a page that could not be read among the damage: "... error code=8458".
bool tells_of_reading(std::string_view answer) {
  constexpr std::string_view kMark = "error code=";
  constexpr unsigned kIoError = 10;     // the lowest byte, SQLITE_IOERR
  constexpr unsigned kShortRead = 522;  // the file ends too early: that is damage
  const std::size_t at = answer.find(kMark);
  if (at == std::string_view::npos) return false;
  unsigned code = 0;
  std::from_chars(answer.data() + at + kMark.size(), answer.data() + answer.size(), code);
  return (code & 0xffU) == kIoError && code != kShortRead;
}

}  // namespace

Result<void> check_structure(const Database& database, Statement check) {
  QF_ASSIGN(const bool row, check.step());
  const std::string answer = row ? check.text(0) : std::string();
  QF_TRY(check.finish());
  if (answer == "ok") return outcome::success();
  if (tells_of_reading(answer))
    return fail(ErrorCode::Io, "{}: cannot be read: disk I/O error ({})", database.path(), escaped(answer));
  return fail(ErrorCode::Malformed,
              "{}: the file is damaged ({}); restore a copy, or remove it to measure again", database.path(),
              escaped(answer));
}

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
    if (step.finish != nullptr) QF_TRY(step.finish(database));
    QF_ASSIGN(const std::int64_t reached, single_integer(database, kSelectUserVersion));
    if (reached != step.to_version)
      return fail(ErrorCode::Internal, "the step to schema {} ends at {}", step.to_version, reached);
    QF_TRY(transaction.commit());
  }
  return outcome::success();
}

Result<void> verify(Database& database, FileKind kind, std::span<const Migration> steps) {
  // Version and definitions of one moment: another process may bring the file to the current schema
  // meanwhile.
  std::int64_t version = steps.back().to_version;
  Objects found;
  {
    QF_ASSIGN(auto transaction, Transaction::begin_read(database));
    if (kind == FileKind::Older) {
      QF_ASSIGN(kind, inspect_inside(database, steps));
    }
    if (kind == FileKind::Older) {
      QF_ASSIGN(version, single_integer(database, kSelectUserVersion));
    }
    QF_ASSIGN(found, objects_of(database));
    QF_TRY(transaction.commit());
  }
  // What the same steps make of an empty database is what the file must have.
  steps = steps.first(static_cast<std::size_t>(version - steps.front().to_version + 1));
  QF_ASSIGN(auto reference, Database::open_in_memory());
  QF_TRY(migrate(reference, steps));
  QF_ASSIGN(const Objects expected, objects_of(reference));
  // The definitions come first: checking the structure evaluates what they say.
  if (kind == FileKind::NewerCompatible) {
    QF_TRY(verify_extended(database, reference, expected, found));
  } else {
    QF_TRY(verify_exactly(database, expected, found, version));
  }
  const bool only_ours = std::ranges::all_of(found, [&](const auto& entry) {
    return entry.second.type == "view" || expected.contains(entry.first);
  });
  if (only_ours) {
    QF_ASSIGN(auto check, Statement::prepare(database, kCheckQuickly));
    return check_structure(database, std::move(check));
  }
  for (const auto& [name, object] : expected) {
    if (object.type != "table") continue;
    QF_ASSIGN(auto check, Statement::prepare(database, kCheckTable));
    QF_TRY(check.bind(name));
    QF_TRY(check_structure(database, std::move(check)));
  }
  return outcome::success();
}

}  // namespace quantfit::state

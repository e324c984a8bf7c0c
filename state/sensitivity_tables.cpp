// Sets of sensitivities, written and read whole.
#include <algorithm>

#include "core/text.h"
#include "state/checks.h"
#include "state/keys.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kDeleteSet = "DELETE FROM sensitivity_set WHERE scope = ?";
constexpr Sql kInsertSet =
    "INSERT INTO sensitivity_set (scope, unit, method, text_fingerprint, importance_fingerprint, metric, "
    "program_version, engine_version, tokens, partial, created) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')))";
constexpr Sql kInsertRow =
    "INSERT INTO sensitivity (set_id, tensor, value, standard_error, obtained, tensor_group) "
    "VALUES (?, ?, ?, ?, ?, ?)";
constexpr Sql kSelectSets =
    "SELECT set_id, unit, method, text_fingerprint, importance_fingerprint, metric, program_version, "
    "engine_version, tokens, partial, created FROM sensitivity_set ORDER BY scope";
constexpr Sql kSelectRows =
    "SELECT tensor, value, standard_error, obtained, tensor_group FROM sensitivity WHERE set_id = ? "
    "ORDER BY tensor";

Result<SensitivityUnit> unit_from_text(const std::string& text, const std::string& path) {
  for (const SensitivityUnit unit : {SensitivityUnit::Relative, SensitivityUnit::Nats})
    if (text == to_string(unit)) return unit;
  return fail(ErrorCode::Malformed, "{}: the file is damaged: unit {} of a sensitivity set", path,
              printable(text));
}

}  // namespace

Result<void> write_sensitivity_set(Database& database, const SensitivitySet& set) {
  const SensitivityScope& scope = set.scope;
  QF_TRY(delete_sensitivity_set(database, scope));
  QF_ASSIGN(auto insert_set, Statement::prepare(database, kInsertSet));
  const auto created = set.created.empty() ? std::nullopt : std::optional<std::string>(set.created);
  QF_TRY(insert_set.run(canonical_key(scope), to_string(scope.unit), scope.method, scope.text_fingerprint,
                        scope.importance_fingerprint, scope.metric, scope.program_version,
                        scope.engine_version, scope.tokens, set.partial, created));
  const std::int64_t set_id = database.last_insert_rowid();
  QF_ASSIGN(auto insert, Statement::prepare(database, kInsertRow));
  for (const Sensitivity& row : set.rows)
    QF_TRY(insert.run(set_id, row.tensor, row.value, row.standard_error, row.obtained, row.group));
  return outcome::success();
}

Result<std::vector<SensitivitySet>> select_sensitivity_sets(const Database& database) {
  std::vector<SensitivitySet> sets;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectSets));
  QF_ASSIGN(auto rows, Statement::prepare(database, kSelectRows));
  while (true) {
    QF_ASSIGN(const bool found, statement.step());
    if (!found) break;
    SensitivitySet& set = sets.emplace_back();
    const std::int64_t set_id = statement.integer(0);
    QF_ASSIGN(set.scope.unit, unit_from_text(statement.text(1), database.path()));
    set.scope.method = statement.text(2);
    set.scope.text_fingerprint = statement.text(3);
    set.scope.importance_fingerprint = statement.text(4);
    set.scope.metric = statement.text(5);
    set.scope.program_version = statement.text(6);
    set.scope.engine_version = statement.unsigned_integer32(7);
    set.scope.tokens = statement.unsigned_integer(8);
    set.partial = statement.integer(9) != 0;
    set.created = statement.text(10);
    QF_TRY(rows.bind(set_id));
    while (true) {
      QF_ASSIGN(const bool row, rows.step());
      if (!row) break;
      Sensitivity& value = set.rows.emplace_back();
      value.tensor = rows.text(0);
      value.value = rows.real(1);
      value.standard_error = rows.real(2);
      value.obtained = rows.text(3);
      value.group = rows.text(4);
    }
  }
  for (const SensitivitySet& set : sets) QF_TRY(sound(database, check(set)));
  return sets;
}

Result<void> delete_sensitivity_set(Database& database, const SensitivityScope& scope) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteSet));
  return statement.run(canonical_key(scope));
}

}  // namespace quantfit::state

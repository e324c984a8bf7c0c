// Saved recipes, each content once per run.
#include "state/checks.h"
#include "state/keys.h"
#include "state/tables.h"

namespace quantfit::state {
namespace {

constexpr Sql kSelectRecipeId = "SELECT recipe_id FROM recipe WHERE run_id = ? AND fingerprint = ?";
constexpr Sql kKeepEarlierTime = "UPDATE recipe SET created = min(created, ?) WHERE recipe_id = ?";
constexpr Sql kInsertRecipe =
    "INSERT INTO recipe (run_id, target, budget_bytes, bytes, objective, lower_bound, created, fingerprint) "
    "VALUES (?, ?, ?, ?, ?, ?, coalesce(?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now')), ?)";
constexpr Sql kInsertRecipeEntry =
    "INSERT INTO recipe_entry (recipe_id, position, tensor, format) VALUES (?, ?, ?, ?)";
constexpr Sql kInsertRecipeProvenance =
    "INSERT INTO recipe_provenance (recipe_id, key, value) VALUES (?, ?, ?)";
constexpr Sql kDeleteRecipe = "DELETE FROM recipe WHERE run_id = ? AND fingerprint = ?";

constexpr Sql kSelectRecipes =
    "SELECT recipe_id, target, budget_bytes, bytes, objective, lower_bound, created FROM recipe "
    "WHERE run_id = ? ORDER BY recipe_id";
constexpr Sql kSelectRecipeEntries =
    "SELECT tensor, format FROM recipe_entry WHERE recipe_id = ? ORDER BY position";
constexpr Sql kSelectRecipeProvenance =
    "SELECT key, value FROM recipe_provenance WHERE recipe_id = ? ORDER BY key";

}  // namespace

Result<bool> write_recipe(Database& database, RunId run, const SavedRecipe& saved) {
  const std::string fingerprint = recipe_fingerprint(saved);
  QF_ASSIGN(auto select, Statement::prepare(database, kSelectRecipeId));
  QF_TRY(select.bind(run, fingerprint));
  QF_ASSIGN(const bool known, select.step());
  if (known) {
    const std::int64_t recipe_id = select.integer(0);
    QF_TRY(select.finish());
    if (!saved.created.empty()) {
      QF_ASSIGN(auto update, Statement::prepare(database, kKeepEarlierTime));
      QF_TRY(update.run(saved.created, recipe_id));
    }
    return false;
  }
  QF_ASSIGN(auto insert, Statement::prepare(database, kInsertRecipe));
  const auto created = saved.created.empty() ? std::nullopt : std::optional<std::string>(saved.created);
  QF_TRY(insert.run(run, saved.target, saved.budget_bytes, saved.bytes, saved.objective, saved.lower_bound,
                    created, fingerprint));
  const std::int64_t recipe_id = database.last_insert_rowid();
  QF_ASSIGN(auto insert_entry, Statement::prepare(database, kInsertRecipeEntry));
  std::int64_t position = 0;
  for (const RecipeEntry& entry : saved.recipe.entries)
    QF_TRY(insert_entry.run(recipe_id, position++, entry.tensor, name_of(entry.format)));
  QF_ASSIGN(auto insert_provenance, Statement::prepare(database, kInsertRecipeProvenance));
  for (const auto& [key, value] : saved.recipe.provenance)
    QF_TRY(insert_provenance.run(recipe_id, key, value));
  return true;
}

Result<std::vector<SavedRecipe>> select_recipes(const Database& database, RunId run) {
  QF_TRY(check_run_exists(database, run));
  std::vector<SavedRecipe> recipes;
  QF_ASSIGN(auto statement, Statement::prepare(database, kSelectRecipes));
  QF_ASSIGN(auto entries, Statement::prepare(database, kSelectRecipeEntries));
  QF_ASSIGN(auto provenance, Statement::prepare(database, kSelectRecipeProvenance));
  QF_TRY(statement.bind(run));
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
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
  for (const SavedRecipe& recipe : recipes) QF_TRY(sound(database, check(recipe)));
  return recipes;
}

Result<void> delete_recipe(Database& database, RunId run, const SavedRecipe& recipe) {
  QF_ASSIGN(auto statement, Statement::prepare(database, kDeleteRecipe));
  return statement.run(run, recipe_fingerprint(recipe));
}

}  // namespace quantfit::state

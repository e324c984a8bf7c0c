// Old files, foreign files, damaged files.
#include "state/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <fstream>
#include <iterator>

#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;
using testing::HasSubstr;

// Runs any SQL on the file, past everything that the layer under test insists on.
void run_sql(const std::filesystem::path& path, const std::string& sql) {
  sqlite3* handle = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &handle), SQLITE_OK);
  char* message = nullptr;
  EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, &message), SQLITE_OK) << message;
  sqlite3_free(message);
  sqlite3_close(handle);
}

void make_old_file(const std::filesystem::path& path, int version = 1) {
  std::ifstream in(test::data_dir() / "state" / fmt::format("schema_{}.sql", version));
  run_sql(path, std::string(std::istreambuf_iterator<char>(in), {}));
}

void make_file(const std::filesystem::path& path) {
  auto store = StateStore::open(path, model_case());
  ASSERT_TRUE(store) << store.error().message;
  const RunId run = store.value().begin_run(parameters_case(), "1").value();
  for (int i = 0; i < 50; ++i)
    ASSERT_TRUE(store.value().save_tensor(run, measurement_case(fmt::format("t{}", i), i)));
}

Error open_error(const std::filesystem::path& path) {
  const auto store = StateStore::open(path, model_case());
  const auto reader = StateStore::open_read_only(path);
  if (store || reader) return {ErrorCode::Internal, "opened"};
  EXPECT_EQ(store.error().code, reader.error().code)
      << store.error().message << "; " << reader.error().message;
  EXPECT_THAT(store.error().message, HasSubstr(path.string()));
  return store.error();
}

TEST(Schema, AStoredFileOfSchema1IsReadAndContinued) {
  const TemporaryFolder folder;
  make_old_file(folder / "old.qfstate");
  auto store = StateStore::open(folder / "old.qfstate", model_case());
  ASSERT_TRUE(store) << store.error().message;
  const auto runs = store.value().runs().value();
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0].parameters, parameters_case());
  EXPECT_EQ(runs[0].program_version, "0.1.0");
  EXPECT_EQ(runs[1].parameters.importance_fingerprint, "");
  EXPECT_EQ(runs[1].finished, "");
  // The text of the file's unique key is part of the schema: the same parameters must find the same run.
  EXPECT_EQ(store.value().begin_run(parameters_case(), "9").value(), runs[0].id);
  const auto loaded = store.value().load_run(runs[0].id).value();
  ASSERT_EQ(loaded.size(), 2U);
  expect_same(loaded.at("blk.0.ffn_up.weight"), measurement_case("blk.0.ffn_up.weight", 1));
  expect_same(loaded.at("blk.0.attn_q.weight"), measurement_case("blk.0.attn_q.weight", 2));
  // Loose values said neither what they came from nor that they were all: a partial set in nats.
  const auto sets = store.value().load_sensitivity_sets().value();
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].scope.unit, SensitivityUnit::Nats);
  EXPECT_TRUE(sets[0].partial);
  ASSERT_EQ(sets[0].rows.size(), 1U);
  EXPECT_EQ(sets[0].rows[0], (Sensitivity{"output.weight", 45.25, 0, "prior", ""}));
  // The text of the set's unique key is what this program would write: saving it again replaces it.
  ASSERT_TRUE(store.value().save_sensitivity_set(sets[0]));
  EXPECT_EQ(store.value().load_sensitivity_sets().value().size(), 1U);
  const auto recipes = store.value().load_recipes(runs[0].id).value();
  ASSERT_EQ(recipes.size(), 1U);
  // Known by its content, as one that is saved now.
  ASSERT_TRUE(store.value().save_recipe(runs[0].id, recipes[0]));
  EXPECT_EQ(store.value().load_recipes(runs[0].id).value().size(), 1U);
  EXPECT_EQ(recipes[0].budget_bytes, (std::uint64_t{1} << 53) + 1);
  EXPECT_EQ(recipes[0].recipe.entries, recipe_case("4.5").recipe.entries);
  EXPECT_EQ(store.value().importances().value().at(0).chunk_count, 125U);
  EXPECT_TRUE(store.value().save_tensor(runs[1].id, measurement_case("new", 3)));
}

TEST(Schema, AStoredFileOfSchema2IsReadAndContinued) {
  const TemporaryFolder folder;
  make_old_file(folder / "old.qfstate", 2);
  auto store = StateStore::open(folder / "old.qfstate", model_case());
  ASSERT_TRUE(store) << store.error().message;
  const RunId run = store.value().begin_run(parameters_case(), "9").value();
  EXPECT_EQ(store.value().runs().value().size(), 2U);
  const auto loaded = store.value().load_run(run).value();
  ASSERT_EQ(loaded.size(), 2U);
  expect_same(loaded.at("blk.0.ffn_up.weight"), measurement_case("blk.0.ffn_up.weight", 1));
  EXPECT_EQ(store.value().load_recipes(run).value().size(), 1U);
  EXPECT_EQ(store.value().load_sensitivity_sets().value().size(), 1U);
  EXPECT_EQ(store.value().calibrations().value().at(0).layers_finished, 3U);
  EXPECT_EQ(store.value().statistics_files().value().at(0).name, "moments-ee55.gguf");
  EXPECT_EQ(store.value().evaluations().value().at(0).estimates, evaluation_case().estimates);
  EXPECT_EQ(store.value().written_files().value().at(0).bytes, 1'000'000U);
  // Nobody noted which files were measured: they stay without proof, whatever comes.
  EXPECT_EQ(store.value().model().value().digest, "");
  EXPECT_EQ(store.value().sources().value(), std::vector<Source>{Source{}});
  ASSERT_TRUE(store.value().remember_source(files_case(), "d1"));
  const auto sources = store.value().sources().value();
  ASSERT_EQ(sources.size(), 2U);
  EXPECT_FALSE(sources[0].proved);
  EXPECT_EQ(sources[1], (Source{files_case(), true}));
}

TEST(Schema, OfEqualOldRecipesOneIsKept) {
  const TemporaryFolder folder;
  make_old_file(folder / "old");
  run_sql(
      folder / "old",
      "INSERT INTO recipe SELECT 2, run_id, target, budget_bytes, bytes, objective, lower_bound, "
      "'2027-01-02T03:04:05Z' FROM recipe WHERE recipe_id = 1;"
      "INSERT INTO recipe_entry SELECT 2, position, tensor, format FROM recipe_entry;"
      "INSERT INTO recipe_provenance SELECT 2, key, value FROM recipe_provenance;"
      "INSERT INTO recipe SELECT 3, run_id, 'other', budget_bytes, bytes, objective, lower_bound, created "
      "FROM recipe WHERE recipe_id = 1");
  auto store = StateStore::open(folder / "old", model_case());
  ASSERT_TRUE(store) << store.error().message;
  const auto recipes = store.value().load_recipes(1).value();
  ASSERT_EQ(recipes.size(), 2U);
  EXPECT_EQ(recipes[0].created, "2026-01-02T03:04:05Z");
  EXPECT_EQ(recipes[0].recipe.entries.size(), 2U);
  EXPECT_EQ(recipes[1].target, "other");
}

TEST(Schema, AnOldFileIsReadAsAfterItsUpgradeAndNotTouched) {
  const TemporaryFolder folder;
  make_old_file(folder / "old");
  const auto before = test::read_file(folder / "old");
  {
    const auto store = StateStore::open_read_only(folder / "old");
    ASSERT_TRUE(store) << store.error().message;
    EXPECT_EQ(store.value().load_run(1).value().size(), 2U);
    EXPECT_EQ(store.value().load_sensitivity_sets().value().size(), 1U);
  }
  EXPECT_EQ(test::read_file(folder / "old"), before);
}

constexpr Sql kAddColumn =
    "ALTER TABLE tensor ADD COLUMN note TEXT NOT NULL DEFAULT '';"
    "UPDATE meta SET value = '2' WHERE key = 'writer_version';"
    "PRAGMA user_version = 2;";
// Fails after it has changed something.
constexpr Sql kBreaks =
    "ALTER TABLE tensor ADD COLUMN note TEXT NOT NULL DEFAULT '';"
    "PRAGMA user_version = 2;"
    "INSERT INTO no_such_table VALUES (1);";

TEST(Schema, MigratesAStoredFileAndKeepsItsContent) {
  const TemporaryFolder folder;
  make_old_file(folder / "old.qfstate");
  const std::vector<Migration> steps = {migrations()[0], {2, kAddColumn}};
  auto database = Database::open(folder / "old.qfstate", Access::ReadWrite).value();
  EXPECT_EQ(inspect(database, steps).value(), FileKind::Older);
  const auto migrated = migrate(database, steps);
  ASSERT_TRUE(migrated) << migrated.error().message;
  EXPECT_EQ(inspect(database, steps).value(), FileKind::Current);
  EXPECT_TRUE(verify(database, FileKind::Current, steps));
  EXPECT_TRUE(migrate(database, steps));  // nothing left to do
  auto count = Statement::prepare(database, "SELECT count(*) FROM tensor WHERE note = ''").value();
  ASSERT_TRUE(count.step().value());
  EXPECT_EQ(count.integer(0), 2);
}

TEST(Schema, AFailedMigrationLeavesTheOldVersion) {
  const TemporaryFolder folder;
  make_old_file(folder / "old.qfstate");
  const std::vector<Migration> steps = {migrations()[0], {2, kBreaks}};
  {
    auto database = Database::open(folder / "old.qfstate", Access::ReadWrite).value();
    EXPECT_FALSE(migrate(database, steps));
    EXPECT_EQ(inspect(database, steps).value(), FileKind::Older);
    EXPECT_TRUE(verify(database, FileKind::Older));
  }
  EXPECT_TRUE(StateStore::open(folder / "old.qfstate", model_case()));
}

TEST(Schema, ANewerFileIsUsedWhenItSaysSoAndRefusedOtherwise) {
  const TemporaryFolder folder;
  make_file(folder / "a.qfstate");
  run_sql(folder / "a.qfstate",
          "ALTER TABLE tensor ADD COLUMN note TEXT NOT NULL DEFAULT '';"
          "CREATE TABLE later (a); CREATE INDEX by_note ON tensor (note);"
          "UPDATE meta SET value = '99' WHERE key = 'writer_version'; PRAGMA user_version = 99;");
  {
    auto store = StateStore::open(folder / "a.qfstate", model_case());
    ASSERT_TRUE(store) << store.error().message;
    const RunId run = store.value().begin_run(parameters_case(), "1").value();
    EXPECT_TRUE(store.value().save_tensor(run, measurement_case("new", 1)));
    EXPECT_EQ(store.value().load_run(run).value().size(), 51U);
    EXPECT_TRUE(StateStore::open_read_only(folder / "a.qfstate"));
  }
  run_sql(folder / "a.qfstate", "UPDATE meta SET value = '99' WHERE key = 'lowest_compatible_version'");
  const Error error = open_error(folder / "a.qfstate");
  EXPECT_EQ(error.code, ErrorCode::Unsupported);
  EXPECT_THAT(error.message, HasSubstr("newer program"));
}

TEST(Schema, FilesOfOthersAreRefusedAndNotTouched) {
  const TemporaryFolder folder;
  const auto text = [&](const std::string& name, const std::string& content) {
    std::ofstream(folder / name, std::ios::binary) << content;
  };
  text("one_byte", "x");
  text("short", "GGUF and a few more bytes");
  text("long", std::string(100'000, 'q'));
  text("header_only", std::string("SQLite format 3\0", 16));
  run_sql(folder / "tables", "CREATE TABLE t (a)");
  run_sql(folder / "application", "PRAGMA application_id = 7; CREATE TABLE t (a)");
  run_sql(folder / "version", "PRAGMA user_version = 7");
  for (const char* name : {"one_byte", "short", "long", "header_only", "tables", "application", "version"}) {
    const auto before = test::read_file(folder / name);
    const Error error = open_error(folder / name);
    EXPECT_EQ(error.code, ErrorCode::Malformed) << name << ": " << error.message;
    EXPECT_EQ(test::read_file(folder / name), before) << name;
  }
  EXPECT_THAT(open_error(folder / "long").message, HasSubstr("not an SQLite file"));
  EXPECT_THAT(open_error(folder / "application").message, HasSubstr("another application"));
}

TEST(Schema, AnEmptyFileBecomesAStateFile) {
  const TemporaryFolder folder;
  std::ofstream(folder / "empty").close();
  EXPECT_EQ(StateStore::open_read_only(folder / "empty").error().code, ErrorCode::Malformed);
  EXPECT_EQ(std::filesystem::file_size(folder / "empty"), 0U);
  EXPECT_TRUE(StateStore::open(folder / "empty", model_case()));
  EXPECT_TRUE(StateStore::open_read_only(folder / "empty"));
}

TEST(Schema, ATruncatedFileIsRefusedAtEveryLength) {
  const TemporaryFolder folder;
  make_file(folder / "whole");
  const auto whole = test::read_file(folder / "whole");
  ASSERT_GT(whole.size(), 10 * 4096U);
  for (std::size_t length = 1; length < whole.size(); length += 1777) {
    test::write_file(folder / "cut", {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)});
    const Error error = open_error(folder / "cut");
    EXPECT_EQ(error.code, ErrorCode::Malformed) << length << " bytes: " << error.message;
  }
}

TEST(Schema, DamageNeverCrashes) {
  const TemporaryFolder folder;
  make_file(folder / "whole");
  const auto whole = test::read_file(folder / "whole");
  ASSERT_GT(whole.size(), 10 * 4096U);
  int refused = 0;
  for (std::size_t round = 0; round < 150; ++round) {
    auto broken = whole;
    // 16 bytes overwritten, somewhere: every page is met, page heads more often.
    const std::size_t page = (round * 7) % (whole.size() / 4096);
    const std::size_t start = page * 4096 + (round % 3 == 0 ? 0 : (round * 257) % 4080);
    for (std::size_t i = 0; i < 16; ++i) broken[start + i] = static_cast<std::byte>(round * 31 + i * 17);
    test::write_file(folder / "broken", broken);
    const auto store = StateStore::open(folder / "broken", model_case());
    if (!store) {
      ++refused;
      EXPECT_NE(store.error().code, ErrorCode::Internal) << store.error().message;
      continue;
    }
    // Values may have changed; what is read must still be values.
    if (const auto runs = store.value().runs())
      for (const RunSummary& run : runs.value()) static_cast<void>(store.value().load_run(run.id));
  }
  EXPECT_GT(refused, 40);  // the rest hit free space or the digits of a value
}

TEST(Schema, TablesThatDifferAreRefused) {
  const TemporaryFolder folder;
  const std::vector<std::string> changes = {
      "DROP TABLE sensitivity",
      "DROP VIEW best",
      "ALTER TABLE error RENAME COLUMN nmse TO n",
      "ALTER TABLE run ADD COLUMN more TEXT",
      "CREATE INDEX slow ON error (hex(zeroblob(1000000)) || format)",
      "CREATE UNIQUE INDEX some ON error (nmse) WHERE nmse > 7",
      "CREATE TRIGGER more AFTER INSERT ON error BEGIN DELETE FROM run; END",
      "DELETE FROM meta",
      "UPDATE meta SET value = 'x'",
      "PRAGMA user_version = 0",
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const auto path = folder / fmt::format("{}", i);
    make_old_file(path);
    // Views that name a dropped table would stop ALTER TABLE.
    run_sql(path, "PRAGMA legacy_alter_table = ON; " + changes[i]);
    const Error error = open_error(path);
    EXPECT_EQ(error.code, ErrorCode::Malformed) << changes[i] << ": " << error.message;
  }
}

constexpr const char* kEndless =
    "AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT CAST(i AS TEXT) AS key, '1' "
    "AS value, i AS run_id FROM n";
constexpr const char* kClaimsToBeNewer =
    "UPDATE meta SET value = '99' WHERE key = 'writer_version'; PRAGMA user_version = 99; ";

// What a hostile file may claim: to be of a newer version that this program can use.
TEST(Schema, ANewerFileMustStillHoldTablesAndNothingThatComputes) {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, std::string>> changes = {
      {std::string("DROP TABLE meta; CREATE VIEW meta ") + kEndless, "meta"},
      {std::string("DROP TABLE run; CREATE VIEW run ") + kEndless, "'run' is not a table"},
      {"ALTER TABLE error RENAME COLUMN nmse TO n", "column 'nmse'"},
      {"ALTER TABLE error ADD COLUMN x TEXT AS (hex(zeroblob(100000000)))", "computed"},
      {"CREATE INDEX slow ON error (hex(zeroblob(1000)) || format)", "computed"},
      {"CREATE INDEX some ON error (nmse) WHERE length(hex(zeroblob(1000))) > 7", "computed"},
      {"DROP INDEX recipe_by_content; CREATE UNIQUE INDEX recipe_by_content ON recipe (run_id) WHERE bytes > "
       "1",
       "computed"},
  };
  make_file(folder / "whole");
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const auto path = folder / fmt::format("{}", i);
    std::filesystem::copy_file(folder / "whole", path);
    run_sql(path, std::string("PRAGMA legacy_alter_table = ON; ") + kClaimsToBeNewer + changes[i].first);
    const Error error = open_error(path);
    EXPECT_EQ(error.code, ErrorCode::Malformed) << changes[i].first << ": " << error.message;
    EXPECT_THAT(error.message, HasSubstr(changes[i].second));
  }
}

// A user's table may cost what it likes: it is not looked into.
TEST(Schema, TablesOfOthersAreNotChecked) {
  const TemporaryFolder folder;
  make_file(folder / "a");
  run_sql(folder / "a",
          "CREATE TABLE mine (a CHECK (length(a) > 0)); PRAGMA ignore_check_constraints = ON;"
          "INSERT INTO mine VALUES ('')");
  const auto store = StateStore::open(folder / "a", model_case());
  EXPECT_TRUE(store) << store.error().message;
}

TEST(Schema, AnEndlessValueIsDamageAndNotAnAllocation) {
  const TemporaryFolder folder;
  make_file(folder / "a");
  run_sql(folder / "a", "UPDATE tensor SET name = hex(zeroblob(30000000)) WHERE tensor_id = 1");
  const auto store = StateStore::open_read_only(folder / "a");
  const auto runs = store ? store.value().load_run(1) : store.error();
  ASSERT_FALSE(runs);
  EXPECT_EQ(runs.error().code, ErrorCode::Malformed) << runs.error().message;
  EXPECT_LT(runs.error().message.size(), 1000U);
}

TEST(Schema, TheUsersOwnTablesAndViewsAreWelcome) {
  const TemporaryFolder folder;
  make_old_file(folder / "a");
  run_sql(folder / "a", "CREATE TABLE notes (a); CREATE VIEW mine AS SELECT * FROM best");
  EXPECT_TRUE(StateStore::open(folder / "a", model_case()));
}

TEST(Schema, EditedValuesAreReported) {
  const TemporaryFolder folder;
  const std::vector<std::pair<std::string, ErrorCode>> changes = {
      {"UPDATE error SET format = 'Q9_X' WHERE format = 'Q4_K'", ErrorCode::Unsupported},
      {"UPDATE tensor SET source_format = 'f16'", ErrorCode::Unsupported},
      {"UPDATE error SET nmse = 9e999", ErrorCode::Malformed},
      {"UPDATE error SET nmse = -1.0", ErrorCode::Malformed},
      {"UPDATE error SET standard_error = -1.0", ErrorCode::Malformed},
      {"UPDATE tensor SET name = CAST(x'c328' AS TEXT) WHERE tensor_id = 1", ErrorCode::Malformed},
      {"UPDATE tensor SET name = hex(zeroblob(40000)) WHERE tensor_id = 1", ErrorCode::Malformed},
      {"UPDATE tensor SET layer = 4294967296", ErrorCode::Malformed},
      {"UPDATE tensor SET ne1 = 4611686018427387904, ne2 = 4611686018427387904", ErrorCode::Malformed},
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    const auto path = folder / fmt::format("{}", i);
    make_old_file(path);
    run_sql(path, changes[i].first);
    const auto store = StateStore::open_read_only(path);
    ASSERT_TRUE(store) << store.error().message;
    const auto loaded = store.value().load_run(1);
    ASSERT_FALSE(loaded) << changes[i].first;
    EXPECT_EQ(loaded.error().code, changes[i].second) << changes[i].first << ": " << loaded.error().message;
  }
}

TEST(Schema, ViewsJoinWhatBelongsTogether) {
  const TemporaryFolder folder;
  make_old_file(folder / "a");
  auto store = StateStore::open(folder / "a", model_case()).value();
  RunParameters better = parameters_case();
  better.effort = "max";
  const RunId run = store.begin_run(better, "1").value();
  TensorMeasurement measurement = measurement_case("blk.0.ffn_up.weight", 1);
  measurement.errors = {{Format::Q4_K, 0.05, 0, 0, 1}, {Format::Q8_0, 0.9, 0, 0, 1}};
  ASSERT_TRUE(store.save_tensor(run, measurement));
  auto database = Database::open(folder / "a", Access::ReadOnly).value();
  auto best = Statement::prepare(database,
                                 "SELECT format, nmse, effort, importance FROM best "
                                 "WHERE tensor = 'blk.0.ffn_up.weight' ORDER BY format")
                  .value();
  ASSERT_TRUE(best.step().value());
  EXPECT_EQ(best.text(0), "Q4_K");
  EXPECT_EQ(best.real(1), 0.05);
  EXPECT_EQ(best.text(2), "max");
  EXPECT_EQ(best.text(3), "imatrix.gguf");
  ASSERT_TRUE(best.step().value());
  EXPECT_EQ(best.text(0), "Q8_0");
  EXPECT_EQ(best.text(2), "default");
  EXPECT_FALSE(best.step().value());
  auto progress =
      Statement::prepare(database, "SELECT tensors, errors FROM progress ORDER BY run_id").value();
  ASSERT_TRUE(progress.step().value());
  EXPECT_EQ(progress.integer(0), 2);
  EXPECT_EQ(progress.integer(1), 4);
}

}  // namespace
}  // namespace quantfit::state

#include "state/state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;
using testing::HasSubstr;

struct OpenRun {
  StateStore store;
  RunId run;
};

OpenRun open_run(const std::filesystem::path& path) {
  auto store = StateStore::open(path, model_case());
  EXPECT_TRUE(store) << store.error().message;
  auto run = store.value().begin_run(parameters_case(), "1");
  EXPECT_TRUE(run) << run.error().message;
  return {std::move(store).value(), run.value()};
}

TEST(StateStore, KeepsEverythingAcrossOpening) {
  const TemporaryFolder folder;
  const ImportanceIdentity importance{"bb22", "imatrix.gguf", "wiki,code", 125, true};
  const SavedRecipe recipe = recipe_case("4.5 bpw");
  RunId run = 0;
  {
    auto store = StateStore::open(folder / "a.qfstate", model_case());
    ASSERT_TRUE(store) << store.error().message;
    ASSERT_TRUE(store.value().remember_importance(importance));
    auto begun = store.value().begin_run(parameters_case(), "1.2.3");
    ASSERT_TRUE(begun) << begun.error().message;
    run = begun.value();
    const auto saved = store.value().save_tensor(run, measurement_case("blk.0.ffn_up.weight", 1));
    ASSERT_TRUE(saved) << saved.error().message;
    ASSERT_TRUE(store.value().save_tensor(run, measurement_case("blk.0.attn_q.weight", 2)));
    ASSERT_TRUE(store.value().save_sensitivity_set(sensitivity_case()));
    ASSERT_TRUE(store.value().save_recipe(run, recipe));
    ASSERT_TRUE(store.value().finish_run(run));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "a.qfstate-wal"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.qfstate-shm"));

  auto store = StateStore::open(folder / "a.qfstate", model_case());
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(store.value().model().value().name, model_case().name);
  EXPECT_EQ(store.value().model().value().elements, model_case().elements);
  const auto importances = store.value().importances().value();
  ASSERT_EQ(importances.size(), 1U);
  EXPECT_EQ(importances[0].name, "imatrix.gguf");
  EXPECT_EQ(importances[0].datasets, "wiki,code");
  EXPECT_EQ(importances[0].chunk_count, 125U);
  EXPECT_TRUE(importances[0].has_activations);

  const auto runs = store.value().runs().value();
  ASSERT_EQ(runs.size(), 1U);
  EXPECT_EQ(runs[0].id, run);
  EXPECT_EQ(runs[0].parameters, parameters_case());
  EXPECT_EQ(runs[0].program_version, "1.2.3");
  EXPECT_THAT(runs[0].started, testing::MatchesRegex("2...-..-..T..:..:..Z"));
  EXPECT_THAT(runs[0].finished, testing::MatchesRegex("2...-..-..T..:..:..Z"));
  EXPECT_EQ(runs[0].tensors, 2U);

  const auto loaded = store.value().load_run(run).value();
  ASSERT_EQ(loaded.size(), 2U);
  EXPECT_EQ(loaded.begin()->first, "blk.0.attn_q.weight");
  // Errors come back in ascending format id, whatever their order was.
  TensorMeasurement expected = measurement_case("blk.0.ffn_up.weight", 1);
  ASSERT_LT(expected.errors[0].format, expected.errors[1].format);
  expect_same(loaded.at("blk.0.ffn_up.weight"), expected);
  expect_same(loaded.at("blk.0.attn_q.weight"), measurement_case("blk.0.attn_q.weight", 2));
  EXPECT_EQ(loaded.at("blk.0.attn_q.weight").shape.bytes, 256U * 64 * 2);

  const auto sets = store.value().load_sensitivity_sets().value();
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_EQ(sets[0].scope, sensitivity_case().scope);
  EXPECT_EQ(sets[0].rows, sensitivity_case().rows);
  EXPECT_FALSE(sets[0].partial);
  expect_same_bits(sets[0].find("a")->value, 1e-300);
  EXPECT_EQ(sets[0].find("b"), nullptr);

  const auto recipes = store.value().load_recipes(run).value();
  ASSERT_EQ(recipes.size(), 1U);
  EXPECT_EQ(recipes[0].target, recipe.target);
  EXPECT_EQ(recipes[0].budget_bytes, recipe.budget_bytes);
  EXPECT_EQ(recipes[0].bytes, recipe.bytes);
  expect_same_bits(recipes[0].objective, recipe.objective);
  expect_same_bits(recipes[0].lower_bound, recipe.lower_bound);
  EXPECT_EQ(recipes[0].created, recipe.created);
  EXPECT_EQ(recipes[0].recipe.entries, recipe.recipe.entries);
  EXPECT_EQ(recipes[0].recipe.provenance, recipe.recipe.provenance);
}

TEST(StateStore, DoublesComeBackBitForBit) {
  const TemporaryFolder folder;
  using Limits = std::numeric_limits<double>;
  const std::vector<double> values = {0.0,
                                      1.0,
                                      3.0,
                                      0.1,
                                      1.0 / 3,
                                      1e15,
                                      9007199254740993.0,
                                      Limits::max(),
                                      Limits::min(),
                                      Limits::denorm_min(),
                                      Limits::epsilon(),
                                      std::nextafter(1.0, 2.0),
                                      4611686018427387904.0,
                                      9223372036854775808.0};
  auto [store, run] = open_run(folder / "a.qfstate");
  for (std::size_t i = 0; i < values.size(); ++i) {
    TensorMeasurement measurement = measurement_case(fmt::format("t{}", i), 1);
    measurement.errors = {{Format::Q4_K, values[i], values[i], values[i], values[i]}};
    const auto saved = store.save_tensor(run, measurement);
    ASSERT_TRUE(saved) << saved.error().message;
  }
  const auto loaded = store.load_run(run).value();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const FormatMeasurement& error = loaded.at(fmt::format("t{}", i)).errors.at(0);
    expect_same_bits(error.nmse, values[i]);
    expect_same_bits(error.standard_error, values[i]);
    expect_same_bits(error.bias_share, values[i]);
    expect_same_bits(error.seconds, values[i]);
  }
}

TEST(StateStore, NegativeZeroComesBackAsZero) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  TensorMeasurement measurement = measurement_case("t", 1);
  measurement.errors = {{Format::Q4_K, -0.0, -0.0, -0.0, -0.0}};
  ASSERT_TRUE(store.save_tensor(run, measurement));
  expect_same_bits(store.load_run(run).value().at("t").errors.at(0).nmse, 0.0);
}

TEST(StateStore, RefusesNumbersThatAreNoMeasurement) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity(), -1e-9}) {
    for (double FormatMeasurement::*member : {&FormatMeasurement::nmse, &FormatMeasurement::standard_error,
                                              &FormatMeasurement::bias_share, &FormatMeasurement::seconds}) {
      TensorMeasurement measurement = measurement_case("t", 1);
      measurement.errors[1].*member = bad;
      const auto saved = store.save_tensor(run, measurement);
      ASSERT_FALSE(saved);
      EXPECT_EQ(saved.error().code, ErrorCode::InvalidArgument);
      EXPECT_THAT(saved.error().message, HasSubstr("'t'"));
    }
    SensitivitySet set = sensitivity_case();
    set.rows[1].value = bad;
    const auto sensitivities = store.save_sensitivity_set(set);
    ASSERT_FALSE(sensitivities);
    EXPECT_EQ(sensitivities.error().code, ErrorCode::InvalidArgument);
    if (std::isfinite(bad)) continue;  // a bound may lie below zero
    SavedRecipe recipe = recipe_case("4");
    recipe.lower_bound = bad;
    EXPECT_EQ(store.save_recipe(run, recipe).error().code, ErrorCode::InvalidArgument);
  }
  EXPECT_TRUE(store.load_run(run).value().empty());
  EXPECT_TRUE(store.load_sensitivity_sets().value().empty());
  EXPECT_TRUE(store.load_recipes(run).value().empty());
}

TEST(StateStore, RefusesWhatHasNoMeaning) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  EXPECT_EQ(store.save_tensor(run + 1, measurement_case("t", 1)).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.load_run(run + 1).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.load_recipes(run + 1).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.finish_run(run + 1).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.save_recipe(run + 1, recipe_case("4")).error().code, ErrorCode::InvalidArgument);

  TensorMeasurement twice = measurement_case("t", 1);
  twice.errors[1].format = twice.errors[0].format;
  EXPECT_EQ(store.save_tensor(run, twice).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.save_tensor(run, measurement_case("\xC3\x28", 1)).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.save_tensor(run, measurement_case(std::string("a\0b", 3), 1)).error().code,
            ErrorCode::InvalidArgument);
  TensorMeasurement many_rows = measurement_case("t", 1);
  many_rows.rows_sampled = std::uint64_t{1} << 63;
  EXPECT_EQ(store.save_tensor(run, many_rows).error().code, ErrorCode::InvalidArgument);
  TensorMeasurement overflow = measurement_case("t", 1);
  overflow.shape.ne = {256, std::uint64_t{1} << 40, std::uint64_t{1} << 40, 1};
  EXPECT_EQ(store.save_tensor(run, overflow).error().code, ErrorCode::ShapeMismatch);
  EXPECT_TRUE(store.load_run(run).value().empty());

  RunParameters unit = parameters_case();
  unit.unit = "furlongs";
  EXPECT_EQ(store.begin_run(unit, "1").error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(StateStore::open(folder / "b.qfstate", model_case("")).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(StateStore::open("", model_case()).error().code, ErrorCode::InvalidArgument);
}

TEST(StateStore, SavingATensorAgainMergesByFormat) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  ASSERT_TRUE(store.save_tensor(run, measurement_case("t", 1)));
  TensorMeasurement second = measurement_case("t", 2);
  second.rows_sampled = 48;
  second.role = "ffn_down";
  second.errors = {{Format::Q4_K, 0.5, 0.25, 0.125, 2}, {Format::Q2_K, 0.75, 0.5, 0.25, 3}};
  ASSERT_TRUE(store.save_tensor(run, second));
  TensorMeasurement expected = second;
  expected.errors = {measurement_case("t", 1).errors[0], second.errors[1], second.errors[0]};
  const auto loaded = store.load_run(run).value();
  ASSERT_EQ(loaded.size(), 1U);
  expect_same(loaded.at("t"), expected);  // Q8_0 of the first, Q2_K and Q4_K of the second, by id

  TensorMeasurement reshaped = measurement_case("t", 1);
  reshaped.shape.ne[1] = 65;
  const auto refused = store.save_tensor(run, reshaped);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::ShapeMismatch);
  expect_same(store.load_run(run).value().at("t"), expected);
}

TEST(StateStore, RunsWithEqualParametersAreOneAndOthersNever) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  EXPECT_EQ(store.begin_run(parameters_case(), "2").value(), run);
  EXPECT_EQ(store.runs().value().at(0).program_version, "1");
  std::vector<RunParameters> others(6, parameters_case());
  others[0].importance_fingerprint = "";
  others[1].effort = "max";
  others[2].encoder_version = 4;
  others[3].sampling += "0";
  others[4].metric = "";
  others[5].unit = "nats";
  // The same characters, cut differently.
  RunParameters cut = parameters_case();
  cut.sampling = "x metric=1:y";
  cut.metric = "z";
  others.push_back(cut);
  cut.sampling = "x";
  cut.metric = "y metric=1:z";
  others.push_back(cut);
  std::vector<RunId> ids = {run};
  for (const RunParameters& other : others) {
    const auto id = store.begin_run(other, "1");
    ASSERT_TRUE(id) << id.error().message;
    EXPECT_THAT(ids, testing::Not(testing::Contains(id.value())));
    ids.push_back(id.value());
  }
  const auto runs = store.runs().value();
  ASSERT_EQ(runs.size(), ids.size());
  for (std::size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(runs[i + 1].id, ids[i + 1]);
    EXPECT_EQ(runs[i + 1].parameters, others[i]);
    EXPECT_EQ(runs[i + 1].finished, "");
  }
  ASSERT_TRUE(store.save_tensor(ids[1], measurement_case("t", 1)));
  EXPECT_TRUE(store.load_run(run).value().empty());
}

TEST(StateStore, AnImportanceMatrixMayBeNamedBeforeOrAfterItsRun) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  ASSERT_EQ(store.importances().value().size(), 1U);
  EXPECT_EQ(store.importances().value()[0].name, "");
  ASSERT_TRUE(store.remember_importance({"bb22", "caf\xE9.gguf", "a", std::nullopt, false}));
  ASSERT_TRUE(store.remember_importance({}));
  const auto importances = store.importances().value();
  ASSERT_EQ(importances.size(), 1U);
  EXPECT_EQ(importances[0].name, "caf\xEF\xBF\xBD.gguf");  // Latin-1 in a file name
  EXPECT_EQ(importances[0].chunk_count, std::nullopt);
  EXPECT_EQ(store.begin_run(parameters_case(), "1").value(), run);
}

TEST(StateStore, OpensTwiceInOneProcess) {
  const TemporaryFolder folder;
  auto [first, run] = open_run(folder / "a.qfstate");
  auto [second, same_run] = open_run(folder / "a.qfstate");
  EXPECT_EQ(run, same_run);
  ASSERT_TRUE(first.save_tensor(run, measurement_case("a", 1)));
  ASSERT_TRUE(second.save_tensor(run, measurement_case("b", 2)));
  EXPECT_EQ(first.load_run(run).value().size(), 2U);
  EXPECT_EQ(second.load_run(run).value().size(), 2U);
}

TEST(StateStore, RefusesAnotherModelAndChangesNothing) {
  const TemporaryFolder folder;
  { auto [store, run] = open_run(folder / "a.qfstate"); }
  const auto before = test::read_file(folder / "a.qfstate");
  const auto other = StateStore::open(folder / "a.qfstate", model_case("cc33"));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::IdentityMismatch);
  EXPECT_THAT(other.error().message, HasSubstr("model-aa11-F16.gguf"));
  EXPECT_THAT(other.error().message, HasSubstr("model-cc33-F16.gguf"));
  EXPECT_THAT(other.error().message, HasSubstr("name another state file"));
  EXPECT_EQ(test::read_file(folder / "a.qfstate"), before);
  // A renamed model is the same model.
  EXPECT_TRUE(StateStore::open(folder / "a.qfstate", {"aa11", "renamed.gguf", 1}));
}

TEST(StateStore, ReadOnlyReadsAndRefusesToWrite) {
  const TemporaryFolder folder;
  { auto [store, run] = open_run(folder / "a.qfstate"); }
  const auto before = test::read_file(folder / "a.qfstate");
  {
    auto store = StateStore::open_read_only(folder / "a.qfstate");
    ASSERT_TRUE(store) << store.error().message;
    EXPECT_EQ(store.value().model().value().fingerprint, "aa11");
    EXPECT_EQ(store.value().runs().value().size(), 1U);
    const RunId run = store.value().runs().value()[0].id;
    EXPECT_EQ(store.value().save_tensor(run, measurement_case("t", 1)).error().code,
              ErrorCode::InvalidArgument);
    EXPECT_EQ(store.value().begin_run(parameters_case(), "1").error().code, ErrorCode::InvalidArgument);
    EXPECT_EQ(store.value().finish_run(run).error().code, ErrorCode::InvalidArgument);
    EXPECT_EQ(store.value().remember_importance({"x", "", "", {}, false}).error().code,
              ErrorCode::InvalidArgument);
    EXPECT_EQ(store.value().save_sensitivity_set(sensitivity_case()).error().code,
              ErrorCode::InvalidArgument);
    EXPECT_EQ(store.value().save_recipe(run, recipe_case("4")).error().code, ErrorCode::InvalidArgument);
    EXPECT_EQ(store.value().merge(folder / "a.qfstate").error().code, ErrorCode::InvalidArgument);
  }
  EXPECT_EQ(test::read_file(folder / "a.qfstate"), before);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.qfstate-wal"));
  EXPECT_EQ(StateStore::open_read_only(folder / "none.qfstate").error().code, ErrorCode::Io);
  EXPECT_FALSE(std::filesystem::exists(folder / "none.qfstate"));
}

TEST(StateStore, ReadOnlySeesWhatAnOpenWriterSaved) {
  const TemporaryFolder folder;
  auto [writer, run] = open_run(folder / "a.qfstate");
  ASSERT_TRUE(writer.save_tensor(run, measurement_case("t", 1)));
  auto reader = StateStore::open_read_only(folder / "a.qfstate");
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_EQ(reader.value().load_run(run).value().size(), 1U);
  ASSERT_TRUE(writer.save_tensor(run, measurement_case("u", 1)));
  EXPECT_EQ(reader.value().load_run(run).value().size(), 2U);
}

// Runs `body` in a child as a user without privileges and returns what it returned, so that permissions count
// even where the tests run as root.
int as_plain_user(int (*body)(const std::filesystem::path&), const std::filesystem::path& folder) {
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(99);
    _exit(body(folder));
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

TEST(StateStore, SaysWhyAFolderCannotBeUsed) {
  const TemporaryFolder folder;
  const auto is_folder = StateStore::open(folder.path(), model_case());
  ASSERT_FALSE(is_folder);
  EXPECT_EQ(is_folder.error().code, ErrorCode::Io);
  EXPECT_THAT(is_folder.error().message, HasSubstr("is a folder"));
  const auto missing = StateStore::open(folder / "no/such/a.qfstate", model_case());
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::Io);
  EXPECT_THAT(missing.error().message, HasSubstr("No such file or directory"));
  EXPECT_EQ(StateStore::open("/dev/null", model_case()).error().code, ErrorCode::Io);

  { auto [store, run] = open_run(folder / "a.qfstate"); }
  using std::filesystem::perms;
  std::filesystem::permissions(folder / "a.qfstate",
                               perms::owner_read | perms::group_read | perms::others_read);
  std::filesystem::permissions(folder.path(), perms::owner_read | perms::owner_exec | perms::group_read |
                                                  perms::group_exec | perms::others_read |
                                                  perms::others_exec);
  const int answer = as_plain_user(
      [](const std::filesystem::path& path) {
        const auto fresh = StateStore::open(path / "b.qfstate", model_case());
        if (fresh || fresh.error().code != ErrorCode::Io) return 1;
        if (fresh.error().message.find("Permission denied") == std::string::npos) return 2;
        const auto existing = StateStore::open(path / "a.qfstate", model_case());
        if (existing || existing.error().code != ErrorCode::Io) return 3;
        if (existing.error().message.find("write-protected") == std::string::npos) return 4;
        const auto reader = StateStore::open_read_only(path / "a.qfstate");
        if (!reader) return 5;
        return reader.value().runs() && reader.value().runs().value().size() == 1 ? 0 : 6;
      },
      folder.path());
  std::filesystem::permissions(folder.path(), perms::owner_all);
  EXPECT_EQ(answer, 0);
}

TEST(StateStore, ASensitivitySetIsReplacedWholeAndNeverMixed) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  ASSERT_TRUE(store.save_sensitivity_set(sensitivity_case()));
  SensitivitySet other_text = sensitivity_case();
  other_text.scope.text_fingerprint = "ee55";
  other_text.scope.unit = SensitivityUnit::Relative;
  other_text.partial = true;
  ASSERT_TRUE(store.save_sensitivity_set(other_text));
  SensitivitySet again = sensitivity_case();
  again.rows = {{"b", 2, 0.5, "again", "layer 0"}};
  ASSERT_TRUE(store.save_sensitivity_set(again));
  const auto sets = store.load_sensitivity_sets().value();
  ASSERT_EQ(sets.size(), 2U);
  const SensitivitySet& replaced = sets[0].scope == again.scope ? sets[0] : sets[1];
  const SensitivitySet& kept = sets[0].scope == again.scope ? sets[1] : sets[0];
  EXPECT_EQ(replaced.rows, again.rows);
  EXPECT_EQ(kept.scope, other_text.scope);
  EXPECT_EQ(kept.rows, other_text.rows);
  EXPECT_TRUE(kept.partial);
}

TEST(StateStore, ASensitivitySetIsSavedWholeOrNotAtAll) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  ASSERT_TRUE(store.save_sensitivity_set(sensitivity_case()));
  SensitivitySet bad = sensitivity_case();
  bad.rows = {{"a", 1, 0, "x", ""}, {"a", 2, 0, "x", ""}};
  EXPECT_EQ(store.save_sensitivity_set(bad).error().code, ErrorCode::InvalidArgument);
  bad.rows = {{"b", 1, 0, "x", ""}, {"a", 2, 0, "x", ""}};
  EXPECT_EQ(store.save_sensitivity_set(bad).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(store.load_sensitivity_sets().value().at(0).rows, sensitivity_case().rows);
}

TEST(StateStore, AnEqualRecipeIsKeptOnce) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  SavedRecipe recipe = recipe_case("4.5 bpw");
  recipe.created = "2026-01-02T03:04:05Z";
  ASSERT_TRUE(store.save_recipe(run, recipe));
  recipe.created = "";  // now, which is later
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(store.save_recipe(run, recipe));
  ASSERT_EQ(store.load_recipes(run).value().size(), 1U);
  EXPECT_EQ(store.load_recipes(run).value()[0].created, "2026-01-02T03:04:05Z");
  SavedRecipe other = recipe_case("4.5 bpw");
  other.recipe.entries[0].format = Format::Q5_K;
  ASSERT_TRUE(store.save_recipe(run, other));
  EXPECT_EQ(store.load_recipes(run).value().size(), 2U);
}

TEST(StateStore, KeepsWhatCameFromRunningTheModel) {
  const TemporaryFolder folder;
  {
    auto [store, run] = open_run(folder / "a.qfstate");
    Calibration calibration = calibration_case();
    ASSERT_TRUE(store.save_calibration(calibration));
    calibration.layers_finished = 7;
    calibration.finished = "2026-01-02T03:04:06Z";
    ASSERT_TRUE(store.save_calibration(calibration));
    ASSERT_TRUE(store.save_statistics_file(statistics_case("f1")));
    ASSERT_TRUE(store.save_evaluation(evaluation_case()));
    ASSERT_TRUE(store.save_written_file(written_case("out.gguf")));
    StatisticsFile elsewhere = statistics_case("f2");
    elsewhere.name = "../other.gguf";
    EXPECT_EQ(store.save_statistics_file(elsewhere).error().code, ErrorCode::InvalidArgument);
  }
  auto store = StateStore::open_read_only(folder / "a.qfstate").value();
  const auto calibrations = store.calibrations().value();
  ASSERT_EQ(calibrations.size(), 1U);
  EXPECT_EQ(calibrations[0].parameters, calibration_case().parameters);
  EXPECT_EQ(calibrations[0].layers_finished, 7U);
  EXPECT_EQ(calibrations[0].finished, "2026-01-02T03:04:06Z");
  const auto files = store.statistics_files().value();
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(files[0].kind, "moments");
  EXPECT_EQ(files[0].bytes, 12345U);
  const auto evaluations = store.evaluations().value();
  ASSERT_EQ(evaluations.size(), 1U);
  EXPECT_EQ(evaluations[0].identity, evaluation_case().identity);
  EXPECT_EQ(evaluations[0].estimates, evaluation_case().estimates);
  const auto written = store.written_files().value();
  ASSERT_EQ(written.size(), 1U);
  EXPECT_EQ(written[0].encoder_version, 3U);
}

TEST(StateStore, AFileMadeAnewUnderItsNameTakesThePlaceOfTheOldOne) {
  const TemporaryFolder folder;
  auto [store, run] = open_run(folder / "a.qfstate");
  StatisticsFile file = statistics_case("old");
  ASSERT_TRUE(store.save_statistics_file(statistics_case("other")));
  ASSERT_TRUE(store.save_statistics_file(file));
  file.fingerprint = "new";
  ASSERT_TRUE(store.save_statistics_file(file));
  const auto files = store.statistics_files().value();
  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files[0].fingerprint, "new");
  EXPECT_EQ(files[1].fingerprint, "other");
}

TEST(StateStore, KnowsItsFilesAndWhetherEveryWeightWasRead) {
  const TemporaryFolder folder;
  auto store = StateStore::open(folder / "a", model_case()).value();
  EXPECT_TRUE(store.sources().value().empty());
  ASSERT_TRUE(store.remember_source(files_case()));
  EXPECT_EQ(store.sources().value(), (std::vector<Source>{{files_case(), false}}));
  EXPECT_EQ(store.model().value().digest, "");
  ASSERT_TRUE(store.remember_source(files_case(), "d1"));
  ASSERT_TRUE(store.remember_source(files_case()));  // what was proved stays proved
  EXPECT_EQ(store.sources().value(), (std::vector<Source>{{files_case(), true}}));
  EXPECT_EQ(store.model().value().digest, "d1");
  // Renamed: the same files. Written to: others.
  std::vector<FileStamp> renamed = files_case();
  renamed[0].name = "other.gguf";
  ASSERT_TRUE(store.remember_source(renamed));
  EXPECT_EQ(store.sources().value().size(), 1U);
  for (int part = 0; part < 3; ++part) {
    std::vector<FileStamp> changed = files_case();
    changed[1].bytes += part == 0 ? 1 : 0;
    changed[1].modified += part == 1 ? 1 : 0;
    changed[1].inode -= part == 2 ? 1 : 0;
    ASSERT_TRUE(store.remember_source(changed));
    EXPECT_EQ(store.sources().value().size(), std::size_t(part) + 2);
  }
  // Other weights: nothing of it is noted.
  std::vector<FileStamp> other = files_case();
  other.pop_back();
  EXPECT_EQ(store.remember_source(other, "d2").error().code, ErrorCode::IdentityMismatch);
  EXPECT_EQ(store.sources().value().size(), 4U);
  EXPECT_EQ(store.model().value().digest, "d1");
}

TEST(StateStore, OpenExistingNeverMakesAFile) {
  const TemporaryFolder folder;
  EXPECT_EQ(StateStore::open_existing(folder / "none").error().code, ErrorCode::Io);
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
  { auto [store, run] = open_run(folder / "a.qfstate"); }
  auto store = StateStore::open_existing(folder / "a.qfstate");
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_TRUE(store.value().begin_run(parameters_case(), "2"));
}

}  // namespace
}  // namespace quantfit::state

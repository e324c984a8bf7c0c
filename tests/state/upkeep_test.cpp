#include "state/upkeep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "state/export.h"
#include "state/state_store.h"
#include "state/statistics_files.h"
#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kTensors = 60;

// Two runs of which the second, of a newer encoder, measured the same tensors; an empty run; a partial set.
void make_file(const std::filesystem::path& path) {
  auto store = StateStore::open(path, model_case()).value();
  ASSERT_TRUE(store.remember_importance({"bb22", "imatrix.gguf", "wiki", 10, true}));
  ASSERT_TRUE(store.remember_importance({"unused", "unused.gguf", "", {}, false}));
  RunParameters newer = parameters_case();
  newer.encoder_version = 4;
  RunParameters empty = parameters_case();
  empty.effort = "max";
  ASSERT_TRUE(store.begin_run(empty, "1"));
  for (const RunParameters& parameters : {parameters_case(), newer}) {
    const RunId run = store.begin_run(parameters, "1").value();
    // Enough for whole pages of the file to become free.
    for (int i = 0; i < kTensors; ++i)
      ASSERT_TRUE(store.save_tensor(run, measurement_case(fmt::format("t{}", i), 1)));
    for (int i = 0; i < 3; ++i) {
      SavedRecipe recipe = recipe_case(fmt::format("{} bpw", i));
      recipe.created = fmt::format("2026-01-0{}T00:00:00Z", i + 1);
      ASSERT_TRUE(store.save_recipe(run, recipe));
    }
  }
  ASSERT_TRUE(store.save_sensitivity_set(sensitivity_case()));
  SensitivitySet partial = sensitivity_case();
  partial.scope.method = "loose";
  partial.partial = true;
  ASSERT_TRUE(store.save_sensitivity_set(partial));
  ASSERT_TRUE(store.save_statistics_file(statistics_case("gone")));
}

TEST(Prune, RemovesWhatNothingWillReadAgain) {
  const TemporaryFolder folder;
  make_file(folder / "a");
  PruneRequest request;
  request.keep_recipes = 2;
  request.dry_run = true;
  const auto before = test::read_file(folder / "a");
  const auto would = prune_file(folder / "a", request).value();
  EXPECT_EQ(test::read_file(folder / "a"), before);
  request.dry_run = false;
  const auto done = prune_file(folder / "a", request);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(done.value().removed, would.removed);
  EXPECT_THAT(done.value().removed,
              testing::UnorderedElementsAre(HasSubstr("nothing was measured"), HasSubstr("newer encoder"),
                                            HasSubstr("'0 bpw'"), HasSubstr("partial"),
                                            HasSubstr("'unused.gguf'"), HasSubstr("not there any more")));
  EXPECT_LT(done.value().bytes_after, done.value().bytes_before);
  {
    auto store = StateStore::open_read_only(folder / "a").value();
    const auto runs = store.runs().value();
    ASSERT_EQ(runs.size(), 1U);
    EXPECT_EQ(runs[0].parameters.encoder_version, 4U);
    EXPECT_EQ(store.load_run(runs[0].id).value().size(), std::size_t{kTensors});
    const auto recipes = store.load_recipes(runs[0].id).value();
    ASSERT_EQ(recipes.size(), 2U);
    EXPECT_EQ(recipes[0].target, "1 bpw");
    EXPECT_EQ(store.load_sensitivity_sets().value().size(), 1U);
    EXPECT_EQ(store.importances().value().size(), 1U);
  }
  EXPECT_TRUE(prune_file(folder / "a", request).value().removed.empty());
  EXPECT_EQ(prune_file(folder / "none", request).error().code, ErrorCode::Io);
  EXPECT_FALSE(std::filesystem::exists(folder / "none"));
}

TEST(Prune, FilesBesideGoWithWhatTheyServed) {
  const TemporaryFolder folder;
  const auto path = folder / "m.qfstate";
  const std::string used(16, '1'), unused(16, '2'), cut_short(16, '3');
  const auto put = [&](const std::string& name) {
    test::write_file(folder / name, std::vector<std::byte>(9));
  };
  const auto entry = [&](const std::string& text, const std::string& kind, const std::string& suffix,
                         const std::string& created) {
    StatisticsFile file{
        text + kind + created, statistics_name(path, text, suffix), kind, 9, text + "-3", created};
    put(file.name);
    return file;
  };
  {
    auto store = StateStore::open(path, model_case()).value();
    ASSERT_TRUE(
        store.remember_importance({"bb22", statistics_name(path, used, "imatrix.gguf"), "", 1, true}));
    ASSERT_TRUE(
        store.remember_importance({"cc33", statistics_name(path, unused, "imatrix.gguf"), "", 1, true}));
    RunParameters parameters = parameters_case();
    parameters.metric = "kappa=5 covariances=model=aa11,text=" + used + ",engine=3";
    const RunId run = store.begin_run(parameters, "1").value();
    ASSERT_TRUE(store.save_tensor(run, measurement_case("t", 1)));
    SensitivitySet set = sensitivity_case();
    set.scope.text_fingerprint = used;
    ASSERT_TRUE(store.save_sensitivity_set(set));
    for (const std::string& text : {used, unused}) {
      ASSERT_TRUE(store.save_statistics_file(entry(text, "importance", "imatrix.gguf", "2")));
      ASSERT_TRUE(store.save_statistics_file(entry(text, "moments", "moments.gguf", "2")));
      ASSERT_TRUE(store.save_statistics_file(entry(text, "row weights", "8.gradients.gguf", "2")));
    }
    ASSERT_TRUE(store.save_statistics_file(entry(used, "moments", "older", "1")));
  }
  std::filesystem::remove(folder / statistics_name(path, used, "older"));
  {
    // Of an older engine: its name was taken since. Programs used to leave both entries.
    auto database = Database::open(path, Access::ReadWrite).value();
    auto rename =
        Statement::prepare(database, "UPDATE statistics_file SET name = ? WHERE fingerprint = ?").value();
    ASSERT_TRUE(rename.run(statistics_name(path, used, "moments.gguf"), used + "moments1"));
  }
  put(statistics_name(path, cut_short, "moments.gguf"));
  // Not ours: of another state file, without a text, a checkpoint.
  const std::vector<std::string> others = {statistics_name(folder / "m-2.qfstate", unused, "moments.gguf"),
                                           "m-notes.gguf",
                                           statistics_name(path, unused, "imatrix.gguf.pass")};
  for (const std::string& name : others) put(name);

  PruneRequest request;
  request.dry_run = true;
  const auto would = prune_file(path, request).value();
  EXPECT_TRUE(std::filesystem::exists(folder / statistics_name(path, cut_short, "moments.gguf")));
  request.dry_run = false;
  const auto done = prune_file(path, request);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(done.value().removed, would.removed);
  EXPECT_EQ(done.value().bytes_beside, would.bytes_beside);
  EXPECT_GT(done.value().bytes_beside, 0U);
  EXPECT_THAT(
      done.value().removed,
      testing::UnorderedElementsAre(HasSubstr("importance matrix"), HasSubstr("a newer one has its name"),
                                    HasSubstr("cut short"), HasSubstr("nothing that is known"),
                                    HasSubstr("nothing that is known"), HasSubstr("nothing that is known")));
  std::vector<std::string> left;
  for (const auto& file : std::filesystem::directory_iterator(folder.path()))
    left.push_back(file.path().filename().string());
  std::vector<std::string> expected = others;
  for (const char* kind : {"imatrix.gguf", "moments.gguf", "8.gradients.gguf"})
    expected.push_back(statistics_name(path, used, kind));
  expected.emplace_back("m.qfstate");
  EXPECT_THAT(left, testing::UnorderedElementsAreArray(expected));
  EXPECT_TRUE(prune_file(path, request).value().removed.empty());
}

TEST(Verify, FindsDamageOfTheFileAndOfThoseBesideIt) {
  const TemporaryFolder folder;
  make_file(folder / "a");
  EXPECT_THAT(verify_file(folder / "a").value(), ElementsAre(HasSubstr("moments-gone.gguf")));
  // A value that no program writes.
  {
    auto database = Database::open(folder / "a", Access::ReadWrite).value();
    ASSERT_TRUE(database.execute("UPDATE error SET nmse = -1.0 WHERE format = 'Q4_K'"));
  }
  EXPECT_EQ(verify_file(folder / "a").error().code, ErrorCode::Malformed);
  make_file(folder / "b");
  {
    auto database = Database::open(folder / "b", Access::ReadWrite).value();
    ASSERT_TRUE(database.execute("PRAGMA foreign_keys = OFF; DELETE FROM run WHERE run_id = 1"));
    ASSERT_TRUE(database.execute("INSERT INTO recipe_entry VALUES (77, 0, 't', 'Q4_K')"));
  }
  const auto dangling = verify_file(folder / "b");
  ASSERT_FALSE(dangling);
  EXPECT_THAT(dangling.error().message, HasSubstr("refers to nothing"));
}

TEST(Export, IsJsonAndCsvOfEverythingBitForBit) {
  const TemporaryFolder folder;
  make_file(folder / "a");
  auto store = StateStore::open_read_only(folder / "a").value();
  const Contents contents = store.contents().value();
  const auto json = nlohmann::json::parse(to_json_text(contents));
  EXPECT_EQ(json["model"]["fingerprint"], "aa11");
  ASSERT_EQ(json["runs"].size(), 3U);
  bool found = false;
  for (const auto& run : json["runs"])
    for (const auto& measurement : run["measurements"])
      for (const auto& format : measurement["formats"])
        if (format["format"] == "Q8_0") {
          expect_same_bits(format["nmse"].get<double>(), measurement_case("t", 1).errors[0].nmse);
          found = true;
        }
  EXPECT_TRUE(found);
  EXPECT_EQ(json["sensitivity_sets"].size(), 2U);
  EXPECT_EQ(json["statistics_files"][0]["kind"], "moments");

  Contents awkward = contents;
  awkward.evaluations[evaluation_case().identity] = evaluation_case();
  awkward.evaluations.begin()->second.candidate_name = "a,\"b\"\x1b[2J";
  const std::string csv = to_csv_text(awkward, ExportTable::Evaluations);
  EXPECT_THAT(csv, HasSubstr("mean kl divergence,0.0125,0.0003"));
  EXPECT_THAT(csv, HasSubstr("\"a,\"\"b\"\""));
  EXPECT_THAT(csv, testing::Not(HasSubstr("\x1b")));
  EXPECT_THAT(to_csv_text(contents, ExportTable::Measurements), HasSubstr("Q8_0,0.25,"));
  EXPECT_THAT(to_csv_text(contents, ExportTable::Sensitivities), HasSubstr("output.weight,45.25"));
  EXPECT_THAT(to_csv_text(contents, ExportTable::Recipes), HasSubstr("z.weight,Q4_K"));
}

}  // namespace
}  // namespace quantfit::state

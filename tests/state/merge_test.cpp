#include "state/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "state/state_store.h"
#include "state/statistics_files.h"
#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;
using testing::HasSubstr;
using Path = std::filesystem::path;

// Everything that merging must agree on, as text: no row numbers, no order of coming.
std::string text_of(const Contents& contents) {
  std::string text =
      fmt::format("{} {} {}\n", contents.model.fingerprint, contents.model.name, contents.model.digest);
  for (const auto& [key, source] : contents.sources) {
    text += fmt::format("{} {}\n", key, source.proved);
    for (const FileStamp& file : source.files) text += fmt::format(" {} {}\n", file.name, file.bytes);
  }
  for (const auto& [key, importance] : contents.importances)
    text += fmt::format("{} {} {}\n", key, importance.name, importance.datasets);
  for (const auto& [key, run] : contents.runs) {
    text += fmt::format("{} {} {} {}\n", key, run.run.program_version, run.run.started, run.run.finished);
    for (const auto& [tensor, measurement] : run.measurements) {
      text += fmt::format(" {} {} {}\n", tensor, measurement.role, measurement.rows_sampled);
      for (const FormatMeasurement& row : measurement.errors)
        text += fmt::format("  {} {} {} {} {}\n", name_of(row.format), row.nmse, row.standard_error,
                            row.bias_share, row.seconds);
    }
    for (const auto& [fingerprint, recipe] : run.recipes)
      text += fmt::format(" {} {}\n", fingerprint, recipe.created);
  }
  for (const auto& [key, set] : contents.sensitivities) {
    text += fmt::format("{} {} {}\n", key, set.created, set.partial);
    for (const Sensitivity& row : set.rows) text += fmt::format(" {} {}\n", row.tensor, row.value);
  }
  for (const auto& [key, calibration] : contents.calibrations)
    text +=
        fmt::format("{} {} {}\n", key.text_fingerprint, calibration.finished, calibration.layers_finished);
  for (const auto& [key, file] : contents.statistics_files) text += fmt::format("{} {}\n", key, file.name);
  for (const auto& [key, evaluation] : contents.evaluations)
    for (const Estimate& estimate : evaluation.estimates)
      text += fmt::format("{} {} {}\n", key.candidate_fingerprint, estimate.quantity, estimate.value);
  for (const auto& [key, file] : contents.written_files) text += fmt::format("{} {}\n", key, file.written);
  return text;
}

std::string text_of(const Path& path) {
  const auto store = StateStore::open_read_only(path);
  EXPECT_TRUE(store) << store.error().message;
  const auto contents = store.value().contents();
  EXPECT_TRUE(contents) << contents.error().message;
  return text_of(contents.value());
}

// Three files that overlap and, in places, disagree.
void make_files(const TemporaryFolder& folder) {
  for (int i = 0; i < 3; ++i) {
    ModelIdentity model = model_case();
    model.name = fmt::format("name-{}.gguf", 7 - i);
    auto store = StateStore::open(folder / fmt::format("{}", i), model).value();
    if (i == 1) {
      ASSERT_TRUE(store.remember_importance({"bb22", "imatrix.gguf", "wiki", 10, true}));
    }
    if (i == 2) {
      ASSERT_TRUE(store.remember_importance({"bb22", "another name.gguf", "wiki", 10, true}));
    }
    // One of them was read as a whole, through another name.
    std::vector<FileStamp> files = files_case();
    if (i == 2) files[0].inode = 78;
    files[0].name = fmt::format("model-{}.gguf", i);
    ASSERT_TRUE(store.remember_source(files, i == 1 ? "d1" : ""));
    // Other numbers for the same runs: ids must not be taken over.
    RunParameters more = parameters_case();
    more.effort = "max";
    if (i == 1) {
      ASSERT_TRUE(store.begin_run(more, "2"));
    }
    const RunId run = store.begin_run(parameters_case(), fmt::format("{}", 3 - i)).value();
    ASSERT_TRUE(store.save_tensor(run, measurement_case(fmt::format("only {}", i), i)));
    TensorMeasurement both = measurement_case("both", 1);
    both.rows_sampled = 32 + static_cast<std::uint64_t>(i);
    both.saved = fmt::format("2026-01-0{}T00:00:00Z", 3 - i);
    both.errors[0].seconds = 0.5 - 0.1 * i;  // honest files: only the time differs
    if (i == 2) both.errors.push_back({Format::Q2_K, 0.5, 0.1, 0.1, 1});
    ASSERT_TRUE(store.save_tensor(run, both));
    // A dishonest one.
    ASSERT_TRUE(store.save_tensor(run, measurement_case("differing", i)));
    SavedRecipe recipe = recipe_case("4");
    recipe.created = fmt::format("2026-01-0{}T00:00:00Z", 3 - i);
    ASSERT_TRUE(store.save_recipe(run, recipe));
    ASSERT_TRUE(store.save_recipe(run, recipe_case(fmt::format("5.{}", i))));
    SensitivitySet set = sensitivity_case();
    set.partial = i == 0;
    set.rows[0].value = i;
    set.created = fmt::format("2026-01-0{}T00:00:00Z", 3 - i);
    ASSERT_TRUE(store.save_sensitivity_set(set));
    Calibration calibration = calibration_case();
    calibration.layers_finished = static_cast<std::uint32_t>(i);
    if (i == 0) calibration.finished = "2026-01-02T03:04:05Z";
    ASSERT_TRUE(store.save_calibration(calibration));
    Evaluation evaluation = evaluation_case();
    evaluation.estimates[0].value = i;
    ASSERT_TRUE(store.save_evaluation(evaluation));
    WrittenFile written = written_case("out.gguf");
    written.written = fmt::format("2026-01-0{}T00:00:00Z", 1 + i % 2);
    written.bytes += static_cast<std::uint64_t>(i);
    ASSERT_TRUE(store.save_written_file(written));
    if (i == 1) {
      ASSERT_TRUE(store.finish_run(run));
    }
  }
}

TEST(Merge, GivesTheSameInAnyOrderAndThroughGenerations) {
  const TemporaryFolder folder;
  make_files(folder);
  const std::vector<std::vector<int>> orders = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}};
  std::optional<std::string> expected;
  int number = 0;
  for (const std::vector<int>& order : orders) {
    std::vector<Path> others;
    for (const int i : order) others.push_back(folder / fmt::format("{}", i));
    const Path into = folder / fmt::format("merged {}", number++);
    const auto merged = merge_files(into, others);
    ASSERT_TRUE(merged) << merged.error().message;
    const std::string text = text_of(into);
    if (!expected) expected = text;
    EXPECT_EQ(text, *expected);
    // Again: nothing new.
    const auto again = merge_files(into, others).value();
    EXPECT_EQ(again.runs_added + again.tensors_added + again.errors_added + again.recipes_added +
                  again.sensitivities_added + again.calibrations_added + again.evaluations_added +
                  again.written_files_added,
              0U);
    EXPECT_EQ(text_of(into), *expected);
  }

  // (0 + 1) + (1 + 2), then into a file that knew one of them.
  ASSERT_TRUE(merge_files(folder / "left", {folder / "0", folder / "1"}));
  ASSERT_TRUE(merge_files(folder / "right", {folder / "2", folder / "1"}));
  ASSERT_TRUE(merge_files(folder / "2", {folder / "right", folder / "left", folder / "2"}));
  EXPECT_EQ(text_of(folder / "2"), *expected);
}

TEST(Merge, RefusesOtherWeightsOfTheSameSamples) {
  const TemporaryFolder folder;
  make_files(folder);
  ASSERT_TRUE(StateStore::open(folder / "2", model_case()).value().remember_source(files_case(), "d2"));
  const std::string before = text_of(folder / "2");
  for (const auto& [into, other] : {std::pair("1", "2"), std::pair("2", "1")}) {
    const auto merged = merge_files(folder / into, {folder / other});
    ASSERT_FALSE(merged);
    EXPECT_EQ(merged.error().code, ErrorCode::IdentityMismatch);
    EXPECT_THAT(merged.error().message, HasSubstr("not every weight"));
  }
  EXPECT_EQ(text_of(folder / "2"), before);
}

TEST(Merge, BringsWhatIsMissingAndCountsWhatDiffers) {
  const TemporaryFolder folder;
  make_files(folder);
  auto store = StateStore::open(folder / "0", model_case()).value();
  const auto merged = store.merge(folder / "2");
  ASSERT_TRUE(merged) << merged.error().message;
  MergeSummary expected;
  expected.tensors_added = 1;     // "only 2"
  expected.errors_added = 2 + 1;  // its formats, and Q2_K of "both"
  expected.recipes_added = 1;     // 5.2
  // Two formats of "differing", the sensitivities, the evaluation. "both" is honest.
  expected.differing = 2 + 1 + 1;
  EXPECT_EQ(merged.value(), expected);
  const auto loaded = store.load_run(1).value();
  EXPECT_EQ(loaded.size(), 4U);
  EXPECT_EQ(loaded.at("both").errors.size(), 3U);
  EXPECT_EQ(loaded.at("both").rows_sampled, 34U);
  expect_same(loaded.at("only 2"), measurement_case("only 2", 2));
  // A whole set wins over a partial one, as a whole.
  const auto sets = store.load_sensitivity_sets().value();
  ASSERT_EQ(sets.size(), 1U);
  EXPECT_FALSE(sets[0].partial);
  EXPECT_EQ(sets[0].rows[0].value, 2);
  EXPECT_EQ(store.importances().value().at(0).name, "another name.gguf");
}

TEST(Merge, RefusesAnotherModelAndAnotherShapeAndChangesNothing) {
  const TemporaryFolder folder;
  make_files(folder);
  const std::string before = text_of(folder / "0");
  { ASSERT_TRUE(StateStore::open(folder / "other", model_case("cc33"))); }
  const auto merged = merge_files(folder / "0", {folder / "other"});
  ASSERT_FALSE(merged);
  EXPECT_EQ(merged.error().code, ErrorCode::IdentityMismatch);
  EXPECT_THAT(merged.error().message, HasSubstr("model-cc33-F16.gguf"));
  {
    auto store = StateStore::open(folder / "shape", model_case()).value();
    TensorMeasurement reshaped = measurement_case("both", 1);
    reshaped.shape.ne[1] = 65;
    const RunId run = store.begin_run(parameters_case(), "1").value();
    ASSERT_TRUE(store.save_tensor(run, measurement_case("a new one", 1)));
    ASSERT_TRUE(store.save_tensor(run, reshaped));
  }
  EXPECT_EQ(merge_files(folder / "0", {folder / "shape"}).error().code, ErrorCode::ShapeMismatch);
  EXPECT_EQ(merge_files(folder / "0", {folder / "none"}).error().code, ErrorCode::Io);
  EXPECT_EQ(text_of(folder / "0"), before);
  EXPECT_EQ(merge_files(folder / "new", {folder / "none"}).error().code, ErrorCode::Io);
  EXPECT_FALSE(std::filesystem::exists(folder / "new"));
}

// The pair: a state file and the files it names.
TEST(Merge, StatisticsFilesComeAlong) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "there");
  std::filesystem::create_directory(folder / "here");
  const std::vector<std::byte> bytes(3 << 20, std::byte{7});
  test::write_file(folder / "there/moments.gguf", bytes);
  const std::string digest = file_digest(folder / "there/moments.gguf").value();
  {
    auto store = StateStore::open(folder / "there/a", model_case()).value();
    ASSERT_TRUE(store.save_statistics_file({digest, "moments.gguf", "moments", bytes.size(), "dd44", ""}));
  }
  const auto merged = merge_files(folder / "here/b", {folder / "there/a"});
  ASSERT_TRUE(merged) << merged.error().message;
  EXPECT_EQ(merged.value().statistics_files_added, 1U);
  EXPECT_EQ(test::read_file(folder / "here/moments.gguf"), bytes);
  auto store = StateStore::open_read_only(folder / "here/b").value();
  EXPECT_TRUE(check_statistics_files(folder / "here/b", store.statistics_files().value()).value().empty());
  ASSERT_TRUE(merge_files(folder / "here/b", {folder / "there/a"}));

  // Another file in its place, a damaged source, a missing source: nothing is replaced or half there.
  test::write_file(folder / "here/moments.gguf", {std::byte{1}});
  EXPECT_EQ(check_statistics_files(folder / "here/b", store.statistics_files().value()).value().size(), 1U);
  EXPECT_EQ(merge_files(folder / "here/b", {folder / "there/a"}).error().code, ErrorCode::InvalidArgument);
  EXPECT_EQ(test::read_file(folder / "here/moments.gguf").size(), 1U);
  std::filesystem::remove(folder / "here/moments.gguf");
  test::write_file(folder / "there/moments.gguf", {std::byte{1}});
  EXPECT_EQ(merge_files(folder / "here/b", {folder / "there/a"}).error().code, ErrorCode::Malformed);
  std::filesystem::remove(folder / "there/moments.gguf");
  EXPECT_EQ(merge_files(folder / "here/b", {folder / "there/a"}).error().code, ErrorCode::Io);
  EXPECT_FALSE(std::filesystem::exists(folder / "here/moments.gguf"));
}

}  // namespace
}  // namespace quantfit::state

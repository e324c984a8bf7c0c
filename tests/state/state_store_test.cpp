#include "state/state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;

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
    ASSERT_TRUE(
        store.value().save_sensitivities({{"output.weight", 45.25, "prior"}, {"a", 1e-300, "measured:x"}}));
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

  const auto sensitivities = store.value().load_sensitivities().value();
  ASSERT_EQ(sensitivities.size(), 2U);
  expect_same_bits(sensitivities.at("a").value, 1e-300);
  EXPECT_EQ(sensitivities.at("output.weight").obtained, "prior");

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

}  // namespace
}  // namespace quantfit::state

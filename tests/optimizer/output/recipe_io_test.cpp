#include "optimizer/output/recipe_io.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/optimizer/model_shapes.h"

namespace quantfit::optimizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TensorInfo tensor_of(std::string name, std::uint64_t row_length, std::uint64_t rows = 8) {
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.n_dims = rows == 1 ? 1 : 2;
  tensor.ne = {row_length, rows, 1, 1};
  tensor.format = rows == 1 ? Format::F32 : Format::F16;
  return tensor;
}

std::vector<TensorInfo> small_model() {
  return {tensor_of("token_embd.weight", 256), tensor_of("blk.0.attn_norm.weight", 256, 1),
          tensor_of("blk.0.attn_q.weight", 256), tensor_of("blk.10.attn_q.weight", 256)};
}

Recipe small_recipe() {
  Recipe recipe;
  recipe.entries = {{"token_embd.weight", Format::Q6_K},
                    {"blk.0.attn_norm.weight", Format::F32},
                    {"blk.0.attn_q.weight", Format::IQ2_XXS},
                    {"blk.10.attn_q.weight", Format::BF16}};
  recipe.provenance = {{"target", "4.5 bpw"}, {"model", "a: b\nc\\d"}, {"key: odd", "x"}};
  return recipe;
}

TEST(RecipeIo, NamesAreGgmls) {
  EXPECT_EQ(ggml_name(Format::Q4_K), "q4_K");
  EXPECT_EQ(ggml_name(Format::IQ2_XXS), "iq2_xxs");
  EXPECT_EQ(ggml_name(Format::BF16), "bf16");
  EXPECT_EQ(ggml_name(Format::MXFP4), "mxfp4");
  for (const FormatTraits& format : all_formats())
    EXPECT_EQ(parse_format(ggml_name(format.format)), format.format);
}

TEST(RecipeIo, TensorTypeFileHoldsRulesAndNothingElse) {
  EXPECT_EQ(to_tensor_type_file(small_recipe(), small_model()).value(),
            "^token_embd\\.weight$=q6_K\n"
            "^blk\\.0\\.attn_q\\.weight$=iq2_xxs\n"
            "^blk\\.10\\.attn_q\\.weight$=bf16\n");
  EXPECT_EQ(
      to_custom_q(small_recipe(), small_model()).value(),
      "^token_embd\\.weight$=q6_K,^blk\\.0\\.attn_q\\.weight$=iq2_xxs,^blk\\.10\\.attn_q\\.weight$=bf16");
}

TEST(RecipeIo, OwnFormComesBackWithItsProvenance) {
  const auto text = to_recipe_text(small_recipe(), small_model()).value();
  EXPECT_EQ(text,
            "# quantfit recipe 1\n"
            "# key\\c odd: x\n"
            "# model: a: b\\nc\\\\d\n"
            "# target: 4.5 bpw\n" +
                to_tensor_type_file(small_recipe(), small_model()).value());
  const auto parsed = parse_recipe_text(text);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed.value().provenance, small_recipe().provenance);
  const auto applied = apply_recipe_text(parsed.value(), small_model());
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(applied.value().recipe.entries, small_recipe().entries);
  EXPECT_EQ(applied.value().recipe.provenance, small_recipe().provenance);
  EXPECT_TRUE(applied.value().unused.empty());
  EXPECT_TRUE(applied.value().uncovered.empty());
  EXPECT_TRUE(applied.value().substitutions.empty());
}

TEST(RecipeIo, EveryStaticRecipeComesBack) {
  for (const test::ModelShape& shape : {test::llama3_8b(), test::qwen36_35b_a3b(), test::deepseek_v3()}) {
    const ModelTraits model = model_traits(shape.metadata, shape.tensors).value();
    for (const FileType type : {FileType::Q4_K_M, FileType::IQ2_M, FileType::MXFP4_MOE}) {
      const auto recipe =
          resolve_static_recipe(model, shape.tensors, {.file_type = type, .has_importance = true})
              .value()
              .recipe;
      const auto text = parse_recipe_text(to_tensor_type_file(recipe, shape.tensors).value()).value();
      const auto back = apply_recipe_text(text, shape.tensors).value();
      EXPECT_EQ(back.recipe.entries, recipe.entries);
      EXPECT_TRUE(diff_recipes(recipe, back.recipe).changes.empty());
    }
  }
}

TEST(RecipeIo, HandWrittenTextsApplyInOrder) {
  const auto text =
      parse_recipe_text("# my mix: good\r\nblk\\.0=q4_K attn_q=Q5_K\r\n\n#x\nnothing=q4_0\ntoken=q3_K")
          .value();
  EXPECT_TRUE(text.provenance.empty());
  const auto applied = apply_recipe_text(text, small_model()).value();
  EXPECT_THAT(applied.recipe.entries, ElementsAre(RecipeEntry{"token_embd.weight", Format::Q3_K},
                                                  RecipeEntry{"blk.0.attn_norm.weight", Format::F32},
                                                  RecipeEntry{"blk.0.attn_q.weight", Format::Q4_K},
                                                  RecipeEntry{"blk.10.attn_q.weight", Format::Q5_K}));
  EXPECT_THAT(applied.unused, ElementsAre("nothing"));
}

TEST(RecipeIo, TensorsThatNoRuleCoversNeedAType) {
  const auto text = parse_recipe_text("blk\\.0=q4_K").value();
  const auto refused = apply_recipe_text(text, small_model());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("token_embd.weight"));
  const auto applied = apply_recipe_text(text, small_model(), Format::Q8_0).value();
  EXPECT_THAT(applied.uncovered, ElementsAre("token_embd.weight", "blk.10.attn_q.weight"));
  EXPECT_EQ(applied.recipe.entries[0].format, Format::Q8_0);
}

TEST(RecipeIo, RowLengthsThatDoNotFitAreReported) {
  const std::vector<TensorInfo> odd = {tensor_of("blk.0.attn_q.weight", 288)};
  const auto applied = apply_recipe_text(parse_recipe_text("q=q4_K").value(), odd).value();
  EXPECT_EQ(applied.recipe.entries[0].format, Format::Q5_0);
  ASSERT_EQ(applied.substitutions.size(), 1U);
  EXPECT_EQ(applied.substitutions[0].wanted, Format::Q4_K);
}

TEST(RecipeIo, BadTextsAreRefusedWithTheirLine) {
  for (const char* bad : {"x", "x=", "=q4_K", "x=q4_Z", "(=q4_K", "a=q4_K b"}) {
    const auto refused = parse_recipe_text(std::string("# quantfit recipe 1\na=q4_K\n") + bad + "\n");
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(refused.error().message, testing::StartsWith("line 3: "));
    EXPECT_THAT(refused.error().message, testing::Not(HasSubstr("line 1")));
  }
  EXPECT_EQ(parse_recipe_text("# quantfit recipe 2\n").error().code, ErrorCode::Unsupported);
  EXPECT_TRUE(parse_recipe_text("").value().rules.empty());
  EXPECT_TRUE(parse_recipe_text(std::string_view("#\0\n", 3)).value().rules.empty());
}

TEST(RecipeIo, RecipesOfOtherModelsAreRefused) {
  Recipe recipe = small_recipe();
  recipe.entries[2].tensor = "other";
  EXPECT_EQ(to_tensor_type_file(recipe, small_model()).error().code, ErrorCode::ShapeMismatch);
  recipe.entries.pop_back();
  EXPECT_EQ(to_recipe_text(recipe, small_model()).error().code, ErrorCode::ShapeMismatch);
  const std::vector<TensorInfo> spaced = {tensor_of("a b.weight", 256)};
  EXPECT_EQ(to_custom_q(recipe_of(spaced), spaced).error().code, ErrorCode::Unsupported);
}

TEST(RecipeIo, DiffListsChangesInOrder) {
  const Recipe before = small_recipe();
  Recipe after = before;
  after.entries[2].format = Format::Q4_K;
  after.entries.erase(after.entries.begin());
  after.entries.push_back({"new.weight", Format::Q8_0});
  const RecipeDiff diff = diff_recipes(before, after);
  EXPECT_THAT(diff.changes, ElementsAre(RecipeChange{"token_embd.weight", Format::Q6_K, std::nullopt},
                                        RecipeChange{"blk.0.attn_q.weight", Format::IQ2_XXS, Format::Q4_K},
                                        RecipeChange{"new.weight", std::nullopt, Format::Q8_0}));
  EXPECT_EQ(diff.same, 2U);
  EXPECT_TRUE(diff_recipes(before, before).changes.empty());
  EXPECT_EQ(recipe_of(small_model()).entries[1].format, Format::F32);
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/job/preset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/optimizer/job/job_fixture.h"

namespace quantfit::optimizer {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<FormatPin> pins(std::string_view text) {
  return parse_format_pins(text).value();
}

Format format_in(const GivenRecipe& given, const std::string& tensor) {
  const RecipeEntry* entry = given.target.recipe.find(tensor);
  EXPECT_NE(entry, nullptr) << tensor;
  return entry == nullptr ? Format::F64 : entry->format;
}

TEST(Preset, ExplicitFormatsPinsAndAHeadLeftAloneApply) {
  test::Job job;
  job.request.policy.rules.output_format = Format::Q8_0;
  job.request.policy.rules.embedding_format = Format::Q8_0;
  job.request.policy.rules.pins = pins("attn_k=q5_K");
  const GivenRecipe given = job.preset("q4_k_m").value();
  EXPECT_EQ(given.target.name, "Q4_K_M");
  EXPECT_EQ(format_in(given, "output.weight"), Format::Q8_0);
  EXPECT_EQ(format_in(given, "token_embd.weight"), Format::Q8_0);
  EXPECT_EQ(format_in(given, "blk.0.attn_k.weight"), Format::Q5_K);
  EXPECT_EQ(format_in(given, "blk.0.attn_q.weight"), Format::Q4_K);
  EXPECT_THAT(given.notes, IsEmpty());

  job.request.policy.rules = {};
  job.request.policy.rules.leave_output_tensor = true;
  EXPECT_EQ(format_in(job.preset("Q4_K_M").value(), "output.weight"), Format::F16);
}

TEST(Preset, RaisedNamesAreTheMixtureWithEmbeddingAndHeadInQ80) {
  const std::pair<const char*, const char*> pairs[] = {{"Q2_K_L", "Q2_K"},
                                                       {"Q3_K_XL", "Q3_K_L"},
                                                       {"Q4_K_L", "Q4_K_M"},
                                                       {"Q5_K_L", "Q5_K_M"},
                                                       {"Q6_K_L", "Q6_K"}};
  test::Job raised;
  test::Job plain;
  plain.request.policy.rules.output_format = Format::Q8_0;
  plain.request.policy.rules.embedding_format = Format::Q8_0;
  for (const auto& [name, base] : pairs)
    EXPECT_EQ(raised.preset(name).value().target.recipe.entries,
              plain.preset(base).value().target.recipe.entries)
        << name;
  raised.request.policy.rules.output_format = Format::Q6_K;  // what is said wins
  EXPECT_EQ(format_in(raised.preset("Q4_K_L").value(), "output.weight"), Format::Q6_K);
  EXPECT_THAT(raised.preset("Q9_X").error().message, HasSubstr("Q4_K_M"));
}

TEST(Preset, WhatLeavesAChoiceIsRefusedByName) {
  const auto refused = [](auto&& change) {
    test::Job job;
    change(job.request);
    const auto given = job.preset("Q4_K_M");
    EXPECT_FALSE(given);
    return given ? Error{} : given.error();
  };
  const std::pair<std::string, Error> cases[] = {
      {"smallest type", refused([](JobRequest& r) { r.policy.rules.floors = pins("ffn=q6_K"); })},
      {"largest type", refused([](JobRequest& r) { r.policy.rules.ceilings = pins("ffn=q3_K"); })},
      {"list of formats", refused([](JobRequest& r) { r.policy.rules.pool = {Format::Q4_K}; })},
      {"excluded", refused([](JobRequest& r) { r.policy.rules.excluded = {Format::Q4_K}; })},
      {"runtime", refused([](JobRequest& r) { r.policy.rules.runtime = Runtime::Cpu; })},
      {"tie", refused([](JobRequest& r) { r.policy.rules.ties = {Pattern::compile("ffn").value()}; })},
      {"weight of speed", refused([](JobRequest& r) { r.speed_weight = 1; })},
      {"share to fill", refused([](JobRequest& r) {
         r.min_fill = FillShare{"99%", {99, 2}};
       })},
  };
  for (const auto& [name, error] : cases) {
    EXPECT_EQ(error.code, ErrorCode::InvalidArgument) << name;
    EXPECT_THAT(error.message, HasSubstr(name));
    EXPECT_THAT(error.message, HasSubstr("Q4_K_M"));
  }
}

TEST(Preset, MissingImportanceIsRefusedOrInsistedOn) {
  test::Job job(test::one_layer(), false);
  EXPECT_TRUE(job.preset("Q4_K_M"));
  const auto refused = job.preset("IQ2_XS");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::Infeasible);
  EXPECT_THAT(refused.error().message, HasSubstr("blk.0."));
  job.request.policy.rules.low_bits_without_importance = true;
  EXPECT_THAT(job.preset("IQ2_XS").value().notes, ElementsAre(HasSubstr("without importance data")));
  // An importance matrix that lacks one tensor.
  auto tensors = test::one_layer();
  tensors.back().tokens.clear();
  test::Job partial(tensors);
  EXPECT_THAT(partial.preset("IQ2_XXS").error().message, HasSubstr("blk.0.ffn_down.weight"));
}

TEST(Preset, DeviationsAreNoted) {
  auto tensors = test::one_layer();
  for (test::SmallTensor& tensor : tensors)
    if (tensor.name == "blk.0.ffn_down.weight") tensor.ne[0] = 96;
  test::Job job(tensors);
  job.request.policy.rules.pins = pins("nowhere=q5_K");
  const GivenRecipe given = job.preset("Q4_K_M").value();
  EXPECT_THAT(given.notes, Contains(HasSubstr("'nowhere=Q5_K' applies to no tensor")));
  EXPECT_THAT(given.notes, Contains(HasSubstr("'blk.0.ffn_down.weight'")));
}

TEST(Preset, RecipeFilesTakeTheSameRules) {
  test::Job job;
  job.open();
  const RecipeText text = parse_recipe_text("attn_k=q3_K\nno_such=q3_K\nweight=q4_K\n").value();
  const auto plain = file_recipe(*job.inputs, job.request, "r.txt", text).value();
  EXPECT_EQ(format_in(plain, "blk.0.attn_k.weight"), Format::Q3_K);
  EXPECT_THAT(plain.notes, ElementsAre(HasSubstr("'no_such'")));
  job.request.policy.rules.pins = pins("attn_k=q6_K");
  job.request.policy.rules.output_format = Format::Q8_0;
  const auto ruled = file_recipe(*job.inputs, job.request, "r.txt", text).value();
  EXPECT_EQ(format_in(ruled, "blk.0.attn_k.weight"), Format::Q6_K);
  EXPECT_EQ(format_in(ruled, "output.weight"), Format::Q8_0);
  EXPECT_EQ(format_in(ruled, "token_embd.weight"), Format::Q4_K);
  job.request.policy.rules.floors = pins("ffn=q6_K");
  EXPECT_THAT(file_recipe(*job.inputs, job.request, "r.txt", text).error().message, HasSubstr("r.txt"));
  job.request.policy.rules.floors.clear();
  const RecipeText low = parse_recipe_text("weight=iq2_xs\n").value();
  test::Job without(test::one_layer(), false);
  without.open();
  EXPECT_EQ(file_recipe(*without.inputs, without.request, "low.txt", low).error().code,
            ErrorCode::Infeasible);
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/planning/constraints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/optimizer/model_shapes.h"

namespace quantfit::optimizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A dense model of three layers; rows of 512 weights, ffn_down of 1024.
struct Fixture {
  ModelTraits model;
  std::vector<TensorInfo> tensors;

  Fixture() {
    model.architecture = "llama";
    model.block_count = 3;
    add("token_embd.weight", 512);
    add("output.weight", 512);
    for (int layer = 0; layer < 3; ++layer) {
      for (const char* role : {"attn_q", "attn_k", "ffn_gate", "ffn_up"})
        add(fmt::format("blk.{}.{}.weight", layer, role), 512);
      add(fmt::format("blk.{}.ffn_down.weight", layer), 1024);
      add(fmt::format("blk.{}.attn_norm.weight", layer), 512, 1);
    }
  }

  void add(std::string name, std::uint64_t row_length, std::uint64_t rows = 64) {
    TensorInfo tensor;
    tensor.name = std::move(name);
    tensor.n_dims = rows == 1 ? 1 : 2;
    tensor.ne = {row_length, rows, 1, 1};
    tensor.format = rows == 1 ? Format::F32 : Format::F16;
    tensors.push_back(std::move(tensor));
  }

  [[nodiscard]] Constraints resolve(const ConstraintRules& rules) const {
    const auto constraints = resolve_constraints(model, tensors, rules);
    EXPECT_TRUE(constraints) << constraints.error().message;
    return constraints ? constraints.value() : Constraints{};
  }
  [[nodiscard]] Error refuse(const ConstraintRules& rules) const {
    const auto constraints = resolve_constraints(model, tensors, rules);
    EXPECT_FALSE(constraints);
    return constraints ? Error{} : constraints.error();
  }
  // Importance data for every tensor.
  [[nodiscard]] std::vector<bool> all() const { return std::vector<bool>(tensors.size(), true); }
  [[nodiscard]] std::size_t index(std::string_view name) const {
    const auto found = std::ranges::find(tensors, name, &TensorInfo::name);
    EXPECT_NE(found, tensors.end()) << name;
    return static_cast<std::size_t>(found - tensors.begin());
  }
  [[nodiscard]] const TensorChoices& of(const Constraints& constraints, std::string_view name) const {
    return constraints.tensors.at(index(name));
  }
};

std::vector<FormatPin> pins(std::string_view text) {
  return parse_format_pins(text).value();
}

Pattern pattern(std::string_view text) {
  return Pattern::compile(text).value();
}

TEST(Constraints, ParseRulesAndFiles) {
  const auto list = pins("  ffn_down=q5_K\n^blk\\.(0|1)\\.=IQ4_xs\r\n\ta(?=b)=BF16 ");
  ASSERT_EQ(list.size(), 3U);
  EXPECT_EQ(list[0].format, Format::Q5_K);
  EXPECT_EQ(list[1].pattern.text(), "^blk\\.(0|1)\\.");
  EXPECT_EQ(list[1].format, Format::IQ4_XS);
  EXPECT_EQ(list[2].pattern.text(), "a(?=b)");
  EXPECT_TRUE(pins("").empty());
  for (const char* bad : {"x", "=q4_K", "x=", "x=q4_Z", "x=q8_1", "x=i32", "(=q4_K", "# comment"}) {
    const auto refused = parse_format_pins(std::string("a=q4_K\n") + bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(refused.error().message, HasSubstr("line 2")) << bad;
  }
  EXPECT_THAT(parse_format_list("q4_K, IQ3_S q4_k").value(), ElementsAre(Format::Q4_K, Format::IQ3_S));
  EXPECT_FALSE(parse_format_list(" , "));
  EXPECT_FALSE(parse_format_list("q4_K,nothing"));
  EXPECT_FALSE(parse_format_list("q8_K"));
}

TEST(Constraints, WithoutRulesThePoolIsTheDefault) {
  const Fixture f;
  const Constraints with = f.resolve({.importance = f.all()});
  EXPECT_EQ(f.of(with, "blk.0.attn_q.weight").formats.size(), default_candidate_formats().size());
  const Constraints without = f.resolve({});
  EXPECT_EQ(f.of(without, "blk.0.attn_q.weight").formats.size(), default_candidate_formats().size() - 6);
  EXPECT_EQ(f.of(without, "blk.0.attn_q.weight").formats.front(), Format::Q2_K);
  EXPECT_EQ(f.of(without, "output.weight").formats.size(), default_candidate_formats().size());
  const Constraints insisted = f.resolve({.low_bits_without_importance = true});
  EXPECT_EQ(f.of(insisted, "blk.0.attn_q.weight").formats.front(), Format::IQ1_S);
  const TensorChoices& norm = f.of(without, "blk.0.attn_norm.weight");
  EXPECT_TRUE(norm.kept);
  EXPECT_THAT(norm.formats, ElementsAre(Format::F32));
  EXPECT_EQ(norm.reason, "kept: a vector");
  // Ascending bits per weight.
  for (const TensorChoices& choices : with.tensors)
    for (std::size_t i = 1; i < choices.formats.size(); ++i)
      EXPECT_LE(bits_per_weight(choices.formats[i - 1]), bits_per_weight(choices.formats[i]));
  EXPECT_TRUE(with.notes.empty());
}

TEST(Constraints, ImportanceIsAskedOfEveryTensor) {
  const Fixture f;
  std::vector<bool> importance = f.all();
  importance[f.index("blk.1.ffn_up.weight")] = false;
  const Constraints c = f.resolve({.importance = importance});
  EXPECT_EQ(f.of(c, "blk.1.ffn_up.weight").formats.front(), Format::Q2_K);
  EXPECT_EQ(f.of(c, "blk.0.ffn_up.weight").formats.front(), Format::IQ1_S);
  EXPECT_THAT(c.notes, ElementsAre(HasSubstr("'blk.1.ffn_up.weight'")));
  const Error refused = f.refuse({.pins = pins("ffn_up=iq2_xs"), .importance = importance});
  EXPECT_THAT(refused.message, HasSubstr("blk.1.ffn_up.weight"));
  EXPECT_TRUE(f.resolve({.importance = importance, .low_bits_without_importance = true}).notes.empty());
}

TEST(Constraints, ATiedEmbeddingWithoutImportanceIsNamed) {
  Fixture f;
  f.tensors.erase(f.tensors.begin() + 1);
  f.model.tied = true;
  std::vector<bool> importance = f.all();
  importance[0] = false;
  EXPECT_THAT(f.resolve({.importance = importance}).notes, ElementsAre(HasSubstr("'token_embd.weight'")));
  EXPECT_TRUE(f.resolve({.importance = f.all()}).notes.empty());
}

TEST(Constraints, RulesAreCalledWhatTheyWereGivenAs) {
  const Fixture f;
  ConstraintRules rules;
  rules.pins = pins("nowhere=q4_K ffn_up=q4_K");
  rules.pins[0].given_as = "pins.txt";
  rules.names.pin = "tensor_type";
  const Constraints c = f.resolve(rules);
  EXPECT_THAT(c.notes, ElementsAre("pins.txt 'nowhere=Q4_K' applies to no tensor"));
  EXPECT_EQ(f.of(c, "blk.1.ffn_up.weight").reason, "pinned by tensor_type 'ffn_up'");
}

TEST(Constraints, StateSpaceTensorsAreRaisedOnDemand) {
  Fixture f;
  for (const char* role : {"ssm_alpha", "ssm_beta", "ssm_out"})
    f.add(fmt::format("blk.0.{}.weight", role), 512);
  const Constraints raised = f.resolve({.raise_state_space = true});
  EXPECT_TRUE(f.of(raised, "blk.0.ssm_alpha.weight").kept);
  EXPECT_THAT(f.of(raised, "blk.0.ssm_beta.weight").formats, ElementsAre(Format::F16));
  EXPECT_THAT(f.of(raised, "blk.0.ssm_out.weight").formats, ElementsAre(Format::Q8_0));
  EXPECT_GT(f.of(f.resolve({}), "blk.0.ssm_alpha.weight").formats.size(), 5U);
  const Constraints pinned = f.resolve({.pins = pins("ssm_out=q6_K"), .raise_state_space = true});
  EXPECT_THAT(f.of(pinned, "blk.0.ssm_out.weight").formats, ElementsAre(Format::Q6_K));
}

TEST(Constraints, TowersKeepEightBitsUnlessSomebodySaysOtherwise) {
  Fixture f;
  f.add("v.blk.0.attn_q.weight", 512);
  f.add("mm.0.weight", 512);
  const auto fewest = [&](const Constraints& constraints, std::string_view name) {
    return f.of(constraints, name).formats.front();
  };
  for (const char* name : {"v.blk.0.attn_q.weight", "mm.0.weight"}) {
    EXPECT_EQ(fewest(f.resolve({.importance = f.all()}), name), Format::Q8_0);
    EXPECT_EQ(fewest(f.resolve({.pool = {Format::Q4_K, Format::Q8_0}}), name), Format::Q4_K);
    EXPECT_EQ(fewest(f.resolve({.ceilings = pins("weight=q6_K"), .importance = f.all()}), "mm.0.weight"),
              fewest(f.resolve({.importance = f.all()}), "blk.0.attn_q.weight"));
  }
  EXPECT_NE(fewest(f.resolve({.excluded = {Format::Q8_0}}), "mm.0.weight"), Format::Q8_0);
}

TEST(Constraints, TheFirstPinCountsAndExplicitTypesComeBeforeIt) {
  const Fixture f;
  ConstraintRules rules;
  rules.pins = pins("blk\\.0\\.ffn=q6_K ffn=q5_K weight=q4_K");
  rules.output_format = Format::Q8_0;
  const Constraints c = f.resolve(rules);
  EXPECT_THAT(f.of(c, "blk.0.ffn_up.weight").formats, ElementsAre(Format::Q6_K));
  EXPECT_THAT(f.of(c, "blk.1.ffn_up.weight").formats, ElementsAre(Format::Q5_K));
  EXPECT_THAT(f.of(c, "blk.1.attn_q.weight").formats, ElementsAre(Format::Q4_K));
  EXPECT_THAT(f.of(c, "output.weight").formats, ElementsAre(Format::Q8_0));
  EXPECT_THAT(f.of(c, "token_embd.weight").formats, ElementsAre(Format::Q4_K));
  EXPECT_EQ(f.of(c, "blk.1.ffn_up.weight").reason, "pinned by tensor type 'ffn'");
  EXPECT_EQ(f.of(c, "output.weight").reason, "pinned by output format");
}

TEST(Constraints, OutputTypeCoversATiedEmbedding) {
  Fixture f;
  f.tensors.erase(f.tensors.begin() + 1);
  f.model.tied = true;
  EXPECT_THAT(f.of(f.resolve({.output_format = Format::Q6_K}), "token_embd.weight").formats,
              ElementsAre(Format::Q6_K));
  const Constraints both = f.resolve({.output_format = Format::Q6_K, .embedding_format = Format::Q4_K});
  EXPECT_THAT(f.of(both, "token_embd.weight").formats, ElementsAre(Format::Q4_K));
}

TEST(Constraints, FloorsCeilingsAndPoolsFilter) {
  const Fixture f;
  ConstraintRules rules;
  rules.pool = parse_format_list("q8_0 q6_K q5_K q4_K iq4_xs q3_K").value();
  rules.floors = pins("attn=q4_K attn_k=q5_K");
  rules.ceilings = pins("ffn=q4_K");
  rules.excluded = {Format::Q8_0};
  const Constraints c = f.resolve(rules);
  EXPECT_THAT(f.of(c, "blk.0.attn_q.weight").formats, ElementsAre(Format::Q4_K, Format::Q5_K, Format::Q6_K));
  EXPECT_THAT(f.of(c, "blk.0.attn_k.weight").formats,
              ElementsAre(Format::Q5_K, Format::Q6_K));  // all floors count
  EXPECT_THAT(f.of(c, "blk.0.ffn_up.weight").formats,
              ElementsAre(Format::Q3_K, Format::IQ4_XS, Format::Q4_K));
  EXPECT_THAT(f.of(c, "output.weight").formats,
              ElementsAre(Format::Q3_K, Format::IQ4_XS, Format::Q4_K, Format::Q5_K, Format::Q6_K));
}

TEST(Constraints, TheSourceMayStayWhereNoRuleForbidsIt) {
  const Fixture fixture;
  ConstraintRules rules;
  rules.ceilings = pins("ffn_up=Q4_K");
  rules.pins = pins("attn_k=Q6_K");
  const Constraints constraints = fixture.resolve(rules);
  EXPECT_TRUE(fixture.of(constraints, "blk.0.ffn_gate.weight").may_keep);
  EXPECT_FALSE(fixture.of(constraints, "blk.0.ffn_up.weight").may_keep);
  EXPECT_FALSE(fixture.of(constraints, "blk.0.attn_k.weight").may_keep);
  rules.excluded = {Format::F16};
  EXPECT_FALSE(fixture.of(fixture.resolve(rules), "blk.0.ffn_gate.weight").may_keep);
  rules.excluded.clear();
  rules.pool = {Format::Q4_K,
                Format::F16};  // whoever lists formats lists the source's too, or does not want it
  const Constraints listed = fixture.resolve(rules = {.pool = rules.pool});
  EXPECT_FALSE(fixture.of(listed, "blk.0.ffn_gate.weight").may_keep);
  EXPECT_THAT(fixture.of(listed, "blk.0.ffn_gate.weight").formats, ElementsAre(Format::Q4_K, Format::F16));
}

TEST(Constraints, FormatsOfEqualBitsPassTheirFloor) {
  const Fixture f;
  ConstraintRules rules;
  rules.floors = pins(".=q4_K");
  rules.ceilings = pins(".=q4_K");
  EXPECT_THAT(f.of(f.resolve(rules), "blk.0.attn_q.weight").formats,
              ElementsAre(Format::Q4_0, Format::Q4_K, Format::IQ4_NL));  // 4.5 bits each
}

TEST(Constraints, ConflictsNameTheConstraints) {
  const Fixture f;
  const auto expect = [&](const ConstraintRules& rules, std::initializer_list<const char*> parts) {
    const Error error = f.refuse(rules);
    EXPECT_EQ(error.code, ErrorCode::Infeasible) << error.message;
    for (const char* part : parts) EXPECT_THAT(error.message, HasSubstr(part));
  };
  expect({.pins = pins("ffn=q4_K"), .floors = pins("ffn_up=q5_K")},
         {"blk.0.ffn_up.weight", "tensor type 'ffn'", "Q4_K", "smallest type 'ffn_up'", "Q5_K"});
  expect({.pins = pins("ffn=q6_K"), .ceilings = pins("ffn_up=q5_K")},
         {"blk.0.ffn_up.weight", "largest type 'ffn_up'"});
  expect({.output_format = Format::Q4_K, .floors = pins("output=q6_K")}, {"output.weight", "output format"});
  expect({.pins = pins("ffn=q6_K"), .excluded = {Format::Q6_K}},
         {"list of excluded formats", "Q6_K", "tensor type 'ffn'"});
  expect({.pins = pins("ffn=iq2_xs")}, {"IQ2_XS", "importance"});
  expect({.floors = pins("attn=q6_K"), .pool = {Format::Q4_K, Format::Q5_K}},
         {"blk.0.attn_q.weight", "smallest type 'attn=Q6_K'", "Q4_K, Q5_K"});
  expect({.floors = pins("attn=q6_K"), .ceilings = pins("attn_q=q5_K")},
         {"smallest type", "largest type 'attn_q=Q5_K'"});
  expect({.pool = {Format::IQ1_S}}, {"importance"});
  expect({.pool = {Format::Q4_K}, .excluded = {Format::Q4_K}}, {"list of excluded formats"});
  expect({.output_format = Format::Q4_K, .leave_output_tensor = true},
         {"output head left as it is", "output format"});
  EXPECT_EQ(f.refuse({.pool = {Format::I32}}).code, ErrorCode::InvalidArgument);
  EXPECT_EQ(f.refuse({.output_format = Format::Q8_K}).code, ErrorCode::InvalidArgument);
}

TEST(Constraints, RowLengthsThatDoNotFitAreNotedNotSilent) {
  Fixture f;
  f.add("blk.2.odd.weight", 288);
  f.add("blk.2.tiny.weight", 100);
  const Constraints standard = f.resolve({});
  EXPECT_THAT(
      f.of(standard, "blk.2.odd.weight").formats,
      ElementsAre(Format::Q4_0, Format::IQ4_NL, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0));
  EXPECT_FALSE(f.of(standard, "blk.2.odd.weight").substituted);
  EXPECT_THAT(f.of(standard, "blk.2.tiny.weight").formats, ElementsAre(Format::F16));
  EXPECT_TRUE(f.of(standard, "blk.2.tiny.weight").substituted);
  ASSERT_EQ(standard.notes.size(), 1U);
  EXPECT_THAT(standard.notes[0], HasSubstr("blk.2.tiny.weight"));
  const Constraints pool = f.resolve({.pool = {Format::Q4_K, Format::Q6_K}});
  EXPECT_THAT(f.of(pool, "blk.2.odd.weight").formats, ElementsAre(Format::Q5_0, Format::Q8_0));
  const Constraints pinned = f.resolve({.pins = pins("odd=q4_K")});
  EXPECT_THAT(f.of(pinned, "blk.2.odd.weight").formats, ElementsAre(Format::Q5_0));
  EXPECT_TRUE(f.of(pinned, "blk.2.odd.weight").substituted);
  EXPECT_EQ(f.refuse({.ceilings = pins("tiny=q8_0")}).code, ErrorCode::Infeasible);
}

TEST(Constraints, RuntimesLeaveOutWhatIsSlowThere) {
  const Fixture f;
  const Constraints cpu = f.resolve({.runtime = Runtime::Cpu, .importance = f.all()});
  for (const Format format : f.of(cpu, "blk.0.attn_q.weight").formats)
    EXPECT_TRUE(std::ranges::find(slow_formats(Runtime::Cpu), format) == slow_formats(Runtime::Cpu).end());
  EXPECT_EQ(f.of(cpu, "blk.0.attn_q.weight").formats.size(), default_candidate_formats().size() - 7);
  const Constraints cuda = f.resolve({.runtime = Runtime::Cuda, .importance = f.all()});
  EXPECT_EQ(f.of(cuda, "blk.0.attn_q.weight").formats.size(), default_candidate_formats().size());
  // A pool or pin given explicitly stands.
  const Constraints chosen = f.resolve(
      {.pins = pins("attn_k=iq3_s"), .pool = {Format::IQ3_S, Format::Q4_K}, .runtime = Runtime::Cpu});
  EXPECT_THAT(f.of(chosen, "blk.0.attn_q.weight").formats, ElementsAre(Format::IQ3_S, Format::Q4_K));
  EXPECT_THAT(f.of(chosen, "blk.0.attn_k.weight").formats, ElementsAre(Format::IQ3_S));
  EXPECT_EQ(parse_runtime("CUDA"), Runtime::Cuda);
  EXPECT_EQ(parse_runtime("cudax"), std::nullopt);
}

TEST(Constraints, TiesJoinTensorsOfOneLayer) {
  const Fixture f;
  ConstraintRules rules{.pool = {Format::Q4_K, Format::Q5_K, Format::Q6_K}};
  rules.ties.push_back(pattern("ffn_(gate|up)"));
  rules.floors = pins("blk\\.1\\.ffn_up=q5_K");
  const Constraints c = f.resolve(rules);
  ASSERT_EQ(c.groups.size(), 3U);
  EXPECT_THAT(c.groups[0].tensors,
              ElementsAre(f.index("blk.0.ffn_gate.weight"), f.index("blk.0.ffn_up.weight")));
  EXPECT_EQ(c.groups[0].name, "blk.0 ffn_(gate|up)");
  EXPECT_EQ(c.groups[0].formats.size(), 3U);
  EXPECT_THAT(c.groups[1].formats, ElementsAre(Format::Q5_K, Format::Q6_K));
  EXPECT_THAT(f.of(c, "blk.1.ffn_gate.weight").formats, ElementsAre(Format::Q5_K, Format::Q6_K));
  EXPECT_EQ(f.of(c, "blk.1.ffn_gate.weight").group, 1U);
  EXPECT_EQ(f.of(c, "blk.1.ffn_down.weight").group, std::nullopt);
}

TEST(Constraints, OverlappingTiesMerge) {
  const Fixture f;
  ConstraintRules rules;
  rules.ties.push_back(pattern("ffn_(gate|up)"));
  rules.ties.push_back(pattern("ffn_(up|down)"));
  rules.ties.push_back(pattern("blk\\.0\\.(attn_q|attn_k)|^output|^token"));
  rules.ties.push_back(pattern("nothing"));
  const Constraints c = f.resolve(rules);
  ASSERT_EQ(c.groups.size(), 5U);  // output with embedding, attention of layer 0, three feed-forwards
  EXPECT_EQ(c.groups[0].tensors.size(), 2U);
  EXPECT_EQ(c.groups[2].tensors.size(), 3U);
  ASSERT_EQ(c.notes.size(), 1U);
  EXPECT_THAT(c.notes[0], HasSubstr("'nothing'"));
}

TEST(Constraints, TiesWithoutCommonFormatAreRefused) {
  const Fixture f;
  ConstraintRules rules{.pins = pins("ffn_gate=q4_K ffn_up=q5_K")};
  rules.ties.push_back(pattern("ffn_(gate|up)"));
  const Error error = f.refuse(rules);
  EXPECT_EQ(error.code, ErrorCode::Infeasible);
  EXPECT_THAT(error.message, HasSubstr("blk.0.ffn_up.weight"));
  EXPECT_THAT(error.message, HasSubstr("tie"));
}

TEST(Constraints, RulesThatApplyToNothingAreNoted) {
  const Fixture f;
  ConstraintRules rules{
      .pins = pins("ffn_dwon=q4_K attn_norm=q4_K"), .floors = pins("xyz=q4_K"), .ceilings = pins("uvw=q4_K")};
  EXPECT_THAT(f.resolve(rules).notes,
              ElementsAre(HasSubstr("ffn_dwon"), HasSubstr("attn_norm"), HasSubstr("xyz"), HasSubstr("uvw")));
}

TEST(Constraints, DecodeCostGrowsWithBitsInsideAClass) {
  for (const Runtime runtime : {Runtime::Cpu, Runtime::Cuda, Runtime::Metal, Runtime::Vulkan}) {
    EXPECT_EQ(decode_cost(Format::Q8_0, runtime), 1.0);
    EXPECT_LT(decode_cost(Format::Q4_K, runtime), decode_cost(Format::Q5_K, runtime));
    EXPECT_LT(decode_cost(Format::IQ2_XXS, runtime), decode_cost(Format::IQ2_S, runtime));
    EXPECT_LT(decode_cost(Format::Q4_K, runtime), decode_cost(Format::F16, runtime));
  }
  // The point of the table: on a CPU a codebook format is no faster than a larger plain one.
  EXPECT_GT(decode_cost(Format::IQ3_S, Runtime::Cpu), decode_cost(Format::Q4_K, Runtime::Cpu));
  EXPECT_LT(decode_cost(Format::IQ3_S, Runtime::Cuda), decode_cost(Format::Q4_K, Runtime::Cuda));
}

TEST(Constraints, ReadSharesCountActiveExpertsAndTheHead) {
  const test::ModelShape shape = test::qwen3_30b_a3b();
  const ModelTraits model = model_traits(shape.metadata, shape.tensors).value();
  const auto shares = read_shares(model, shape.tensors);
  EXPECT_NEAR(std::accumulate(shares.begin(), shares.end(), 0.0), 1, 1e-12);
  const auto share = [&](std::string_view name) {
    return shares[static_cast<std::size_t>(std::ranges::find(shape.tensors, name, &TensorInfo::name) -
                                           shape.tensors.begin())];
  };
  EXPECT_EQ(share("token_embd.weight"), 0);
  // 8 experts of 768 x 2048 against a query projection of 2048 x 4096.
  EXPECT_NEAR(share("blk.0.ffn_up_exps.weight") / share("blk.0.attn_q.weight"), 1.5, 1e-12);
  const test::ModelShape gemma = test::gemma3_27b();
  const auto tied = read_shares(model_traits(gemma.metadata, gemma.tensors).value(), gemma.tensors);
  EXPECT_GT(tied[0], 0.04);
  EXPECT_TRUE(read_shares(model, {}).empty());
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/planning/sensitivity.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/support/test_paths.h"

namespace quantfit::optimizer {
namespace {

TensorInfo matrix(std::string name) {
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.n_dims = 2;
  tensor.ne = {256, 256, 1, 1};
  return tensor;
}

std::vector<TensorInfo> matrices(const std::vector<std::string>& names) {
  std::vector<TensorInfo> tensors;
  for (const std::string& name : names) tensors.push_back(matrix(name));
  return tensors;
}

ModelTraits model_of(std::string architecture, std::uint32_t layers, std::uint32_t experts, bool tied) {
  ModelTraits model;
  model.architecture = std::move(architecture);
  model.block_count = layers;
  model.expert_count = experts;
  model.tied = tied;
  return model;
}

TEST(Sensitivity, TableIsTheCsv) {
  std::ifstream in(test::data_dir().parent_path().parent_path() / "optimizer" / "planning" /
                   "role_alpha.csv");
  ASSERT_TRUE(in);
  std::string line;
  std::getline(in, line);
  EXPECT_EQ(line, "group,role,alpha_geomean_vs_ffn_gate,min,max,n_models");
  std::size_t count = 0;
  while (std::getline(in, line)) {
    ASSERT_LT(count, role_alphas().size());
    const RoleAlpha& entry = role_alphas()[count++];
    EXPECT_EQ(line, fmt::format("{},{},{:.3f},{:.3f},{:.3f},{}", to_string(entry.group), entry.role,
                                entry.alpha, entry.min, entry.max, entry.models));
  }
  EXPECT_EQ(count, role_alphas().size());
}

TEST(Sensitivity, DependsOnTheGroup) {
  const auto tensors =
      matrices({"output.weight", "token_embd.weight", "blk.9.attn_k.weight", "blk.9.ffn_down.weight"});
  const auto untied = default_sensitivities(model_of("llama", 32, 0, false), tensors);
  EXPECT_EQ(untied[0].value, 56.957);
  EXPECT_EQ(untied[1].value, 10.891);
  EXPECT_EQ(untied[2].value, 0.280);
  EXPECT_EQ(untied[3].value, 1.267);
  EXPECT_EQ(untied[3].obtained, "prior dense_untied/ffn_down");
  const auto tied = default_sensitivities(model_of("llama", 32, 0, true), std::span(tensors).subspan(1));
  EXPECT_EQ(tied[0].value, 126.689);
  EXPECT_EQ(tied[1].value, 0.457);
  const auto moe = default_sensitivities(model_of("qwen3moe", 32, 128, false), tensors);
  EXPECT_EQ(moe[0].value, 49.029);
  EXPECT_EQ(moe[1].value, 17.295);
  // A tied expert model: its embedding is the head too.
  EXPECT_EQ(default_sensitivities(model_of("qwen3moe", 32, 128, true), tensors)[1].value, 126.689);
}

TEST(Sensitivity, SizeAndNumberOfExpertsDoNotEnter) {
  auto tensors = matrices({"blk.9.ffn_up_exps.weight", "blk.9.ffn_up_exps.weight"});
  tensors[1].ne = {4096, 4096, 256, 1};
  const auto values = default_sensitivities(model_of("qwen3moe", 32, 256, false), tensors);
  EXPECT_EQ(values[0].value, values[1].value);
  EXPECT_EQ(values[0].value, 1.006);
}

TEST(Sensitivity, FirstAndLastDownProjectionsWeighMore) {
  auto model = model_of("llama", 34, 0, false);
  model.nextn_layers = 2;
  const auto tensors = matrices({"blk.0.ffn_down.weight", "blk.1.ffn_down.weight", "blk.2.ffn_down.weight",
                                 "blk.31.ffn_down.weight", "blk.31.ffn_up.weight", "blk.32.ffn_down.weight"});
  const auto values = default_sensitivities(model, tensors);
  EXPECT_DOUBLE_EQ(values[0].value, 1.267 * 1.4);
  EXPECT_DOUBLE_EQ(values[1].value, 1.267 * 1.4);
  EXPECT_DOUBLE_EQ(values[2].value, 1.267);
  EXPECT_DOUBLE_EQ(values[3].value, 1.267 * 2.5);
  EXPECT_DOUBLE_EQ(values[4].value, 1.148);
  EXPECT_DOUBLE_EQ(values[5].value, 1.267 * 0.1);  // a next-token-prediction layer
  EXPECT_EQ(values[3].obtained, "prior dense_untied/ffn_down, last layer x2.5");
}

TEST(Sensitivity, DensePartsOfExpertModels) {
  const auto tensors = matrices({"blk.2.ffn_up.weight", "blk.3.ffn_up_exps.weight", "blk.3.ffn_up.weight",
                                 "blk.4.ffn_up.weight", "blk.3.ffn_up_shexp.weight"});
  const auto values = default_sensitivities(model_of("deepseek2", 61, 256, false), tensors);
  EXPECT_DOUBLE_EQ(values[0].value, 3.7);    // in front of the expert layers
  EXPECT_DOUBLE_EQ(values[2].value, 0.911);  // beside the experts of its layer: like a shared expert
  EXPECT_DOUBLE_EQ(values[3].value, unknown_role_alpha(SensitivityGroup::Moe));
  EXPECT_DOUBLE_EQ(values[4].value, 0.911);
}

TEST(Sensitivity, OtherFamiliesAndUnknownRoles) {
  EXPECT_NEAR(unknown_role_alpha(SensitivityGroup::DenseUntied), 0.73, 0.01);
  EXPECT_NEAR(unknown_role_alpha(SensitivityGroup::DenseTied), 0.90, 0.01);
  EXPECT_NEAR(unknown_role_alpha(SensitivityGroup::Moe), 1.07, 0.01);
  const auto tensors = matrices({"token_embd.weight", "blk.9.attn_v.weight", "blk.9.ffn_up.weight",
                                 "blk.9.strange.weight", "per_layer_token_embd.weight"});
  const auto gemma = default_sensitivities(model_of("gemma3", 62, 0, true), tensors);
  EXPECT_EQ(gemma[0].value, 10.5);
  EXPECT_EQ(gemma[1].value, 0.87);
  EXPECT_EQ(gemma[2].value, 1.393);
  EXPECT_EQ(gemma[3].value, unknown_role_alpha(SensitivityGroup::DenseTied));
  EXPECT_EQ(gemma[4].value, 10.891);
  const auto latent = matrices({"blk.9.attn_v_b.weight", "blk.9.attn_q_b.weight", "output.weight"});
  const auto deepseek = default_sensitivities(model_of("deepseek2", 61, 256, false), latent);
  EXPECT_EQ(deepseek[0].value, 1.27);
  EXPECT_EQ(deepseek[1].value, 1.486);
  EXPECT_EQ(deepseek[2].value, 24);
}

TEST(Sensitivity, RoleWeightsOfTheUserComeFirst) {
  std::vector<RoleWeight> weights;
  weights.push_back(parse_role_weight("ffn_(up|gate)=2.5").value());
  weights.push_back(parse_role_weight("ffn=0").value());
  const auto tensors = matrices({"blk.31.ffn_down.weight", "blk.9.ffn_up.weight", "blk.9.attn_k.weight"});
  const auto values = default_sensitivities(model_of("llama", 32, 0, false), tensors, weights);
  EXPECT_EQ(values[0].value, 0);
  EXPECT_EQ(values[1].value, 2.5);
  EXPECT_EQ(values[1].obtained, "role weight 'ffn_(up|gate)'");
  EXPECT_EQ(values[2].value, 0.280);
  EXPECT_EQ(parse_role_weight("a(?=b)=1e-3").value().pattern.text(), "a(?=b)");
  for (const char* bad :
       {"", "ffn", "=1", "ffn=", "ffn=x", "ffn=1x", "ffn=-1", "ffn=inf", "ffn=nan", "(=1", "a=1e999"}) {
    const auto refused = parse_role_weight(bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  }
}

}  // namespace
}  // namespace quantfit::optimizer

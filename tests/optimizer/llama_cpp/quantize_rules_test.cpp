#include "optimizer/llama_cpp/quantize_rules.h"

#include <gtest/gtest.h>

#include <vector>

namespace quantfit::optimizer {
namespace {

TensorInfo matrix(std::string name, Format format = Format::F16) {
  TensorInfo tensor;
  tensor.name = std::move(name);
  tensor.n_dims = 2;
  tensor.ne = {256, 4, 1, 1};
  tensor.format = format;
  return tensor;
}

TEST(QuantizeRules, MatricesOfWeightsAreQuantizedOthersKept) {
  for (const char* name :
       {"blk.0.attn_q.weight", "output.weight", "token_embd.weight", "blk.1.ffn_gate_inp_shexp.weight",
        "blk.0.ssm_in.weight", "enc.blk.0.attn_q.weight", "per_layer_token_embd.weight"}) {
    EXPECT_TRUE(quantizability(matrix(name)).quantizable) << name;
    EXPECT_TRUE(quantizability(matrix(name)).reason.empty());
  }
  for (const char* name : {"blk.0.attn_q_norm.weight",
                           "blk.0.ffn_gate_inp.weight",
                           "blk.0.altup_proj.weight",
                           "blk.0.laurel_l.weight",
                           "per_layer_model_proj.weight",
                           "position_embd.weight",
                           "token_types.weight",
                           "blk.0.ssm_conv1d.weight",
                           "blk.0.shortconv.conv.weight",
                           "blk.0.indexer.k_proj.weight",
                           "blk.0.indexer.q_proj.weight",
                           "blk.0.time_mix_first.weight",
                           "blk.0.time_mix_w1.weight",
                           "blk.0.time_mix_decay_w2.weight",
                           "blk.0.time_mix_lerp_fused.weight",
                           "dec.blk.0.attn_rel_b.weight",
                           "v.patch_embd.weight",
                           "v.position_embd.weight",
                           "blk.0.ssm_a",
                           "blk.0.attn_q.bias",
                           "blk.0.exp_probs_b.bias",
                           "blk.0.ffn_gate_tid2eid.weight"}) {
    EXPECT_FALSE(quantizability(matrix(name)).quantizable) << name;
    EXPECT_FALSE(quantizability(matrix(name)).reason.empty()) << name;
  }
  EXPECT_TRUE(quantizability(matrix("xtoken_types.weight")).quantizable);  // only the exact name
  EXPECT_FALSE(quantizability(matrix("blk.0.x.weight", Format::I32)).quantizable);
  EXPECT_FALSE(quantizability(matrix("output.weight"), true).quantizable);
  EXPECT_TRUE(quantizability(matrix("blk.0.attn_output.weight"), true).quantizable);
}

TEST(QuantizeRules, TrailingDimensionsOfOneDoNotCount) {
  TensorInfo tensor = matrix("blk.0.ffn_gate_inp_shexp.weight");
  tensor.ne = {2048, 1, 1, 1};
  EXPECT_FALSE(quantizability(tensor).quantizable);
  tensor.ne = {1, 1, 8, 1};
  EXPECT_TRUE(quantizability(tensor).quantizable);
}

TEST(QuantizeRules, QuantizedSourcesMustBeAllowed) {
  const std::vector<TensorInfo> good = {matrix("a.weight"), matrix("b_norm.weight", Format::Q8_0)};
  EXPECT_TRUE(check_sources(good, false));
  const std::vector<TensorInfo> bad = {matrix("a.weight"), matrix("blk.7.ffn_up.weight", Format::Q8_0)};
  EXPECT_TRUE(check_sources(bad, true));
  const auto refused = check_sources(bad, false);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
  EXPECT_NE(refused.error().message.find("blk.7.ffn_up.weight"), std::string::npos);
}

TEST(QuantizeRules, LowBitsNeedImportanceExceptInEmbeddingAndHead) {
  for (const Format format :
       {Format::IQ1_S, Format::IQ1_M, Format::IQ2_XXS, Format::IQ2_XS, Format::IQ2_S, Format::IQ3_XXS}) {
    EXPECT_TRUE(needs_importance(format, "blk.0.attn_q.weight"));
    EXPECT_FALSE(needs_importance(format, "token_embd.weight"));
    EXPECT_FALSE(needs_importance(format, "per_layer_token_embd.weight"));
    EXPECT_FALSE(needs_importance(format, "output.weight"));
  }
  for (const Format format : {Format::IQ3_S, Format::Q2_K, Format::Q4_K, Format::TQ1_0})
    EXPECT_FALSE(needs_importance(format, "blk.0.attn_q.weight"));
  EXPECT_TRUE(ignores_importance(Format::Q8_0));
  EXPECT_TRUE(ignores_importance(Format::MXFP4));
  EXPECT_FALSE(ignores_importance(Format::Q4_0));
}

TEST(QuantizeRules, RowLengthsThatDoNotFitGetASubstitute) {
  const auto fitted = [](Format wanted, std::uint64_t row) { return fit_row_length(wanted, row).format; };
  EXPECT_EQ(fitted(Format::Q4_K, 512), Format::Q4_K);
  EXPECT_FALSE(fit_row_length(Format::Q4_K, 512).substituted);
  EXPECT_EQ(fitted(Format::Q4_K, 288), Format::Q5_0);
  EXPECT_EQ(fitted(Format::Q5_K, 288), Format::Q5_1);
  EXPECT_EQ(fitted(Format::Q6_K, 288), Format::Q8_0);
  EXPECT_EQ(fitted(Format::Q2_K, 288), Format::Q4_0);
  EXPECT_EQ(fitted(Format::IQ1_S, 288), Format::IQ4_NL);
  EXPECT_EQ(fitted(Format::Q2_0, 32), Format::Q4_0);
  EXPECT_EQ(fitted(Format::Q4_K, 100), Format::F16);
  EXPECT_FALSE(fit_row_length(Format::Q4_K, 100).refused_by_llama_cpp);
  for (const Format format : {Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0,
                              Format::IQ4_NL, Format::MXFP4, Format::NVFP4, Format::Q1_0}) {
    EXPECT_EQ(fitted(format, 100), Format::F16);
    EXPECT_TRUE(fit_row_length(format, 100).refused_by_llama_cpp);
  }
  EXPECT_FALSE(fit_row_length(Format::F16, 1).substituted);
}

TEST(QuantizeRules, TensorsWithoutElementsAreKept) {
  TensorInfo tensor;
  tensor.name = "blk.0.ffn_up.weight";
  tensor.n_dims = 2;
  tensor.ne = {0, std::uint64_t{1} << 40, 1, 1};
  tensor.format = Format::F16;
  EXPECT_FALSE(quantizability(tensor).quantizable);
  EXPECT_EQ(quantizability(tensor).reason, "no elements");
  tensor.ne = {256, 0, 1, 1};
  EXPECT_FALSE(quantizability(tensor).quantizable);
  tensor.ne = {256, 1 << 10, 1, 1};
  EXPECT_TRUE(quantizability(tensor).quantizable);
}

}  // namespace
}  // namespace quantfit::optimizer

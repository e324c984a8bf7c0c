#include "optimizer/llama_cpp/tensor_role.h"

#include <gtest/gtest.h>

namespace quantfit::optimizer {
namespace {

TEST(TensorRole, RecipeRolesFollowTheOrderOfTheirTests) {
  EXPECT_EQ(recipe_role("output.weight"), RecipeRole::Output);
  EXPECT_EQ(recipe_role("token_embd.weight"), RecipeRole::Embed);
  EXPECT_EQ(recipe_role("per_layer_token_embd.weight"), RecipeRole::Embed);
  EXPECT_EQ(recipe_role("blk.0.attn_qkv.weight"), RecipeRole::Qkv);
  EXPECT_EQ(recipe_role("blk.0.attn_kv_b.weight"), RecipeRole::Kvb);
  EXPECT_EQ(recipe_role("blk.0.attn_v.weight"), RecipeRole::V);
  EXPECT_EQ(recipe_role("blk.0.attn_k.weight"), RecipeRole::K);
  EXPECT_EQ(recipe_role("blk.0.attn_q.weight"), RecipeRole::Q);
  EXPECT_EQ(recipe_role("blk.0.attn_output.weight"), RecipeRole::O);
  EXPECT_EQ(recipe_role("blk.0.ffn_up_shexp.weight"), RecipeRole::Up);
  EXPECT_EQ(recipe_role("blk.0.ffn_gate_up_exps.weight"), RecipeRole::Gate);
  EXPECT_EQ(recipe_role("blk.0.ffn_down_exps.weight"), RecipeRole::Down);
  for (const char* other : {"blk.0.attn_q_a.weight", "blk.0.attn_q_b.weight", "blk.0.attn_k_b.weight",
                            "blk.0.attn_v_b.weight", "blk.0.attn_kv_a_mqa.weight", "blk.0.attn_gate.weight",
                            "blk.0.ssm_in.weight", "output_norm.weight", "xoutput.weight", ""})
    EXPECT_EQ(recipe_role(other), RecipeRole::Other) << other;
}

TEST(TensorRole, LayerIsTheNumberOfTheBlock) {
  EXPECT_EQ(layer_of("blk.0.attn_q.weight"), 0u);
  EXPECT_EQ(layer_of("blk.127.ffn_down.weight"), 127u);
  EXPECT_EQ(layer_of("blk.4294967295.x"), 4294967295u);
  for (const char* none : {"token_embd.weight", "blk.", "blk.1", "blk..x", "blk.-1.x", "blk.1x.y",
                           "enc.blk.1.x", "blk.4294967296.x", "xblk.1.y", ""})
    EXPECT_EQ(layer_of(none), std::nullopt) << none;
}

TEST(TensorRole, RoleIsTheNameWithoutLayerAndSuffix) {
  EXPECT_EQ(tensor_role("blk.12.ffn_down_exps.weight"), "ffn_down_exps");
  EXPECT_EQ(tensor_role("blk.12.attn_q.bias"), "attn_q.bias");
  EXPECT_EQ(tensor_role("enc.blk.3.attn_q.weight"), "attn_q");
  EXPECT_EQ(tensor_role("dec.output_norm.weight"), "dec.output_norm");
  EXPECT_EQ(tensor_role("output.weight"), "output");
  EXPECT_EQ(tensor_role(""), "");
  EXPECT_TRUE(is_routed_experts("blk.1.ffn_gate_up_exps.weight"));
  EXPECT_FALSE(is_routed_experts("blk.1.ffn_up_shexp.weight"));
}

}  // namespace
}  // namespace quantfit::optimizer

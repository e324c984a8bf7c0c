#include "tests/optimizer/engine/generated_families.h"

#include <algorithm>
#include <string>

namespace quantfit::test {
namespace {

using QkNorm = GeneratedShape::QkNorm;
using Uints = std::vector<std::uint32_t>;
const std::string kPostAttention = "post_attention_norm";
const std::string kPostFfn = "post_ffw_norm";

}  // namespace

std::vector<GeneratedShape> generated_families() {
  std::vector<GeneratedShape> out;
  const auto add = [&](GeneratedShape shape) {
    if (shape.name.empty()) shape.name = shape.architecture;
    for (char& c : shape.name)
      if (c == '-' || c == '.') c = '_';
    out.push_back(std::move(shape));
  };
  const std::string linear = "linear", yarn = "yarn";

  // llama in several shapes.
  add({.name = "llama_all_heads_tied", .kv_heads = 4, .tied = true});
  add({.name = "llama_one_kv_head", .heads = 8, .kv_heads = 1, .head_dim = 4});
  add({.name = "llama_odd_sizes", .layers = 3, .width = 60, .heads = 6, .head_dim = 10, .ffn = 77});
  add({.name = "llama_biases", .qkv_bias = true, .output_bias = true, .ffn_bias = true});
  add({.name = "llama_linear_rope", .keys = {{"rope.scaling.type", linear}, {"rope.scaling.factor", 4.0F}}});
  add({.name = "llama_yarn",
       .keys = {{"rope.scaling.type", yarn},
                {"rope.scaling.factor", 8.0F},
                {"rope.scaling.original_context_length", 64U}}});
  add({.name = "llama_factors", .extra = {{"rope_freqs.weight", {4}, 0.5F, 2}}});
  add({.name = "mixtral", .experts = 5, .expert_ffn = 48});
  add({.name = "llama_many_experts", .experts = 16, .experts_used = 4, .expert_ffn = 48});

  // Plain families.
  for (const std::string architecture : {"internlm2", "xverse", "ernie4_5", "smollm3"})
    add({.architecture = architecture, .layers = 4});
  add({.architecture = "qwen2", .qkv_bias = true});
  add({.architecture = "qwen2vl",
       .qkv_bias = true,
       .keys = {{"rope.dimension_sections", Uints{2, 1, 1, 0}}}});
  add({.architecture = "exaone"});
  add({.architecture = "qwen",
       .kv_heads = 4,
       .fused_qkv = true,
       .qkv_bias = true,
       .keys = {{"feed_forward_length", 96U}}});
  add({.architecture = "seed_oss", .ffn_norm = kPostAttention, .qkv_bias = true});
  add({.architecture = "arcee", .gated = false});
  add({.architecture = "qwen3",
       .width = 48,
       .head_dim = 16,
       .write_head_dim = true,
       .qk_norm = QkNorm::PerHead});
  add({.architecture = "qwen3vl",
       .qk_norm = QkNorm::PerHead,
       .keys = {{"rope.dimension_sections", Uints{2, 1, 1, 0}}}});
  add({.architecture = "hunyuan-dense",
       .qk_norm = QkNorm::PerHead,
       .keys = {{"rope.scaling.alpha", 1000.0F}}});
  add({.architecture = "minicpm",
       .keys = {{"embedding_scale", 12.0F}, {"residual_scale", 0.25F}, {"logit_scale", 9.0F}}});
  add({.name = "minicpm_defaults", .architecture = "minicpm"});
  add({.architecture = "chatglm",
       .fused_qkv = true,
       .qkv_bias = true,
       .fused_gate = true,
       .keys = {{"rope.dimension_count", 4U}}});

  // gemma.
  add({.architecture = "gemma", .head_dim = 16, .write_head_dim = true, .tied = true});
  add({.name = "gemma3_long",
       .architecture = "gemma3",
       .layers = 7,
       .head_dim = 16,
       .write_head_dim = true,
       .post_attn_norm = kPostAttention,
       .post_ffn_norm = kPostFfn,
       .qk_norm = QkNorm::PerHead,
       .tied = true,
       .keys = {{"attention.sliding_window", 6U},
                {"rope.freq_base", 1e6F},
                {"rope.scaling.type", linear},
                {"rope.scaling.factor", 8.0F}}});

  // Layer norms.
  add({.architecture = "phi2",
       .layer_norm = true,
       .ffn_norm = "",
       .qkv_bias = true,
       .output_bias = true,
       .gated = false,
       .ffn_bias = true,
       .keys = {{"rope.dimension_count", 4U}},
       .extra = {{"output.bias", {40}, 0.2F}}});
  add({.architecture = "phimoe",
       .norm_bias = true,
       .qkv_bias = true,
       .output_bias = true,
       .experts = 4,
       .expert_ffn = 48,
       .extra = {{"output.bias", {40}, 0.2F}}});
  add({.architecture = "starcoder",
       .kv_heads = 1,
       .layer_norm = true,
       .fused_qkv = true,
       .qkv_bias = true,
       .output_bias = true,
       .gated = false,
       .ffn_bias = true,
       .extra = {{"position_embd.weight", {32, 4096}, 0.5F}}});
  add({.architecture = "starcoder2",
       .layer_norm = true,
       .qkv_bias = true,
       .output_bias = true,
       .gated = false,
       .ffn_bias = true});
  add({.name = "gptneox_sequential",
       .architecture = "gptneox",
       .kv_heads = 4,
       .layer_norm = true,
       .fused_qkv = true,
       .qkv_bias = true,
       .output_bias = true,
       .gated = false,
       .ffn_bias = true,
       .keys = {{"use_parallel_residual", false}, {"rope.dimension_count", 4U}}});
  add({.name = "falcon_one_norm",
       .architecture = "falcon",
       .kv_heads = 1,
       .layer_norm = true,
       .ffn_norm = "",
       .fused_qkv = true,
       .gated = false});
  add({.name = "falcon_two_norms",
       .architecture = "falcon",
       .layer_norm = true,
       .ffn_norm = "attn_norm_2",
       .fused_qkv = true,
       .gated = false});
  add({.name = "stablelm_parallel",
       .architecture = "stablelm",
       .layer_norm = true,
       .ffn_norm = "",
       .qk_norm = QkNorm::OwnPerHead,
       .keys = {{"rope.dimension_count", 4U}, {"use_parallel_residual", true}}});
  add({.architecture = "orion", .layer_norm = true});
  add({.architecture = "nemotron",
       .layer_norm = true,
       .gated = false,
       .keys = {{"rope.dimension_count", 4U}}});
  add({.architecture = "command-r",
       .layer_norm = true,
       .ffn_norm = "",
       .tied = true,
       .keys = {{"logit_scale", 0.25F}},
       .without = {"norm.bias"}});
  add({.architecture = "olmo",
       .layer_norm = true,
       .keys = {{"attention.clamp_kqv", 0.7F}},
       .without = {"norm.weight", "norm.bias"}});
  add({.architecture = "bloom",
       .kv_heads = 4,
       .layer_norm = true,
       .fused_qkv = true,
       .qkv_bias = true,
       .output_bias = true,
       .gated = false,
       .ffn_bias = true,
       .extra = {{"token_embd_norm.weight", {32}, 0.2F, 1}, {"token_embd_norm.bias", {32}, 0.1F}}});
  add({.architecture = "mpt",
       .kv_heads = 4,
       .layer_norm = true,
       .fused_qkv = true,
       .gated = false,
       .tied = true,
       .keys = {{"attention.max_alibi_bias", 8.0F}, {"attention.clamp_kqv", 2.0F}},
       .without = {"norm.bias"}});
  add({.architecture = "refact", .kv_heads = 1});
  add({.name = "baichuan_rope", .architecture = "baichuan", .layers = 32, .kv_heads = 4});
  add({.name = "baichuan_alibi", .architecture = "baichuan", .layers = 40, .kv_heads = 4});
  add({.architecture = "dbrx",
       .layer_norm = true,
       .ffn_norm = "attn_output_norm",
       .fused_qkv = true,
       .experts = 4,
       .expert_ffn = 48,
       .keys = {{"attention.clamp_kqv", 2.0F}},
       .without = {"norm.bias"}});

  // Norms after, windows, positions in some layers.
  add({.name = "olmo2_plain",
       .architecture = "olmo2",
       .attn_norm = "",
       .post_attn_norm = kPostAttention,
       .ffn_norm = "",
       .post_ffn_norm = kPostFfn,
       .qk_norm = QkNorm::WholeRow});
  add({.name = "olmo3",
       .architecture = "olmo2",
       .layers = 4,
       .attn_norm = "",
       .post_attn_norm = kPostAttention,
       .ffn_norm = "",
       .post_ffn_norm = kPostFfn,
       .qk_norm = QkNorm::WholeRow,
       .keys = {{"attention.sliding_window", 6U},
                {"rope.scaling.type", yarn},
                {"rope.scaling.factor", 8.0F},
                {"rope.scaling.original_context_length", 64U}}});
  add({.architecture = "exaone4",
       .layers = 3,
       .attn_norm = "",
       .post_attn_norm = kPostAttention,
       .ffn_norm = "",
       .post_ffn_norm = kPostFfn,
       .qk_norm = QkNorm::PerHead});
  add({.name = "exaone4_windows",
       .architecture = "exaone4",
       .layers = 64,
       .attn_norm = "",
       .post_attn_norm = kPostAttention,
       .ffn_norm = "",
       .post_ffn_norm = kPostFfn,
       .qk_norm = QkNorm::PerHead,
       .keys = {{"attention.sliding_window", 6U}}});
  add({.architecture = "apertus",
       .qk_norm = QkNorm::PerHead,
       .gated = false,
       .keys = {{":xielu.alpha_n", 0.6F},
                {":xielu.alpha_p", 0.9F},
                {":xielu.beta", 0.5F},
                {":xielu.eps", -1e-6F}}});
  add({.architecture = "plamo3",
       .layers = 9,
       .fused_qkv = true,
       .qk_norm = QkNorm::PerHead,
       .fused_gate = true,
       .keys = {{"attention.sliding_window", 6U}, {"rope.freq_base", 50000.0F}},
       .extra = {{"blk.*.post_attention_norm", {32}, 0.2F, 1}, {"blk.*.post_ffw_norm", {32}, 0.2F, 1}}});

  // Experts.
  add({.architecture = "granitemoe",
       .experts = 5,
       .expert_ffn = 48,
       .shared_ffn = 20,
       .tied = true,
       .keys = {{"logit_scale", 4.0F},
                {"residual_scale", 0.3F},
                {"embedding_scale", 6.0F},
                {"attention.scale", 0.1F}}});
  add({.architecture = "exaone-moe",
       .layers = 5,
       .qk_norm = QkNorm::PerHead,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .choice_bias = true,
       .keys = {{"attention.sliding_window", 6U},
                {"expert_shared_count", 1U},
                {"expert_gating_func", 2U},
                {"expert_weights_scale", 2.5F},
                {"expert_weights_norm", true}}});
  add({.architecture = "ernie4_5-moe",
       .layers = 3,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .choice_bias = true,
       .keys = {{"interleave_moe_layer_step", 1U}, {"expert_shared_count", 1U}}});
  add({.architecture = "hy_v3",
       .layers = 3,
       .qk_norm = QkNorm::PerHead,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .keys = {{"expert_weights_scale", 2.5F}, {"expert_weights_norm", true}, {"expert_shared_count", 1U}},
       .extra = {{"blk.1.exp_probs_b", {6}, 0.3F}, {"blk.2.exp_probs_b", {6}, 0.3F}}});
  add({.architecture = "bailingmoe",
       .experts = 6,
       .shared_ffn = 24,
       .keys = {{"expert_weights_scale", 1.5F},
                {"expert_weights_norm", true},
                {"expert_shared_count", 1U},
                {"leading_dense_block_count", 0U},
                {"rope.dimension_count", 8U}}});
  add({.architecture = "bailingmoe2",
       .layers = 3,
       .fused_qkv = true,
       .qk_norm = QkNorm::PerHead,
       .experts = 8,
       .shared_ffn = 24,
       .leading_dense = 1,
       .choice_bias = true,
       .keys = {{"expert_weights_scale", 2.5F},
                {"expert_weights_norm", true},
                {"expert_shared_count", 1U},
                {"expert_gating_func", 2U},
                {"expert_group_count", 4U},
                {"expert_group_used_count", 2U},
                {"rope.dimension_count", 4U}}});
  add({.architecture = "minimax-m2",
       .head_dim = 16,
       .write_head_dim = true,
       .qk_norm = QkNorm::WholeRow,
       .experts = 6,
       .expert_ffn = 48,
       .choice_bias = true,
       .keys = {{"expert_gating_func", 2U}, {"rope.dimension_count", 8U}}});
  add({.architecture = "dots1",
       .layers = 3,
       .kv_heads = 4,
       .qk_norm = QkNorm::PerHead,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .choice_bias = true,
       .keys = {{"expert_weights_scale", 2.5F},
                {"expert_weights_norm", true},
                {"expert_shared_count", 1U},
                {"expert_gating_func", 2U}}});
  add({.architecture = "grok",
       .post_attn_norm = "attn_output_norm",
       .post_ffn_norm = kPostFfn,
       .experts = 4,
       .expert_ffn = 48,
       .tied = true});
  add({.architecture = "smallthinker",
       .layers = 5,
       .experts = 6,
       .keys = {{"attention.sliding_window", 4096U}, {"expert_gating_func", 2U}}});
  add({.architecture = "mimo2",
       .layers = 4,
       .experts = 6,
       .choice_bias = true,
       .keys = {{"attention.sliding_window", 6U},
                {"attention.sliding_window_pattern", Uints{0, 1, 1, 0}},
                {"expert_gating_func", 2U},
                {"rope.freq_base_swa", 20000.0F},
                {"attention.value_scale", 0.7F}},
       .extra = {{"blk.*.attn_sinks.weight", {4}, 1}}});
  add({.architecture = "laguna",
       .layers = 5,
       .qk_norm = QkNorm::PerHead,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .choice_bias = true,
       .keys = {{"attention.sliding_window", 6U},
                {"expert_gating_func", 2U},
                {"expert_weights_scale", 2.5F},
                {"expert_weights_norm", true},
                {"rope.freq_base_swa", 20000.0F}},
       .extra = {{"blk.*.attn_gate.weight", {32, 4}}}});
  add({.architecture = "cohere2moe",
       .layers = 5,
       .layer_norm = true,
       .ffn_norm = "",
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .tied = true,
       .keys = {{"attention.sliding_window", 6U},
                {"logit_scale", 0.25F},
                {"expert_gating_func", 2U},
                {"expert_weights_norm", true},
                {"expert_shared_count", 1U}},
       .without = {"norm.bias"}});
  add({.architecture = "lfm2moe",
       .layers = 3,
       .output_norm = "token_embd_norm",
       .qk_norm = QkNorm::PerHead,
       .experts = 6,
       .leading_dense = 1,
       .choice_bias = true,
       .tied = true,
       .keys = {{"expert_gating_func", 2U},
                {"shortconv.l_cache", 3U},
                {"attention.head_count_kv", Uints{0, 2, 2}}},
       .extra = {{"blk.0.shortconv.conv.weight", {3, 32}},
                 {"blk.0.shortconv.in_proj.weight", {32, 96}},
                 {"blk.0.shortconv.out_proj.weight", {32, 32}}},
       .without = {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight",
                   "blk.0.attn_output.weight", "blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"}});
  // Latent attention, with keys and values spelled out in one matrix, and with a temperature.
  const std::vector<std::string> no_attention = {"attn_q.weight", "attn_k.weight", "attn_v.weight"};
  add({.name = "deepseek2_expanded",
       .architecture = "deepseek2",
       .layers = 3,
       .kv_heads = 4,
       .head_dim = 10,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .keys = {{"attention.kv_lora_rank", 12U},
                {"attention.q_lora_rank", 14U},
                {"attention.key_length", 16U},
                {"attention.value_length", 10U},
                {"rope.dimension_count", 8U},
                {"expert_shared_count", 1U},
                {"expert_weights_scale", 1.0F}},
       .extra = {{"blk.*.attn_kv_a_mqa.weight", {32, 20}},
                 {"blk.*.attn_kv_a_norm.weight", {12}, 0.2F, 1},
                 {"blk.*.attn_kv_b.weight", {12, 72}},
                 {"blk.*.attn_q_a.weight", {32, 14}},
                 {"blk.*.attn_q_a_norm.weight", {14}, 0.2F, 1},
                 {"blk.*.attn_q_b.weight", {14, 64}}},
       .without = no_attention});
  add({.architecture = "mistral4",
       .layers = 3,
       .kv_heads = 1,
       .head_dim = 10,
       .experts = 6,
       .shared_ffn = 24,
       .leading_dense = 1,
       .keys = {{"attention.kv_lora_rank", 12U},
                {"attention.q_lora_rank", 14U},
                {"attention.key_length", 20U},
                {"attention.value_length", 12U},
                {"attention.key_length_mla", 16U},
                {"attention.value_length_mla", 10U},
                {"rope.dimension_count", 8U},
                {"expert_shared_count", 1U},
                {"attention.temperature_scale", 0.1F},
                {"attention.temperature_length", 8U},
                {"expert_weights_norm", true}},
       .extra = {{"blk.*.attn_kv_a_mqa.weight", {32, 20}},
                 {"blk.*.attn_kv_a_norm.weight", {12}, 0.2F, 1},
                 {"blk.*.attn_k_b.weight", {8, 12, 4}},
                 {"blk.*.attn_v_b.weight", {12, 10, 4}},
                 {"blk.*.attn_q_a.weight", {32, 14}},
                 {"blk.*.attn_q_a_norm.weight", {14}, 0.2F, 1},
                 {"blk.*.attn_q_b.weight", {14, 64}}},
       .without = no_attention});

  // Delta nets whose value heads are grouped by key head; attention in the last block.
  GeneratedShape next{.architecture = "qwen3next",
                      .layers = 4,
                      .head_dim = 16,
                      .write_head_dim = true,
                      .ffn_norm = kPostAttention,
                      .experts = 6,
                      .shared_ffn = 20,
                      .shared_gate = true,
                      .keys = {{"rope.dimension_count", 8U},
                               {"ssm.conv_kernel", 4U},
                               {"ssm.inner_size", 32U},
                               {"ssm.state_size", 8U},
                               {"ssm.time_step_rank", 4U},
                               {"ssm.group_count", 2U}},
                      .without = {"blk.3.attn_q.weight"}};
  for (const std::string block : {"blk.0.", "blk.1.", "blk.2."}) {
    for (ExtraTensor tensor : std::vector<ExtraTensor>{{"attn_qkv.weight", {32, 64}},
                                                       {"attn_gate.weight", {32, 32}},
                                                       {"ssm_conv1d.weight", {4, 64}},
                                                       {"ssm_dt.bias", {4}, 0.5F},
                                                       {"ssm_a", {4}, 0.2F, -1},
                                                       {"ssm_ba.weight", {32, 8}},
                                                       {"ssm_norm.weight", {8}, 0.2F, 1},
                                                       {"ssm_out.weight", {32, 32}}}) {
      tensor.name = block + tensor.name;
      next.extra.push_back(tensor);
    }
    for (const std::string name : {"attn_q", "attn_k", "attn_v", "attn_output"})
      next.without.push_back(block + name + ".weight");
  }
  for (ExtraTensor tensor : std::vector<ExtraTensor>{{"attn_q.weight", {32, 128}},
                                                     {"attn_q_norm.weight", {16}, 0.2F, 1},
                                                     {"attn_k_norm.weight", {16}, 0.2F, 1}}) {
    tensor.name = "blk.3." + tensor.name;
    next.extra.push_back(tensor);
  }
  add(next);

  add({.architecture = "qwen3vlmoe",
       .qk_norm = QkNorm::PerHead,
       .experts = 6,
       .keys = {{"rope.dimension_sections", Uints{2, 1, 1, 0}}}});
  add({.name = "command_r_plus",
       .architecture = "command-r",
       .layers = 64,
       .layer_norm = true,
       .ffn_norm = "",
       .qk_norm = QkNorm::OwnPerHead,
       .tied = true,
       .keys = {{"logit_scale", 0.25F}},
       .without = {"norm.bias"}});

  // One branch per block: state space, experts, attention, experts; the experts also between latent
  // projections.
  for (const bool latent : {false, true}) {
    const std::uint32_t inside = latent ? 16 : 32;
    GeneratedShape one{.architecture = "nemotron_h_moe",
                       .layers = 4,
                       .ffn = 0,
                       .ffn_norm = "",
                       .gated = false,
                       .keys = {{"attention.layer_norm_epsilon", 1e-5F},
                                {"feed_forward_length", Uints{0, 24, 0, 24}},
                                {"attention.head_count_kv", Uints{0, 0, 2, 0}},
                                {"ssm.conv_kernel", 4U},
                                {"ssm.inner_size", 64U},
                                {"ssm.state_size", 8U},
                                {"ssm.time_step_rank", 4U},
                                {"ssm.group_count", 2U},
                                {"expert_count", 6U},
                                {"expert_used_count", 2U},
                                {"expert_shared_count", 1U},
                                {"expert_feed_forward_length", 24U},
                                {"expert_shared_feed_forward_length", 20U},
                                {"expert_weights_norm", true},
                                {"expert_weights_scale", 2.5F}}};
    one.name = latent ? "nemotron_h_moe_latent" : "nemotron_h_moe";
    if (latent) one.keys.push_back({"moe_latent_size", inside});
    one.extra = {{"blk.0.ssm_in.weight", {32, 164}},          {"blk.0.ssm_conv1d.weight", {4, 96}},
                 {"blk.0.ssm_conv1d.bias", {96}, 0.2F},       {"blk.0.ssm_dt.bias", {4}, 0.5F},
                 {"blk.0.ssm_a", {1, 4}, 0.2F, -1},           {"blk.0.ssm_d", {1, 4}, 0.5F},
                 {"blk.0.ssm_norm.weight", {32, 2}, 0.2F, 1}, {"blk.0.ssm_out.weight", {64, 32}}};
    for (const std::string block : {"blk.1.", "blk.3."}) {
      for (ExtraTensor tensor : std::vector<ExtraTensor>{{"ffn_gate_inp.weight", {32, 6}},
                                                         {"exp_probs_b.bias", {6}, 0.3F},
                                                         {"ffn_up_exps.weight", {inside, 24, 6}},
                                                         {"ffn_down_exps.weight", {24, inside, 6}},
                                                         {"ffn_up_shexp.weight", {32, 20}},
                                                         {"ffn_down_shexp.weight", {20, 32}}}) {
        tensor.name = block + tensor.name;
        one.extra.push_back(tensor);
      }
      if (latent) {
        one.extra.push_back({block + "ffn_latent_down.weight", {32, inside}});
        one.extra.push_back({block + "ffn_latent_up.weight", {inside, 32}});
      }
    }
    for (const std::string block : {"blk.0.", "blk.1.", "blk.3."})
      for (const std::string name : {"attn_q", "attn_k", "attn_v", "attn_output"})
        one.without.push_back(block + name + ".weight");
    add(one);
  }
  add({.architecture = "hunyuan_vl",
       .qk_norm = QkNorm::PerHead,
       .keys = {{"rope.dimension_sections", Uints{2, 1, 1, 0}}, {"rope.scaling.alpha", 1000.0F}}});

  // 16-bit weights: llama.cpp rounds activations to them, so these are held to less.
  add({.name = "llama_half", .width = 64, .head_dim = 16, .format = Format::F16});
  add({.name = "llama_bfloat16", .width = 64, .head_dim = 16, .format = Format::BF16});
  return out;
}

}  // namespace quantfit::test

#include "optimizer/llama_cpp/quantize_rules.h"

#include <algorithm>
#include <array>

#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

struct NameRule {
  std::string_view text;
  bool whole_name;
  std::string_view reason;
};

constexpr std::string_view kRwkv = "a small RWKV matrix";
constexpr std::string_view kVision = "a part of a vision or audio tower";

// Matrices that stay although their names end with "weight".
constexpr std::array kNeverQuantized = {
    NameRule{"_norm.weight", false, "a norm"},
    NameRule{"ffn_gate_inp.weight", false, "an expert router"},
    NameRule{"ffn_gate_tid2eid.weight", false, "a table from tokens to experts"},
    NameRule{"altup", false, "a tiny side network"},
    NameRule{"laurel", false, "a tiny side network"},
    NameRule{"per_layer_model_proj", false, "a projection of per-layer embeddings"},
    NameRule{"position_embd.weight", true, "a position embedding"},
    NameRule{"token_types.weight", true, "a token type embedding"},
    NameRule{"ssm_conv1d", false, "a short convolution"},
    NameRule{"shortconv.conv.weight", false, "a short convolution"},
    NameRule{"indexer.k_proj.weight", false, "a projection of the sparse-attention indexer"},
    NameRule{"indexer.q_proj.weight", false, "a projection of the sparse-attention indexer"},
    NameRule{"time_mix_first.weight", false, kRwkv},
    NameRule{"time_mix_w0.weight", false, kRwkv},
    NameRule{"time_mix_w1.weight", false, kRwkv},
    NameRule{"time_mix_w2.weight", false, kRwkv},
    NameRule{"time_mix_v0.weight", false, kRwkv},
    NameRule{"time_mix_v1.weight", false, kRwkv},
    NameRule{"time_mix_v2.weight", false, kRwkv},
    NameRule{"time_mix_a0.weight", false, kRwkv},
    NameRule{"time_mix_a1.weight", false, kRwkv},
    NameRule{"time_mix_a2.weight", false, kRwkv},
    NameRule{"time_mix_g1.weight", false, kRwkv},
    NameRule{"time_mix_g2.weight", false, kRwkv},
    NameRule{"time_mix_decay_w1.weight", false, kRwkv},
    NameRule{"time_mix_decay_w2.weight", false, kRwkv},
    NameRule{"time_mix_lerp_fused.weight", false, kRwkv},
    NameRule{"attn_rel_b.weight", false, "a relative position bias"},
    NameRule{".position_embd", false, kVision},
    NameRule{"sam.pos_embd", false, kVision},
    NameRule{"sam.neck.", false, kVision},
    NameRule{"sam.net_", false, kVision},
    NameRule{".rel_pos", false, kVision},
    NameRule{".patch_embd", false, kVision},
    NameRule{".patch_merger", false, kVision},
    NameRule{"a.rvq.codebook", false, kVision},
    NameRule{"mm.a.code_embd", false, kVision},
};

struct Substitute {
  Format wanted;
  Format instead;
};

constexpr std::array kSubstitutes = {
    Substitute{Format::IQ1_S, Format::IQ4_NL},   Substitute{Format::IQ1_M, Format::IQ4_NL},
    Substitute{Format::IQ2_XXS, Format::IQ4_NL}, Substitute{Format::IQ2_XS, Format::IQ4_NL},
    Substitute{Format::IQ2_S, Format::IQ4_NL},   Substitute{Format::IQ3_XXS, Format::IQ4_NL},
    Substitute{Format::IQ3_S, Format::IQ4_NL},   Substitute{Format::IQ4_XS, Format::IQ4_NL},
    Substitute{Format::Q2_0, Format::Q4_0},      Substitute{Format::Q2_K, Format::Q4_0},
    Substitute{Format::Q3_K, Format::Q4_0},      Substitute{Format::TQ1_0, Format::Q4_0},
    Substitute{Format::TQ2_0, Format::Q4_0},     Substitute{Format::Q4_K, Format::Q5_0},
    Substitute{Format::Q5_K, Format::Q5_1},      Substitute{Format::Q6_K, Format::Q8_0},
};

constexpr std::array kIgnoreImportance = {Format::F32,   Format::F16,  Format::BF16,  Format::Q8_0,
                                          Format::Q1_0,  Format::Q2_0, Format::TQ1_0, Format::TQ2_0,
                                          Format::MXFP4, Format::NVFP4};

bool fits(Format format, std::uint64_t row_length) {
  return row_length % traits(format).block_len == 0;
}

}  // namespace

Quantizability quantizability(const TensorInfo& tensor, bool leave_output_tensor) {
  if (tensor.elements() == 0) return {false, "no elements"};
  if (tensor.significant_dims() < 2) return {false, "a vector"};
  if (!tensor.name.ends_with("weight")) return {false, "not a weight"};
  for (const NameRule& rule : kNeverQuantized)
    if (rule.whole_name ? tensor.name == rule.text : tensor.name.find(rule.text) != std::string::npos)
      return {false, rule.reason};
  if (leave_output_tensor && tensor.name == "output.weight")
    return {false, "the output head, left alone on request"};
  const FormatKind kind = traits(tensor.format).kind;
  if (kind == FormatKind::Integer || kind == FormatKind::Runtime)
    return {false, "a table of integers or doubles"};
  return {true, {}};
}

bool stays_in_state_space(std::string_view tensor_name) {
  const std::string_view role = tensor_role(tensor_name);
  return role == "ssm_alpha" || role == "ssm_beta" || role == "ssm_ba";
}

bool is_of_a_tower(std::string_view tensor_name) {
  constexpr std::string_view kTowers[] = {"v.", "a.", "mm.", "resampler."};
  return std::ranges::any_of(kTowers, [&](std::string_view tower) { return tensor_name.starts_with(tower); });
}

Result<void> check_sources(std::span<const TensorInfo> tensors, bool allow_requantize) {
  if (allow_requantize) return outcome::success();
  for (const TensorInfo& tensor : tensors)
    if (is_quantized(tensor.format) && quantizability(tensor).quantizable)
      return fail(
          ErrorCode::InvalidArgument,
          "tensor '{}' is already quantized as {}: quantizing it again loses quality and must be allowed "
          "explicitly",
          tensor.name, name_of(tensor.format));
  return outcome::success();
}

bool needs_importance(Format format, std::string_view tensor_name) {
  return traits(format).needs_importance && tensor_name != "token_embd.weight" &&
         tensor_name != "per_layer_token_embd.weight" && tensor_name != "output.weight";
}

bool ignores_importance(Format format) {
  return std::ranges::find(kIgnoreImportance, format) != kIgnoreImportance.end();
}

std::optional<Format> row_length_substitute(Format format) {
  for (const Substitute& substitute : kSubstitutes)
    if (substitute.wanted == format) return substitute.instead;
  return std::nullopt;
}

FittedFormat fit_row_length(Format wanted, std::uint64_t row_length) {
  if (fits(wanted, row_length)) return {wanted, false, false};
  const auto substitute = row_length_substitute(wanted);
  if (!substitute) return {Format::F16, true, true};
  return {fits(*substitute, row_length) ? *substitute : Format::F16, true, false};
}

}  // namespace quantfit::optimizer

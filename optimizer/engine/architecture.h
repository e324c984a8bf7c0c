// What a family of models does, as data: one row per value of `general.architecture`.
//
// A row holds no numbers of a file, only rules: which norms stand where, how heads are rotated, how experts
// are chosen. graph.h joins a row with a file. Adding a family whose parts exist is a row in architecture.cpp
// and a small model with recorded logits in the tests. architectures.md says which families are covered and
// what was checked.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace quantfit::engine {

enum class NormKind : std::uint8_t {
  Rms,
  Layer,
  LayerWithoutWeights,  // olmo: no tensors at all
  RmsOrLayer,           // whichever epsilon the file gives
};

// How the branches of a block meet.
enum class Residual : std::uint8_t {
  Sequential,              // h = x + mixer(norm(x)); x = h + ffn(norm(h))
  Parallel,                // x + mixer(norm(x)) + ffn(norm(x)), with the same norm where ffn_norm is empty
  ParallelByKey,           // gptneox: as Parallel if `use_parallel_residual`, else Sequential
  ParallelWithoutFfnNorm,  // stablelm: Sequential where the block has an ffn norm, else Parallel
  OneBranch,               // nemotron_h: each block is a mixer or an ffn, never both
};

enum class QkNorm : std::uint8_t {
  None,
  PerHead,             // before rope; weights shared by the heads, or one row of weights per head
  PerHeadAfterRope,    // hunyuan
  WholeRow,            // olmo2: over all heads together, before rope
  UnweightedAfterRope  // llama4: RMS without weights, in layers with rope, unless the model has 128 experts
};

enum class Rope : std::uint8_t {
  None,
  Interleaved,  // pairs (2i, 2i + 1)
  Neox,         // pairs (i, i + n / 2)
};

enum class RopeLayers : std::uint8_t {
  All,
  NotEveryFourth,   // none where (layer + 1) % 4 == 0
  NotFirstOfFour,   // smallthinker: none where layer % 4 == 0, if the file names a window
  WindowOnly,       // layers that see everything have no positions
  WindowIfAny,      // exaone4: WindowOnly in models with windows, else All
  WindowAndLeading  // cohere2moe: windows, and leading dense layers
};

enum class WindowShape : std::uint8_t { Sliding, Chunked };

// Which layers see only the last `attention.sliding_window` tokens.
struct WindowTraits {
  std::uint32_t default_tokens = 0;  // where the file has no key; 0: then no windows
  std::uint32_t period = 0;  // the last layer of `period` sees everything; 0: no windows; 1: all have them
  bool dense_first = false;  // the first of each period sees everything instead of the last
  bool period_from_key = false;    // a scalar `attention.sliding_window_pattern` replaces `period`
  bool layers_from_array = false;  // an array `attention.sliding_window_pattern` names the layers
  bool own_rope_base =
      false;  // windows rotate with base 10000, unscaled, where `rope.freq_base_swa` is absent
  bool rope_unscaled = false;       // windows rotate without scaling and without yarn, with the global base
  std::uint32_t only_layers = 0;    // windows exist only in models of that many layers; 0: in all
  std::uint32_t forced_tokens = 0;  // llama4: that many whatever the key says, unless the key is 0
  WindowShape shape = WindowShape::Sliding;
};

enum class Activation : std::uint8_t {
  Silu,
  Gelu,  // tanh form
  Relu,
  ReluSquared,
  ClampedSwiglu,  // gpt-oss
  Xielu,          // apertus, parameters by layer in metadata
};

enum class Mixer : std::uint8_t {
  Attention,
  LatentAttention,  // MLA
  GatedDelta,       // qwen3next, qwen35
  KeyDelta,         // kimi-linear: gated delta net with a gate per key channel
  Mamba2,
  ShortConvolution,    // lfm2
  AttentionAndMamba2,  // falcon-h1, added
  None,                // nemotron_h: the block is an ffn alone
};

// Which layers are recurrent.
enum class RecurrentLayers : std::uint8_t {
  None,
  All,
  NoKvHeads,   // head_count_kv of the layer is 0
  ByInterval,  // the array `attention.recurrent_layers`, else all but every `full_attention_interval`-th (4)
};

enum class AttentionGate : std::uint8_t {
  None,
  InQuery,   // attn_q holds query and gate of each head one after the other
  Sigmoid,   // attn_gate, per element or per head as its shape says
  Softplus,  // laguna
};

enum class ValueScale : std::uint8_t { None, Divide, Multiply };

enum class RouterGate : std::uint8_t { Softmax, Sigmoid, SoftmaxOfSelected };

enum class When : std::uint8_t { Never, Always, ByKey };

struct ExpertTraits {
  bool any = false;
  RouterGate gate = RouterGate::Softmax;
  bool gate_by_key = false;               // `expert_gating_func` replaces `gate`
  When normalize = When::Never;           // weights of the chosen experts divided by their sum
  bool scale_by_key = false;              // `expert_weights_scale`
  bool bias = false;                      // exp_probs_b takes part in the choice
  bool groups = false;                    // `expert_group_count`
  bool shared_gate = false;               // shared experts times sigmoid(ffn_gate_inp_shexp x)
  bool weigh_input = false;               // llama4: weights multiply the experts' inputs, choice by logits
  bool router_reads_layer_input = false;  // smallthinker: the layer's input before any norm
  bool latent = false;                    // nemotron_h_moe: experts between ffn_latent_down and ffn_latent_up
  float shared_sum_scale = 1;             // of (experts + shared experts): cohere2moe 1/2
  float dense_sum_scale = 0;  // of (experts + dense ffn) where both exist: grok sqrt(1/2); 0: never both
};

enum class EmbeddingScale : std::uint8_t { None, SqrtWidth, ByKey };

enum class AttentionScale : std::uint8_t {
  KeyDim,    // 1 / sqrt(key dimension)
  ByKey,     // `attention.scale` if not 0, else KeyDim
  One,       // gemma4
  Gemma,     // KeyDim, but 1 / sqrt(width / heads) in models of `gemma_wide_layers` layers
  RopeDims,  // bailingmoe: 1 / sqrt(rope dimensions)
  Grok       // `attention.output_scale`, default 0.08838834764831845
};

enum class Temperature : std::uint8_t {
  None,
  NoRopeLayers,     // llama4: length 8192, scale 0.1
  OriginalContext,  // mistral3: scale by key, length = `rope.scaling.original_context_length`
  ByKey,            // deepseek2: both by key
};

struct ArchitectureTraits {
  std::string_view name;  // general.architecture

  NormKind norm = NormKind::Rms;
  Residual residual = Residual::Sequential;
  // Tensors of the norms, without block and suffix; empty: no such norm.
  std::string_view attn_norm = "attn_norm";
  std::string_view post_attn_norm = "";
  std::string_view ffn_norm = "ffn_norm";
  std::string_view post_ffn_norm = "";
  std::string_view post_ffn_norm_alternative = "";  // grok
  std::string_view output_norm = "output_norm";
  bool embedding_norm = false;  // bloom: token_embd_norm
  bool two_attention_norms =
      false;  // falcon: where attn_norm_2 exists it feeds the attention, attn_norm the ffn

  Rope rope = Rope::Interleaved;
  RopeLayers rope_layers = RopeLayers::All;
  bool rope_factors = false;  // rope_freqs.weight, rope_factors_short.weight, rope_factors_long.weight
  bool rope_factors_full_only = false;  // only in layers that see everything
  bool yarn_keys = false;  // yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow are read
  float yarn_beta_fast = 32;
  bool ntk_alpha = false;              // hunyuan-dense: rope.scaling.alpha
  bool rope_off_by_finetuned = false;  // granite: `rope.scaling.finetuned` = false turns rope off
  bool half_rope_on_full = false;      // step35: layers that see everything rotate half of the dimensions
  bool position_embedding = false;     // gpt2: position_embd
  float alibi_bias = 0;                // largest bias; 0: none
  std::uint32_t alibi_layers = 0;      // ALiBi instead of rope in models of that many layers only; 0: in all

  Mixer mixer = Mixer::Attention;  // of layers that are not recurrent
  RecurrentLayers recurrent = RecurrentLayers::None;
  Mixer recurrent_mixer = Mixer::None;
  bool delta_heads_grouped =
      false;  // qwen3next: value head h reads key head h / (values per key), else h % keys

  QkNorm qk_norm = QkNorm::None;
  bool qk_norm_optional = false;
  bool value_norm = false;      // gemma4: RMS without weights
  bool value_from_key = false;  // gemma4: where attn_v is absent, V is the raw product of attn_k
  bool shared_kv = false;       // gemma4: `attention.shared_kv_layers` last layers use K, V of an earlier one
  bool clamp_qkv = false;       // `attention.clamp_kqv`
  bool sinks = false;           // attn_sinks where present
  bool value_scale = false;     // mimo2: `attention.value_scale` multiplies the heads' outputs
  AttentionGate gate = AttentionGate::None;
  AttentionScale attention_scale = AttentionScale::KeyDim;
  std::uint32_t gemma_wide_layers = 0;
  float attention_softcap = 0;  // default of `attn_logit_softcapping`; below 0: read the key, no default
  Temperature temperature = Temperature::None;
  WindowTraits window = {};

  Activation activation = Activation::Silu;
  bool gated = true;              // gate and up; a file without ffn_gate has both in ffn_up
  bool clamped_by_layer = false;  // step35: swiglu_clamp_exp, swiglu_clamp_shexp
  ExpertTraits experts = {};
  bool dual_ffn = false;             // gemma4: dense and expert branches with norms of their own, summed
  bool per_layer_embedding = false;  // gemma4
  bool layer_output_scale = false;   // gemma4

  EmbeddingScale embedding_scale = EmbeddingScale::None;
  float default_embedding_scale = 0;          // where ByKey finds none; 0: none
  bool residual_scale = false;                // `residual_scale` multiplies both branches
  bool minicpm_scales = false;                // defaults of minicpm where keys are absent
  ValueScale logit_scale = ValueScale::None;  // what `logit_scale` does
  float default_logit_scale = 0;
  float final_softcap = 0;  // default of `final_logit_softcapping`; below 0: read the key, no default
};

// All rows, sorted as families are grouped in architecture.cpp.
[[nodiscard]] std::span<const ArchitectureTraits> all_architectures();

// Null when the table has no such row.
[[nodiscard]] const ArchitectureTraits* find_architecture(std::string_view name);

// The names of all rows, comma-separated, for messages.
[[nodiscard]] std::string architecture_names();

}  // namespace quantfit::engine

// One model of one file, ready to run: every number final, every tensor found and its shape checked.
//
// resolve() joins a row of architecture.h with a file's metadata and tensors. Every refusal happens there;
// what comes out has no defaults left, and nothing in it tells which family it was.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "optimizer/engine/architecture.h"

namespace quantfit::engine {

// A matrix in GGUF order, or `count` of them one after the other: y[o] = sum over i of W[o][i] * x[i].
struct Matrix {
  const TensorInfo* tensor = nullptr;  // null: the model has none
  std::uint32_t columns = 0;           // inputs
  std::uint32_t rows = 0;              // outputs
  std::uint32_t count = 1;             // experts or heads
  const TensorInfo* bias = nullptr;    // rows * count values, added to the product
  const TensorInfo* scale = nullptr;   // one factor, or one per matrix, of the product before the bias

  [[nodiscard]] explicit operator bool() const { return tensor != nullptr; }
};

// A product whose outputs stand at `offset` of a wider row.
struct Projection {
  Matrix matrix;
  std::uint32_t offset = 0;
};

struct Norm {
  NormKind kind = NormKind::Rms;  // Rms or Layer
  float epsilon = 0;
  std::uint32_t size = 0;  // values that are normed together; 0: no such norm
  std::uint32_t weight_rows =
      1;  // rows of weights: more than one for heads or groups with weights of their own
  const TensorInfo* weight = nullptr;  // size * weight_rows values, or null
  const TensorInfo* bias = nullptr;    // likewise

  [[nodiscard]] explicit operator bool() const { return size != 0; }
};

// Angles of one kind of rotation (architectures.md, rope). Layers of the same kind share an entry of
// ModelGraph::ropes.
struct RopeSpec {
  std::uint32_t dims = 0;  // rotated dimensions, even
  double base = 10000;
  float frequency_scale = 1;  // 1 / scaling factor
  float extrapolation = 0;    // yarn's mix
  float magnitude = 1;        // of cosine and sine
  float ramp_low = 0;         // yarn's corrected dimensions
  float ramp_high = 0;
  const TensorInfo* factors = nullptr;       // dims / 2 divisors for contexts up to long_context
  const TensorInfo* factors_long = nullptr;  // for longer ones
  std::uint32_t long_context = 0;

  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// Where the keys and values of a layer come from.
struct AttentionGraph {
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t key_dim = 0;
  std::uint32_t value_dim = 0;
  float scale = 1;
  float softcap = 0;         // 0: none
  float clamp = 0;           // of the products; 0: none
  float alibi_bias = 0;      // 0: none
  float value_scale = 1;     // of the heads' outputs
  std::uint32_t window = 0;  // tokens seen, the query's own among them; 0: all
  WindowShape window_shape = WindowShape::Sliding;

  // One row per token: [queries | keys | values]. With a gate in the query each head has key_dim query
  // values, then key_dim gate values, so that head h of the queries begins at h * query_head_stride.
  std::vector<Projection> qkv;
  std::uint32_t query_head_stride = 0;
  std::uint32_t key_offset = 0;
  std::uint32_t value_offset = 0;
  std::uint32_t row_width = 0;
  bool value_is_key = false;              // values are the raw keys, before norm and rope
  std::optional<std::uint32_t> kv_layer;  // keys and values are those of this earlier layer

  QkNorm qk_norm = QkNorm::None;  // None where the tensors are absent
  Norm q_norm, k_norm;
  bool value_norm = false;
  float value_norm_epsilon = 0;
  Rope rope = Rope::None;
  std::uint32_t rope_index = 0;  // into ModelGraph::ropes

  // tau(p) = 1 + scale * ln(1 + floor((p + offset) / length)) multiplies queries; scale 0: none.
  float temperature_scale = 0;
  float temperature_offset = 0;
  std::uint32_t temperature_length = 1;

  const TensorInfo* sinks = nullptr;  // one logit per head
  AttentionGate gate = AttentionGate::None;
  Matrix gate_matrix;  // heads or heads * value_dim rows
  Matrix output;
};

// Latent attention: keys and values of all heads from `latent` + `rope_dims` numbers per token.
struct LatentGraph {
  std::uint32_t heads = 0;
  std::uint32_t latent = 0;     // r
  std::uint32_t rope_dims = 0;  // d_r
  std::uint32_t nope_dims = 0;  // d_n
  std::uint32_t value_dim = 0;  // d_v
  float scale = 1;
  Rope rope = Rope::None;
  std::uint32_t rope_index = 0;
  float temperature_scale = 0;
  std::uint32_t temperature_length = 1;
  Matrix q;  // direct, or:
  Matrix q_a;
  Norm q_a_norm;
  Matrix q_b;
  Matrix kv_a;  // latent + rope_dims rows
  Norm kv_a_norm;
  Matrix k_b, v_b;  // one matrix per head: nope_dims -> latent, latent -> value_dim
  Matrix kv_b;      // files without k_b and v_b: per head nope_dims rows of keys, then value_dim of values
  Matrix output;
};

struct GatedDeltaGraph {
  std::uint32_t key_heads = 0, value_heads = 0;
  std::uint32_t head_dim = 0;  // of keys and values
  std::uint32_t kernel = 0;    // taps of the convolution
  bool grouped = false;  // value head h reads key head h / (value_heads / key_heads), else h % key_heads
  float epsilon = 0;     // of the L2 norms
  Matrix qkv;            // [q | k | v]
  Matrix z;              // output gate
  Matrix beta, alpha;    // one output per value head, or:
  Matrix beta_alpha;     // per key head: its betas, then its alphas
  const TensorInfo* convolution = nullptr;  // [kernel, channels]
  const TensorInfo* a = nullptr;            // per value head, negative
  const TensorInfo* dt_bias = nullptr;
  Norm norm;  // per head
  Matrix output;
};

struct KeyDeltaGraph {
  std::uint32_t heads = 0, head_dim = 0, kernel = 0;
  float epsilon = 0;
  Matrix q, k, v;
  const TensorInfo* convolution_q = nullptr;
  const TensorInfo* convolution_k = nullptr;
  const TensorInfo* convolution_v = nullptr;
  Matrix f_a, f_b;  // decay
  Matrix beta;
  Matrix g_a, g_b;                      // output gate
  const TensorInfo* a = nullptr;        // per head
  const TensorInfo* dt_bias = nullptr;  // per key channel
  Norm norm;
  Matrix output;
};

struct Mamba2Graph {
  std::uint32_t heads = 0, head_dim = 0, state = 0, groups = 0, kernel = 0;
  Matrix input;  // rows: z (heads * head_dim), x, B and C (convolved together), dt (heads)
  const TensorInfo* convolution = nullptr;
  const TensorInfo* convolution_bias = nullptr;
  const TensorInfo* dt_bias = nullptr;
  const TensorInfo* a = nullptr;  // per head, negative
  const TensorInfo* d = nullptr;  // per head
  Norm norm;                      // per group; may be absent
  Matrix output;
};

struct ShortConvolutionGraph {
  std::uint32_t kernel = 0;
  Matrix input;  // [b | c | x]
  const TensorInfo* convolution = nullptr;
  Matrix output;
};

// A feed-forward of one input: down(act(gate x) * up x), or down(act(up x)).
struct FfnGraph {
  std::uint32_t width = 0;
  Activation activation = Activation::Silu;
  bool gated = true;
  float limit = 0;                  // step35: clamps; 0: none
  std::array<float, 4> xielu{};     // alpha_n, alpha_p, beta, eps as stored
  std::vector<Projection> gate_up;  // into one row [gate | up], or [up]
  Matrix down;

  [[nodiscard]] explicit operator bool() const { return static_cast<bool>(down); }
};

enum class RouterScore : std::uint8_t { Softmax, Sigmoid, SoftmaxOfSelected, SqrtSoftplus };

struct ExpertsGraph {
  std::uint32_t count = 0, used = 0;
  std::uint32_t groups = 1, groups_used = 1;
  RouterScore score = RouterScore::Softmax;
  bool normalize = false;
  float weight_scale = 1;
  bool choose_by_logits = false;  // llama4
  bool weigh_input = false;
  bool router_reads_layer_input = false;
  Matrix router;
  const TensorInfo* choice_bias = nullptr;
  FfnGraph experts;  // matrices with count > 1
  FfnGraph shared;   // may be absent
  Matrix shared_gate;
  Matrix latent_down, latent_up;
  float sum_scale = 1;  // of experts + shared
  // gemma4: the router reads rms(h) / sqrt(width) * router_input_scale, the experts read pre_norm(h).
  const TensorInfo* router_input_scale = nullptr;
  float router_norm_epsilon = 0;
  Norm pre_norm, post_norm, dense_post_norm;

  [[nodiscard]] explicit operator bool() const { return count != 0; }
};

// gemma4: x += post_norm(proj(gelu(gate x) * p)), p this layer's part of the token's per-layer embedding.
struct LayerEmbeddingGraph {
  Matrix gate, projection;
  Norm post_norm;
};

struct LayerGraph {
  std::uint32_t index = 0;
  Mixer mixer = Mixer::Attention;
  bool parallel = false;  // ffn reads the layer's input (or its norm), not the mixer's sum
  float residual_scale = 1;
  Norm attn_norm, post_attn_norm, ffn_norm, post_ffn_norm;
  Norm mixer_norm;  // falcon: where present the mixer reads it, the ffn attn_norm
  AttentionGraph attention;
  LatentGraph latent;
  GatedDeltaGraph gated_delta;
  KeyDeltaGraph key_delta;
  Mamba2Graph mamba2;
  ShortConvolutionGraph short_convolution;
  FfnGraph ffn;
  ExpertsGraph experts;
  float dense_sum_scale = 0;  // where ffn and experts both exist: factor of their sum
  bool dual_ffn = false;
  LayerEmbeddingGraph layer_embedding;
  const TensorInfo* output_scale = nullptr;  // one number
  std::vector<const TensorInfo*> tensors;    // all of this layer, in file order
  std::uint64_t weights = 0;                 // elements of its tensors
  std::uint64_t bytes = 0;                   // of its tensors in the file
};

struct ModelGraph {
  std::uint32_t width = 0;       // n_embd
  std::uint32_t vocabulary = 0;  // rows of the embedding
  std::uint32_t context = 0;     // context_length of the file; 0: unknown
  const TensorInfo* embedding = nullptr;
  const TensorInfo* position_embedding = nullptr;
  std::uint32_t positions = 0;  // rows of position_embedding
  float embedding_scale = 1;
  Norm embedding_norm;
  // gemma4's per-layer embeddings: `layer_embedding_width` numbers per layer and token.
  std::uint32_t layer_embedding_width = 0;
  const TensorInfo* layer_embedding = nullptr;
  Matrix layer_embedding_projection;
  Norm layer_embedding_norm;
  std::vector<RopeSpec> ropes;
  std::vector<LayerGraph> layers;
  Norm output_norm;
  Matrix output;  // the embedding itself when tied
  bool tied = false;
  float logit_factor = 1;   // multiplies logits
  float final_softcap = 0;  // 0: none
};

// Unsupported naming an architecture outside the table, a tensor that the row does not know, or a variant the
// engine does not run; Malformed naming a missing key or tensor, or a number out of range; ShapeMismatch
// naming a tensor whose shape the numbers contradict. `model` must outlive the graph.
[[nodiscard]] Result<ModelGraph> resolve(const Model& model);

// What resolve() decided, as text: one line per fact, the same for the same file.
[[nodiscard]] std::string describe(const ModelGraph& graph);

}  // namespace quantfit::engine

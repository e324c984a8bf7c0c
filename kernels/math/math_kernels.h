// The operations of a language model, forward and backward, as one table of functions per instruction set.
//
// Formulas and orders of summation are in math.md. What holds for every entry:
// - The same bytes in every table. A result never depends on how many tokens, rows or heads are given in one
//   call, nor on the thread: callers cut the work as they like, except where a function says otherwise.
// - Nothing is allocated; scratch is the caller's, aligned to 64 bytes, and its size comes from a function
// below.
// - Sizes are the caller's promise and not checked; any size is allowed, zero included, unless stated.
// - Backward: gradients of inputs are written, those of weights and other parameters are added to.
// - Outputs must not overlap inputs, except where "in place" is allowed: there both are the same array.
// - NaN in, NaN out where it matters (products, norms, activations); its payload may differ between tables.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/error.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels {

// A matrix in memory, row by row; from one row to the next are `stride` values.
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::size_t stride = 0;
  [[nodiscard]] T* row(std::size_t i) const { return data + i * stride; }
};

// One vector per token; from one token to the next are `stride` values.
template <class T>
struct TokenRows {
  T* data = nullptr;
  std::size_t stride = 0;
  [[nodiscard]] T* row(std::size_t token) const { return data + token * stride; }
};

// What a product makes of its activations first. The CPU kernels of llama.cpp multiply quantized weights with
// activations in 8 bits and weights of 16 bits with activations of 16 bits; a product that rounds alike gives
// the same values but for the order of summation.
enum class ActivationRounding : std::uint8_t {
  None,
  Half,       // as round_to_half
  Bfloat16,   // as round_to_bfloat16
  Blocks32,   // per 32 values: codes round(x * (127 / m)) with m the largest magnitude, times half(m / 127)
  Blocks256,  // per 256: codes min(127, round(x * (-127 / m))), m the first value of the largest magnitude;
              // times 1 / (-127 / m)
};

// Rows of a weight matrix in any format, decoded where they are used.
struct WeightRows {
  const std::byte* data = nullptr;  // the first row
  std::size_t rows = 0;
  std::size_t columns = 0;        // weights in a row, a whole number of blocks
  std::size_t row_bytes = 0;      // from one row to the next
  std::size_t block_columns = 1;  // weights in a block of the format; divides kProductBlock
  std::size_t block_bytes = 4;
  DecodeRow decode = nullptr;                              // of the format (row_kernels.h), F32 included
  ActivationRounding rounding = ActivationRounding::None;  // of product(); product_backward() does not round
};

// ---- matrix products
// ------------------------------------------------------------------------------------------

// Products are summed in blocks of this many terms: in each block by fused multiply-adds in rising order from
// zero, the blocks added in rising order.
inline constexpr std::size_t kProductBlock = 256;
// Tiles that keep the machine busy: this many tokens times this many outputs (input columns in the backward
// product) per call, or somewhat less.
inline constexpr std::size_t kProductTokens = 512;
inline constexpr std::size_t kProductOutputs = 240;
inline constexpr std::size_t kProductColumns = 2 * kProductBlock;
// Floats of scratch for a tile of `tokens` rows and `outputs` columns (input columns in the backward
// product).
[[nodiscard]] constexpr std::size_t product_scratch(std::size_t tokens, std::size_t outputs) {
  const std::size_t padded_tokens = (tokens + 31) / 32 * 32;
  const std::size_t padded_outputs = std::max((outputs + 11) / 12 * 12, kProductColumns) + 24;
  return (kProductBlock + 16) * (padded_outputs + 64) + padded_tokens * padded_outputs;
}

// ---- activations
// ----------------------------------------------------------------------------------------------

enum class Activation : std::uint8_t { Silu, GeluTanh, GeluErf, Relu, ReluSquared, Sigmoid, Softplus, Tanh };
inline constexpr std::size_t kActivationCount = 8;

// xIELU with the parameters already made positive: alpha_p = softplus(stored), alpha_n = beta +
// softplus(stored).
struct Xielu {
  float alpha_p = 0, alpha_n = 0, beta = 0, eps = 0;
};

// ---- norms
// ----------------------------------------------------------------------------------------------------

// `rows` vectors of `columns` values, `stride` apart in x and y. Vector i has the weights that begin at
// weight + i * weight_stride (0: all share them); weight and bias may be null.
struct NormShape {
  std::size_t rows = 0, columns = 0, stride = 0;
  std::size_t weight_stride = 0;
  float eps = 0;
};

// ---- rope
// -----------------------------------------------------------------------------------------------------

enum class RopeLayout : std::uint8_t { Interleaved, Neox };  // pairs (2 i, 2 i + 1); pairs (i, i + n / 2)
struct RopeShape {
  std::size_t tokens = 0, heads = 0;
  std::size_t head_stride = 0;  // from one head of a token to the next
  std::size_t rotated = 0;      // n, even; dimensions from n on stay as they are
  RopeLayout layout = RopeLayout::Interleaved;
};

// ---- attention
// ------------------------------------------------------------------------------------------------

enum class MaskKind : std::uint8_t {
  Causal,         // j <= t
  SlidingWindow,  // j <= t and t - j < window
  Chunked,        // j <= t and j >= window * floor(t / window)
  Symmetric,      // |t - j| <= window / 2
  None,
};

// One sequence of tokens 0 .. tokens - 1, whose queries see keys of the same sequence. Query head h uses key
// head h / (heads / kv_heads).
struct AttentionShape {
  std::size_t tokens = 0;
  std::size_t heads = 0, kv_heads = 0;
  std::size_t key_dim = 0, value_dim = 0;
  float scale = 1.0F;
  float softcap = 0.0F;  // a of a * tanh(u / a); 0: none
  MaskKind mask = MaskKind::Causal;
  std::size_t window = 0;
  const float* alibi_slopes = nullptr;  // per head, or null
  const float* sinks = nullptr;         // one logit per head, or null
};
// Head h of token t begins at row(t) + h * key_dim (value_dim).
struct AttentionInputs {
  TokenRows<const float> q, k, v;
};
// Of every head and token, at [head * tokens + token]: what the backward pass needs besides the output.
struct AttentionStatistics {
  float* row_max = nullptr;
  float* row_sum = nullptr;  // of exp(u - row_max), the sink included
};
// Queries that one call should do; other counts are allowed.
inline constexpr std::size_t kAttentionQueries = 32;
[[nodiscard]] std::size_t attention_scratch(const AttentionShape& shape);
[[nodiscard]] std::size_t attention_backward_scratch(const AttentionShape& shape);

// ---- routing
// --------------------------------------------------------------------------------------------------

enum class Gating : std::uint8_t { Softmax, Sigmoid, SoftmaxOfSelected, SqrtSoftplus };
// Limits of RouterShape::groups and ::used.
inline constexpr std::size_t kMaxRouterGroups = 64;
inline constexpr std::size_t kMaxRoutedExperts = 256;
struct RouterShape {
  std::size_t experts = 0, used = 0;
  std::size_t groups = 1, groups_used = 1;  // groups > 1: only the best groups_used of equal groups are open
  Gating gating = Gating::Softmax;
  bool select_by_logit = false;  // llama4
  bool normalize = false;
  float scale = 0.0F;                     // 0 or 1: none
  const float* selection_bias = nullptr;  // per expert, or null
};

// ---- recurrences
// ----------------------------------------------------------------------------------------------

// Gated delta rule of one value head over one sequence; decay per token, or per
// token and key dimension (KDA).
struct DeltaNetShape {
  std::size_t tokens = 0, key_dim = 0, value_dim = 0;
  bool decay_per_key = false;
  float scale = 1.0F;  // of the output, usually 1 / sqrt(key_dim)
};
// g (log of the decay): one value per token or key_dim of them; beta: one value per token.
struct DeltaNetInputs {
  TokenRows<const float> q, k, v, g, beta;
};
struct DeltaNetGradients {
  TokenRows<float> q, k, v, g, beta;
};
[[nodiscard]] std::size_t delta_net_scratch(const DeltaNetShape& shape);
[[nodiscard]] std::size_t delta_net_backward_scratch(const DeltaNetShape& shape);

// State space duality (mamba2) of one head over one sequence.
struct Mamba2Shape {
  std::size_t tokens = 0, head_dim = 0, state_dim = 0;
  float a = 0.0F;  // ssm_a of the head, negative
  float d = 0.0F;  // ssm_d of the head
};
// x: head_dim values per token, b and c: state_dim, delta (softplus done): one.
struct Mamba2Inputs {
  TokenRows<const float> x, b, c, delta;
};
struct Mamba2Gradients {
  TokenRows<float> x, b, c, delta;  // x and delta are written; b and c, shared by heads, are added to
};
[[nodiscard]] std::size_t mamba2_scratch(const Mamba2Shape& shape);
[[nodiscard]] std::size_t mamba2_backward_scratch(const Mamba2Shape& shape);

// ---- loss
// -----------------------------------------------------------------------------------------------------

// Logarithm of a sum of exponentials, of as many logits as were given so far.
struct LogSum {
  float max = -3.0e38F;
  double sum = 0.0;  // of exp(z - max)
};

// ---- the table
// ------------------------------------------------------------------------------------------------

struct MathKernels {
  std::string_view isa;  // as RowKernels::isa

  // y[t][j] = (y[t][j] if add) + sum over k of x[t][k] * w[j][k]. x: tokens x w.columns, y: tokens x w.rows.
  // scratch: product_scratch(tokens, w.rows).
  void (*product)(MatrixView<const float> x, const WeightRows& w, MatrixView<float> y, bool add,
                  float* scratch) = nullptr;
  // dx[t][k] = (dx[t][k] if add) + sum over j of dy[t][j] * w[j][first_column + k], for the dx.columns
  // columns from first_column, a multiple of kProductBlock, on. dx ends at the last column of w or at a
  // multiple of kProductBlock. scratch: product_scratch(tokens, kProductColumns).
  void (*product_backward)(MatrixView<const float> dy, const WeightRows& w, std::size_t first_column,
                           MatrixView<float> dx, bool add, float* scratch) = nullptr;
  // c[i][j] += sum over t of a[t][i] * b[t][j]: gradients of weights, second moments (a and b the same rows).
  // Blocks of kProductBlock tokens begin at the first token given: how the caller cuts tokens is part of the
  // order of summation; how c is cut into tiles is not. scratch: product_scratch(0, kProductColumns).
  void (*add_outer_products)(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> c,
                             float* scratch) = nullptr;

  // Sums over tokens per column, added to: of x and of x^2. Per block of kProductBlock tokens in F32, blocks
  // in double; blocks begin at the first token given.
  void (*add_column_sums)(MatrixView<const float> x, double* sum) = nullptr;
  void (*add_column_squares)(MatrixView<const float> x, double* sum) = nullptr;

  // Elementwise, n values; out or x in place with any input.
  void (*add)(const float* a, const float* b, std::size_t n, float* out) = nullptr;
  void (*multiply)(const float* a, const float* b, std::size_t n, float* out) = nullptr;
  void (*scale)(const float* x, float factor, std::size_t n, float* out) = nullptr;
  // out += factor * x, fused.
  void (*add_scaled)(const float* x, float factor, std::size_t n, float* out) = nullptr;
  void (*clamp)(const float* x, float low, float high, std::size_t n, float* out) = nullptr;
  // dx = dy where low < x < high, else 0.
  void (*clamp_backward)(const float* x, const float* dy, float low, float high, std::size_t n,
                         float* dx) = nullptr;
  // y = a tanh(x / a). Backward takes the capped y: dx = dy (1 - (y / a)^2).
  void (*softcap)(const float* x, float a, std::size_t n, float* y) = nullptr;
  void (*softcap_backward)(const float* y, const float* dy, float a, std::size_t n, float* dx) = nullptr;
  // To the nearest half or bfloat16 (ties to even), beyond the range to infinity, back as F32.
  void (*round_to_half)(const float* x, std::size_t n, float* out) = nullptr;
  void (*round_to_bfloat16)(const float* x, std::size_t n, float* out) = nullptr;
  // sum a[i] * b[i], in the order of row sums (math.md).
  float (*dot)(const float* a, const float* b, std::size_t n) = nullptr;

  // y = f(x), in place allowed; dx = f'(x) dy, dx may be dy.
  std::array<void (*)(const float* x, std::size_t n, float* y), kActivationCount> activate{};
  std::array<void (*)(const float* x, const float* dy, std::size_t n, float* dx), kActivationCount>
      activate_backward{};
  // h = f(g) * u, in place with g or u; dg and du may be g and u, or dh.
  std::array<void (*)(const float* g, const float* u, std::size_t n, float* h), kActivationCount> gate{};
  std::array<void (*)(const float* g, const float* u, const float* dh, std::size_t n, float* dg, float* du),
             kActivationCount>
      gate_backward{};
  // SwiGLU of gpt-oss: gate capped above at 7, up clamped to +-7.
  void (*swiglu_oai)(const float* g, const float* u, std::size_t n, float* h) = nullptr;
  void (*swiglu_oai_backward)(const float* g, const float* u, const float* dh, std::size_t n, float* dg,
                              float* du) = nullptr;
  // SwiGLU with silu(g) capped above at `limit`, u clamped to +-limit.
  void (*swiglu_clamped)(const float* g, const float* u, float limit, std::size_t n, float* h) = nullptr;
  void (*swiglu_clamped_backward)(const float* g, const float* u, const float* dh, float limit, std::size_t n,
                                  float* dg, float* du) = nullptr;
  void (*xielu)(const Xielu& parameters, const float* x, std::size_t n, float* y) = nullptr;
  void (*xielu_backward)(const Xielu& parameters, const float* x, const float* dy, std::size_t n,
                         float* dx) = nullptr;

  // y = x * r * w (+ b), r = 1 / sqrt(mean(x^2) + eps). In place allowed. r: one per row, kept for backward;
  // may be null.
  void (*rms_norm)(const NormShape& shape, const float* x, const float* weight, const float* bias, float* y,
                   float* r) = nullptr;
  // dx may be dy. dweight and dbias (null: not wanted) are added to.
  void (*rms_norm_backward)(const NormShape& shape, const float* x, const float* weight, const float* r,
                            const float* dy, float* dx, float* dweight, float* dbias) = nullptr;
  // y = (x - mean) * r * w (+ b), r = 1 / sqrt(variance + eps). mean and r: one per row, or null.
  void (*layer_norm)(const NormShape& shape, const float* x, const float* weight, const float* bias, float* y,
                     float* mean, float* r) = nullptr;
  void (*layer_norm_backward)(const NormShape& shape, const float* x, const float* weight, const float* mean,
                              const float* r, const float* dy, float* dx, float* dweight,
                              float* dbias) = nullptr;
  // y = x * r, r = 1 / sqrt(sum(x^2) + eps); shape.weight_stride is not read.
  void (*l2_norm)(const NormShape& shape, const float* x, float* y, float* r) = nullptr;
  void (*l2_norm_backward)(const NormShape& shape, const float* x, const float* r, const float* dy,
                           float* dx) = nullptr;

  // Rotates pairs in place. cosine, sine: rotated / 2 values per token, magnitude included (ops of rope
  // scaling are in the tables).
  void (*rope)(const RopeShape& shape, TokenRows<const float> cosine, TokenRows<const float> sine,
               TokenRows<float> x) = nullptr;
  // In place on the gradient: the rotation by the opposite angle.
  void (*rope_backward)(const RopeShape& shape, TokenRows<const float> cosine, TokenRows<const float> sine,
                        TokenRows<float> dx) = nullptr;

  // Queries first_query .. first_query + queries - 1 of one head. out: head h at row(t) + h * value_dim.
  // scratch: attention_scratch(shape).
  void (*attention)(const AttentionShape& shape, const AttentionInputs& in, std::size_t head,
                    std::size_t first_query, std::size_t queries, TokenRows<float> out,
                    AttentionStatistics statistics, float* scratch) = nullptr;
  // One key head with all its query heads: writes their dq, and dk, dv of the key head; adds to dsinks[head]
  // where shape.sinks is set. out, statistics: from the forward pass. scratch:
  // attention_backward_scratch(shape).
  void (*attention_backward)(const AttentionShape& shape, const AttentionInputs& in, std::size_t kv_head,
                             TokenRows<const float> out, AttentionStatistics statistics,
                             TokenRows<const float> dout, TokenRows<float> dq, TokenRows<float> dk,
                             TokenRows<float> dv, float* dsinks, float* scratch) = nullptr;

  // y = softmax(x), in place allowed. dx = y (dy - sum y dy), dx may be dy.
  void (*softmax)(const float* x, std::size_t n, float* y) = nullptr;
  void (*softmax_backward)(const float* y, const float* dy, std::size_t n, float* dx) = nullptr;

  // Experts of one token, best first; of equal scores the lower index. selected, weights: shape.used values;
  // probability: shape.experts values, kept for backward.
  void (*route)(const RouterShape& shape, const float* logits, std::uint32_t* selected, float* weights,
                float* probability) = nullptr;
  // dweights: shape.used values; dlogits: shape.experts, written.
  void (*route_backward)(const RouterShape& shape, const float* logits, const std::uint32_t* selected,
                         const float* probability, const float* dweights, float* dlogits) = nullptr;

  // y[t][c] = bias[c] + sum over j of taps[j * channels + c] * x[t - count + 1 + j][c], x before the start 0.
  // taps: transposed from the file, tap by tap. bias may be null.
  void (*convolve)(std::size_t tokens, std::size_t channels, std::size_t count, const float* taps,
                   const float* bias, TokenRows<const float> x, TokenRows<float> y) = nullptr;
  void (*convolve_backward)(std::size_t tokens, std::size_t channels, std::size_t count, const float* taps,
                            TokenRows<const float> dy, TokenRows<float> dx) = nullptr;

  // out: value_dim values per token. The state begins at zero. scratch: delta_net_scratch(shape).
  void (*delta_net)(const DeltaNetShape& shape, const DeltaNetInputs& in, TokenRows<float> out,
                    float* scratch) = nullptr;
  // scratch: delta_net_backward_scratch(shape).
  void (*delta_net_backward)(const DeltaNetShape& shape, const DeltaNetInputs& in,
                             TokenRows<const float> dout, const DeltaNetGradients& gradients,
                             float* scratch) = nullptr;
  // out: head_dim values per token. The state begins at zero. scratch: mamba2_scratch(shape).
  void (*mamba2)(const Mamba2Shape& shape, const Mamba2Inputs& in, TokenRows<float> out,
                 float* scratch) = nullptr;
  // scratch: mamba2_backward_scratch(shape).
  void (*mamba2_backward)(const Mamba2Shape& shape, const Mamba2Inputs& in, TokenRows<const float> dout,
                          const Mamba2Gradients& gradients, float* scratch) = nullptr;

  // Takes n further logits into the sum. How a row is cut into calls is part of the order of summation.
  void (*add_to_log_sum)(const float* z, std::size_t n, LogSum& sum) = nullptr;
  // max + ln(sum).
  double (*log_sum)(const LogSum& sum) = nullptr;
  // dz = factor * (exp(z - log_sum) - [i == target]); target >= n: none in this part of the row.
  void (*softmax_gradient)(const float* z, std::size_t n, double log_sum, std::size_t target, float factor,
                           float* dz) = nullptr;
  // sum over i of p (e^d - 1 - d), p = exp(base - base_log_sum), d = ln q - ln p: over a whole row the KL
  // divergence of q from p, every term >= 0, so that nothing cancels.
  double (*divergence)(const float* base, double base_log_sum, const float* other, double other_log_sum,
                       std::size_t n) = nullptr;
  // Index of the largest value, the lower of equal ones. n > 0.
  std::size_t (*argmax)(const float* z, std::size_t n) = nullptr;
  // Adds probabilities exp(z - log_sum) to `cumulative` in order and returns the first index at which it
  // exceeds `uniform` (in [0, 1)), or n when it never does: draws a token, part by part of a row.
  std::size_t (*sample)(const float* z, std::size_t n, double log_sum, double uniform,
                        double& cumulative) = nullptr;

  // out[i] = e^x[i], ln x[i] (x > 0), and so on: the functions the operations above are made of.
  void (*exp)(const float* x, std::size_t n, float* out) = nullptr;
  void (*log)(const float* x, std::size_t n, float* out) = nullptr;
};

// As runnable_kernels, find_kernels and default_kernels of row_kernels.h.
[[nodiscard]] std::span<const MathKernels> runnable_math_kernels();
[[nodiscard]] Result<const MathKernels*> find_math_kernels(std::string_view isa);
[[nodiscard]] Result<const MathKernels*> default_math_kernels();

}  // namespace quantfit::kernels

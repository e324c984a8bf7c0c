// Runs one layer on one batch of windows. Internal to the engine: forward.h is the interface.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/engine/buffers.h"
#include "optimizer/engine/forward.h"
#include "optimizer/engine/graph.h"
#include "optimizer/engine/views.h"
#include "optimizer/engine/weights.h"
#include "optimizer/engine/workers.h"

namespace quantfit::engine {

inline constexpr std::size_t kRowPiece = 16;  // rows of an elementwise task
inline constexpr std::size_t kChannels = 64;  // of a convolution task

// Where a table of kernels holds an activation's functions.
[[nodiscard]] constexpr std::size_t index(kernels::Activation kind) {
  return static_cast<std::size_t>(kind);
}

// Consecutive whole windows of the text.
struct Batch {
  struct Window {
    std::size_t first;  // row of the batch
    std::size_t length;
  };
  std::uint64_t first_token = 0;  // of the text
  std::span<const std::int32_t> tokens;
  std::vector<Window> windows;
  [[nodiscard]] std::size_t rows() const { return tokens.size(); }
};

// Cosines and sines of positions 0 .. , dims / 2 per position, magnitude included.
struct RopeTable {
  std::size_t pairs = 0;
  std::vector<float> cosine, sine;
};
// Angles as the field's reference builds them: by repeated multiplication in binary32 (architectures.md,
// rope). `factors` has dims / 2 divisors or is null.
[[nodiscard]] RopeTable make_rope_table(const RopeSpec& spec, const float* factors, std::size_t positions);

// Which expert each token chose, and where its row went.
struct ExpertRouting {
  std::vector<std::uint32_t> selected;  // [token][slot], best first
  std::vector<std::uint32_t> row_of;    // [token][slot]: row of the buffers sorted by expert
  std::vector<std::uint32_t> begin;     // per expert, its first row; one more entry at the end
  std::vector<std::uint32_t> token_of;  // per sorted row
  std::vector<std::uint32_t> slot_of;   // per sorted row: token * used + slot
};

// Keys and values of layers that later layers use, for the whole text.
struct KeptKeys {
  HiddenStates keys, values;
};

// Inputs shared by several products of a layer have one of these numbers (MatrixProduct::input_group).
enum class InputGroup : std::uint32_t {
  Mixer,
  MixerOutput,
  LatentQuery,
  LatentKeys,
  LatentHeadQueries,
  LatentHeadValues,
  DeltaLowDecay,
  DeltaLowGate,
  SecondMixerOutput,
  Ffn,
  FfnHidden,
  Router,
  Experts,
  ExpertHidden,
  ExpertLatent,
  ExpertLatentSum,
  SharedHidden,
  LayerEmbedding,
  LayerGate,
  LayerGated,
  Output,
};

// Holds what is the same for all batches of a layer (small tensors decoded, tables) and the buffers of the
// last batch. Calls come from one thread, inside Workers::run.
class LayerRunner {
 public:
  LayerRunner(const ModelGraph& graph, const Weights& weights, const kernels::MathKernels& kernels,
              Workers& workers, const CancellationToken& cancel);

  // Tables for windows of up to `longest` tokens; `context` decides between short and long factors.
  void prepare(std::size_t longest);
  // Floats of scratch per thread that any call needs, for windows of up to `longest` tokens.
  [[nodiscard]] static std::size_t scratch_floats(const ModelGraph& graph, std::size_t longest);

  // Afterwards forward() may be called for this layer. `observer` may be null.
  void begin(const LayerGraph& layer, ForwardObserver* observer);
  // x: the layer's input on entry, its output on return; rows of the batch. Interrupted, or errors of the
  // observer.
  [[nodiscard]] Result<void> forward(const Batch& batch, MatrixView<float> x);
  // What forward() left behind, until the next call.
  [[nodiscard]] const Buffers& buffers() const { return buffers_; }
  [[nodiscard]] const ExpertRouting& routing() const { return routing_; }

  // Embeddings of the batch's tokens, scaled, normed, positions added: the input of the first layer.
  // Malformed when a row is not finite.
  [[nodiscard]] Result<void> embed(const Batch& batch, MatrixView<float> out);
  // The same without the norm.
  [[nodiscard]] Result<void> look_up(const Batch& batch, MatrixView<float> out);
  // y = norm(x) row by row.
  void norm_rows(const Norm& norm, MatrixView<const float> x, MatrixView<float> y);
  // y = W x for rows first .. first + y.columns - 1 of matrix `index`, nothing added.
  void product(const Matrix& matrix, std::uint32_t index, std::size_t first, MatrixView<const float> x,
               MatrixView<float> y);
  void add_bias(const Matrix& matrix, std::uint32_t index, std::size_t first, MatrixView<float> y);

  // Where layers with AttentionGraph::kv_layer find their keys; entry per layer, empty where nobody asks.
  void keep_keys(std::vector<KeptKeys>* kept) { kept_ = kept; }

 protected:
  struct ProductTask {
    const Matrix* matrix;
    std::uint32_t index;
    std::size_t first;  // row of the matrix
    MatrixView<const float> x;
    MatrixView<float> y;
    InputGroup group;
    bool observed = true;
  };
  // All at once, spread over the threads by tiles; then observed in order, scaled, biases added.
  [[nodiscard]] Result<void> products(std::span<const ProductTask> tasks);
  [[nodiscard]] Result<void> project(std::span<const Projection> projections, InputGroup group,
                                     MatrixView<const float> x, MatrixView<float> y);
  [[nodiscard]] Result<void> multiply(const Matrix& matrix, InputGroup group, MatrixView<const float> x,
                                      MatrixView<float> y);
  void run_tiles(std::span<const ProductTask> tasks);

  [[nodiscard]] Result<void> mixer(const Batch& batch, MatrixView<const float> input);
  [[nodiscard]] Result<void> attention(const Batch& batch, MatrixView<const float> input);
  [[nodiscard]] Result<void> latent(const Batch& batch, MatrixView<const float> input);
  [[nodiscard]] Result<void> gated_delta(const Batch& batch, MatrixView<const float> input);
  [[nodiscard]] Result<void> key_delta(const Batch& batch, MatrixView<const float> input);
  [[nodiscard]] Result<void> mamba2(const Batch& batch, MatrixView<const float> input, MatrixView<float> out,
                                    InputGroup out_group);
  [[nodiscard]] Result<void> short_convolution(const Batch& batch, MatrixView<const float> input);
  [[nodiscard]] Result<void> ffn(const FfnGraph& graph, InputGroup input_group, InputGroup hidden_group,
                                 MatrixView<const float> input, MatrixView<float> gate_up,
                                 MatrixView<float> hidden, MatrixView<float> out);
  [[nodiscard]] Result<void> experts(const Batch& batch, MatrixView<const float> layer_input,
                                     MatrixView<const float> middle, MatrixView<const float> ffn_input);
  [[nodiscard]] Result<void> layer_embedding(const Batch& batch, MatrixView<float> x);

  // Mask, scale and cap of a layer's attention. `slopes` holds what the shape points to.
  [[nodiscard]] kernels::AttentionShape attention_shape(const AttentionGraph& a, std::vector<float>& slopes);
  [[nodiscard]] static kernels::AttentionShape latent_shape(const LatentGraph& a);
  [[nodiscard]] kernels::RouterShape router_shape(const ExpertsGraph& e);
  // Into the tables of activations; ClampedSwiglu and Xielu have functions of their own.
  [[nodiscard]] static std::size_t activation_index(const FfnGraph& graph);
  [[nodiscard]] static kernels::Xielu xielu_of(const FfnGraph& graph);

  void activate(const FfnGraph& graph, MatrixView<const float> gate_up, MatrixView<float> hidden);
  // Norms of `heads` vectors per row, in place or not; x and y rows.
  void norm_heads(const Norm& norm, std::size_t heads, MatrixView<float> x);
  void rotate(const Batch& batch, Rope rope, std::uint32_t rope_index, std::size_t heads,
              std::size_t head_stride, MatrixView<float> x, std::size_t offset);
  void scale_queries(const Batch& batch, float scale, float offset, std::uint32_t length,
                     MatrixView<float> queries);
  // As llama.cpp keeps keys and values between tokens; changes nothing in exact arithmetic.
  void round_kept(MatrixView<float> x);
  void scores(const Batch& batch, const kernels::AttentionShape& shape, MatrixView<const float> q,
              MatrixView<const float> k, MatrixView<const float> v, MatrixView<float> out);
  void convolve(const Batch& batch, std::size_t channels, std::size_t kernel,
                std::span<const TensorInfo* const> taps, const TensorInfo* bias, MatrixView<const float> x,
                MatrixView<float> y);
  void copy_columns(MatrixView<const float> from, std::size_t first, std::size_t columns,
                    MatrixView<float> to, std::size_t to_first);
  [[nodiscard]] bool cancelled() const { return cancel_->cancelled(); }

  const ModelGraph* graph_;
  const Weights* weights_;
  const kernels::MathKernels* kernels_;
  Workers* workers_;
  const CancellationToken* cancel_;
  Parameters globals_;  // rope factors, norms outside the layers
  Parameters parameters_;
  std::vector<RopeTable> ropes_;
  const LayerGraph* layer_ = nullptr;
  std::uint32_t layer_index_ = 0;
  ForwardObserver* observer_ = nullptr;
  std::vector<BufferSpec> specs_;
  Buffers buffers_;
  ExpertRouting routing_;
  std::vector<KeptKeys>* kept_ = nullptr;
  std::vector<float> kept_key_buffer_, kept_value_buffer_;
};

}  // namespace quantfit::engine

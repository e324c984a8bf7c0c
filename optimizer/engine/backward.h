// Gradients of a loss at the outputs of every matrix of a model: a forward pass that keeps the input of every
// layer, then layer by layer from the last to the first the layer's forward pass again for a batch of
// windows, and its backward pass.
//
//   const BackwardPass pass(engine);
//   QF_TRY(pass.run(windows, {.run = options, .seed = 1}, nullptr, observer, progress, cancel));
//
// The loss is a sum over all tokens; without a loss of the caller's it is -ln p(y), y drawn from the model's
// own distribution, one per token: the mean squared gradient is then the diagonal of the Fisher matrix, which
// is the curvature of the KL divergence from this model. The same inputs give the same bits for any number of
// threads, any instruction set, any memory limit and batches, and however often the pass was interrupted.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/engine/forward.h"

namespace quantfit::engine {

// Consecutive rows of one batch that went through one matrix, and the gradient of the loss at what came out.
// The gradient of the matrix's own weights is the sum over rows of output_gradient[r][o] * input[r][i].
struct MatrixGradient {
  std::uint32_t layer;  // graph().layers.size() for the output matrix
  const Matrix* matrix;
  std::uint32_t index;                     // expert or head inside the tensor
  std::uint32_t first_row;                 // of the matrix, that output_gradient's first column belongs to
  std::uint32_t input_group;               // as in MatrixProduct
  kernels::MatrixView<const float> input;  // rows x matrix->columns
  kernels::MatrixView<const float> output_gradient;  // at W x, before scale and bias; rows x outputs
  std::uint64_t first_token;                         // of the batch, in the text
  // Of each row: its token, counted from first_token. Empty: row r is token r. Rising in any case.
  std::span<const std::uint32_t> tokens;
};

// Rows of a table that tokens chose, and the gradient at those rows.
struct LookupGradient {
  const TensorInfo* tensor;    // the embedding, or the table of per-layer embeddings
  std::uint32_t first_column;  // of the table's rows, that gradient's first column belongs to
  std::uint64_t first_token;
  std::span<const std::int32_t> tokens;       // rows of the table
  kernels::MatrixView<const float> gradient;  // tokens x columns
};

// Watches a backward pass. Calls come one at a time, in the same order for any number of threads: layers from
// graph().layers.size() (final norm and output matrix) down to 0, which ends with the lookups of the
// embedding; within a layer batches in the order of tokens. Views are valid during the call. An error ends
// the pass and is its result. Implementations may use oneTBB for work of their own.
class BackwardObserver {
 public:
  virtual ~BackwardObserver() = default;
  virtual Result<void> begin_layer(std::uint32_t layer);
  // Once for every matrix and batch; experts that no token of the batch chose are left out. The output matrix
  // comes in blocks of tokens.
  virtual Result<void> gradient(const MatrixGradient& gradient);
  // What the output matrix gave for a block of tokens: a forward pass alone does not make logits.
  virtual Result<void> output_product(std::uint64_t first_token, const MatrixProduct& product);
  virtual Result<void> lookup(const LookupGradient& gradient);
  // With BackwardOptions::choice_error, of every layer with experts and tokens first_token ..: what another
  // choice would cost the token, times the density of its margin at zero, counted in spreads of the scores
  // (LayerBackward::add_choice_errors). A mean over tokens, times d / sqrt(2 pi), is the expected cost where
  // margins are off by a normal error of deviation d. Before end_layer.
  virtual Result<void> choices(std::uint32_t layer, std::uint64_t first_token, std::span<const double> costs);
  // Gradients of the layer's norms (weights and biases), summed over all tokens, in the tensor's order of
  // values: before end_layer. Asked for by wants_parameters().
  virtual Result<void> parameter(std::uint32_t layer, const TensorInfo& tensor,
                                 std::span<const double> gradient);
  [[nodiscard]] virtual bool wants_parameters() const { return false; }
  virtual Result<void> end_layer(std::uint32_t layer);
  // What the layers below still need, for tokens first_token ..: of plane 0 the gradient at the layer's
  // input, of further planes what layers that share keys or embeddings owe to lower ones. Handed out after
  // end_layer(layer) where wants_carried(layer), plane by plane in the order of tokens; BackwardResume takes
  // it back.
  virtual Result<void> carried(std::uint32_t layer, std::uint32_t plane, std::uint64_t first_token,
                               kernels::MatrixView<const float> rows);
  [[nodiscard]] virtual bool wants_carried(std::uint32_t) const { return false; }
};

// Numbers per token in each plane of BackwardObserver::carried.
[[nodiscard]] std::vector<std::size_t> carried_planes(const ModelGraph& graph);

// Continues a pass whose layers from `layer` on are done: rows that BackwardObserver::carried handed out
// after that layer are given back.
struct BackwardResume {
  std::uint32_t layer = 0;
  std::function<Result<void>(std::uint32_t plane, std::uint64_t first_token, kernels::MatrixView<float> rows)>
      carried;
};

// A loss of the caller's choice: a sum over tokens.
class LogitLoss {
 public:
  virtual ~LogitLoss() = default;
  // Writes the gradient at `logits` (everything of the model's head applied) of tokens first_token .. of the
  // text. Calls come one at a time, in the order of tokens.
  virtual Result<void> gradient(std::uint64_t first_token, kernels::MatrixView<const float> logits,
                                kernels::MatrixView<float> gradient) = 0;
};

// Gives or takes states between layers, batch by batch: tokens x width, of tokens first_token ...
using FillStates = std::function<Result<void>(std::uint64_t first_token, kernels::MatrixView<float> rows)>;
using TakeStates =
    std::function<Result<void>(std::uint64_t first_token, kernels::MatrixView<const float> rows)>;

// A loss at what one layer gives out: a sum over tokens.
class LayerLoss {
 public:
  virtual ~LayerLoss() = default;
  // Writes the gradient at `output`, the stream behind the layer, of tokens first_token .. of the text. Calls
  // come one at a time, in the order of tokens.
  virtual Result<void> gradient(std::uint64_t first_token, kernels::MatrixView<const float> output,
                                kernels::MatrixView<float> gradient) = 0;
};

struct BackwardOptions {
  RunOptions run = {};
  std::uint64_t seed = 1;     // of the labels
  LogitLoss* loss = nullptr;  // null: labels drawn from the model's own distribution
  // For mean squared gradients of models with experts; 0: none. A change of a router's scores that lets
  // another expert in costs what no gradient shows. With scores that are off by this share of their spread
  // over experts, the expected cost is spread over the margin between the last expert chosen and the first
  // one left out, and its curvature goes into the gradients with a random sign: squared gradients then have
  // it in them on average, and the gradients are no longer those of the loss (layer_backward.h has the
  // formula).
  float choice_error = 0;
};

// The number in [0, 1) that decides the label of one token of the text: a function of seed and position
// alone.
[[nodiscard]] double label_draw(std::uint64_t seed, std::uint64_t token);

// What a pass will need.
struct BackwardPlan {
  std::vector<RunPlan::Item> memory;  // allocations at the peak
  std::uint64_t memory_bytes = 0;
  std::uint64_t scratch_bytes = 0;  // of scratch files; 0: layer inputs stay in memory
  std::uint32_t batch_tokens = 0;
  std::uint64_t tokens = 0;
  std::uint64_t weight_bytes = 0;  // read from the model file
  // Of all products and attention scores, logits included: the forward pass, the layers' second forward pass,
  // and the gradients.
  double multiply_adds = 0;
  double forward_multiply_adds = 0;  // of one forward pass over the same tokens, logits included
  [[nodiscard]] std::string describe() const;
};

// Holds a reference to the engine, which must outlive it. Calls from several threads may overlap.
class BackwardPass {
 public:
  explicit BackwardPass(const Engine& engine) : engine_(&engine) {}

  // Errors of Engine::plan; NoSpace when not even one window fits into the memory limit.
  [[nodiscard]] Result<BackwardPlan> plan(const TokenWindows& windows, const BackwardOptions& options) const;

  // `forward` watches the forward pass at the beginning (its begin_layer and end_layer too) and may be null;
  // with `resume` that pass ends before layer resume->layer. Errors of Engine::run and of the observers;
  // Malformed when logits are not finite.
  // Progress counts tokens times layers, of the forward pass once, of the way back three times.
  [[nodiscard]] Result<void> run(const TokenWindows& windows, const BackwardOptions& options,
                                 ForwardObserver* forward, BackwardObserver& observer, ProgressSink& progress,
                                 const CancellationToken& cancel,
                                 const BackwardResume* resume = nullptr) const;

  // The inputs of layer 0, batch by batch in the order of tokens. Errors as those of Engine::run().
  [[nodiscard]] Result<void> embeddings(const TokenWindows& windows, const RunOptions& options,
                                        const TakeStates& output, const CancellationToken& cancel) const;
  // One layer alone, forward: `input` fills its inputs, `output` gets what comes out, batch by batch in the
  // order of tokens; of layer graph().layers.size(), the final norm. Of states there are those of one batch.
  // InvalidArgument where there is no such layer or layers share keys; else as Engine::run().
  [[nodiscard]] Result<void> layer_outputs(std::uint32_t layer, const TokenWindows& windows,
                                           const RunOptions& options, const FillStates& input,
                                           const TakeStates& output, ProgressSink& progress,
                                           const CancellationToken& cancel) const;
  // One layer alone, forward and back, with what is needed of one layer: `input` fills its inputs. The
  // observer is told of that layer; of the embeddings never. Weights are not looked through for numbers that
  // are not finite. InvalidArgument where there is no such layer or layers share keys; NoSpace when not even
  // one window fits into the memory limit.
  [[nodiscard]] Result<void> run_layer(std::uint32_t layer, const TokenWindows& windows,
                                       const RunOptions& options, const FillStates& input, LayerLoss& loss,
                                       BackwardObserver& observer, ProgressSink& progress,
                                       const CancellationToken& cancel) const;
  // Most tokens of a batch of run_layer, and the bytes that it allocates at the peak. Errors as its.
  struct LayerMemory {
    std::uint64_t batch_tokens = 0, bytes = 0;
  };
  [[nodiscard]] Result<LayerMemory> layer_memory(const TokenWindows& windows,
                                                 const RunOptions& options) const;

 private:
  // One layer, the final norm, or, without a layer, the embeddings.
  [[nodiscard]] Result<void> run_alone(std::optional<std::uint32_t> layer, const TokenWindows& windows,
                                       const RunOptions& options, const FillStates& input,
                                       const TakeStates& output, ProgressSink& progress,
                                       const CancellationToken& cancel) const;
  const Engine* engine_;
};

}  // namespace quantfit::engine

// Runs a language model forward from its GGUF file: all tokens go through one layer before the next layer's
// weights are touched, so that each weight is read once per pass and memory does not grow with the model.
//
//   QF_ASSIGN(auto engine, Engine::open(model));
//   QF_ASSIGN(auto states, engine.run(windows, options, nullptr, progress, cancel));  // final states of all
//   tokens QF_ASSIGN(auto logits, engine.logits(states rows ...));
//
// The same inputs give the same bits for any number of threads, any instruction set and any memory limit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/engine/arithmetic.h"
#include "optimizer/engine/graph.h"
#include "optimizer/engine/hidden_states.h"

namespace quantfit::engine {

// Changes whenever the same inputs give other bits than before: part of the identity of what was gathered.
inline constexpr std::uint32_t kEngineVersion = 1;

// A text as independent sequences with positions from 0 on. Special tokens, and the token that begins a
// window, are the caller's business.
struct TokenWindows {
  std::vector<std::int32_t> tokens;    // of all windows, one after another
  std::vector<std::uint32_t> lengths;  // of each window; their sum is tokens.size()

  // Windows of `length` tokens each; a shorter rest is dropped.
  [[nodiscard]] static TokenWindows of_length(std::span<const std::int32_t> tokens, std::uint32_t length);
  [[nodiscard]] std::uint32_t longest() const;
};

struct RunOptions {
  unsigned threads = 0;  // 0: all cores
  // Bytes that the run may allocate; the mapping of the model file is not counted, its pages are given back
  // as layers are finished. 0: no limit.
  std::uint64_t memory_limit = 0;
  // Where hidden states go when they do not fit. Empty: the system's folder for temporary files.
  std::filesystem::path scratch_folder = {};
  // Most tokens that go through a layer at a time; 0: as many as use the machine well and fit.
  std::uint32_t batch_tokens = 0;
};

// What a run will need: known before it starts, kept to by it.
struct RunPlan {
  struct Item {
    std::string name;
    std::uint64_t bytes;
  };
  std::vector<Item> memory;         // allocations at the peak
  std::uint64_t memory_bytes = 0;   // their sum
  std::uint64_t scratch_bytes = 0;  // of the scratch file; 0: hidden states stay in memory
  std::uint32_t batch_tokens = 0;   // most tokens of a batch; batches are whole windows
  std::uint64_t tokens = 0;
  std::uint64_t weight_bytes = 0;  // read from the model file
  double multiply_adds = 0;        // of all products and attention scores, logits not included

  [[nodiscard]] std::string describe() const;  // a few lines for people
};

// Consecutive rows that went through one matrix.
struct MatrixProduct {
  std::uint32_t layer;   // graph().layers.size() for the output matrix
  const Matrix* matrix;  // matrix->tensor names it; a fused tensor is one matrix
  std::uint32_t index;   // expert or head inside the tensor, 0 .. matrix->count - 1
  // Products of one layer whose inputs are the same rows have the same number; inputs of the experts of one
  // layer share a number, too, and differ by index.
  std::uint32_t input_group;
  kernels::MatrixView<const float> input;  // rows x matrix->columns
  kernels::MatrixView<const float>
      output;  // rows x matrix->rows, bias not added; no rows for the output matrix
};

// Watches a run. Calls come one at a time, in the same order for any number of threads; between begin_layer
// and end_layer batch after batch, each in the order of tokens. Views are valid during the call. An error
// ends the run and is its result. Implementations may use oneTBB for work of their own.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  // `layer` may be graph().layers.size(): final norm and output matrix.
  virtual Result<void> begin_layer(std::uint32_t layer);
  // The layer's input (residual stream) for tokens first_token ..; of layer graph().layers.size(): the input
  // of the final norm.
  virtual Result<void> layer_input(std::uint32_t layer, std::uint64_t first_token,
                                   kernels::MatrixView<const float> rows);
  // Called for every matrix that multiplies activations; of experts, for those that
  // tokens of the batch chose.
  virtual Result<void> product(const MatrixProduct& product);
  virtual Result<void> end_layer(std::uint32_t layer);
};

// Begins in the middle: layer inputs that an earlier run handed out (layer_input) are given back.
struct Resume {
  std::uint32_t layer = 0;
  // Fills `rows` (tokens x width) with the inputs of `layer` for tokens first_token ...
  std::function<Result<void>(std::uint64_t first_token, kernels::MatrixView<float> rows)> layer_input;
};

// Bytes that stand in the places of tensors of the file, in their formats: info.bytes of them each.
using ReplacedTensors = std::unordered_map<const TensorInfo*, std::span<const std::byte>>;

// A model and the kernels of this machine. Immutable: calls from several threads may overlap. The Model must
// outlive it.
class Engine {
 public:
  // Errors of resolve(). A backward pass differentiates products as if nothing were rounded. Tensors of
  // `replaced` are read from there, which must outlive the engine; their owner may change them while nothing
  // runs. InvalidArgument where one has not the size of its tensor.
  [[nodiscard]] static Result<Engine> open(const Model& model, Arithmetic arithmetic = Arithmetic::Exact,
                                           ReplacedTensors replaced = {});
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  [[nodiscard]] const Model& model() const;
  [[nodiscard]] const ModelGraph& graph() const;
  // False where layers use keys of earlier ones: a run then has to begin at the first layer.
  [[nodiscard]] bool can_resume() const;

  // InvalidArgument: no tokens, a token outside the vocabulary, a window longer than the position embedding;
  // NoSpace when not even one window fits into the memory limit.
  [[nodiscard]] Result<RunPlan> plan(const TokenWindows& windows, const RunOptions& options) const;

  // Final states of all tokens, after the final norm: the inputs of the output matrix. Errors of plan(),
  // Interrupted, Malformed naming tensor and row for weights that are not finite, Io of the scratch file.
  // Progress counts tokens times layers. `observer` may be null, `resume` too (InvalidArgument where the
  // model shares keys between layers).
  [[nodiscard]] Result<HiddenStates> run(const TokenWindows& windows, const RunOptions& options,
                                         ForwardObserver* observer, ProgressSink& progress,
                                         const CancellationToken& cancel,
                                         const Resume* resume = nullptr) const;

  // Logits of final states: states.rows x vocabulary into `out`, everything of the model's head applied.
  // Logits of all rows of a text seldom fit into memory; blocks of some hundred rows use the machine well,
  // and the bits do not depend on the cut. `threads` as in RunOptions.
  [[nodiscard]] Result<void> logits(kernels::MatrixView<const float> states, kernels::MatrixView<float> out,
                                    unsigned threads = 0) const;
  // The same for tokens first .. first + columns - 1 of the vocabulary only, out.columns of them.
  [[nodiscard]] Result<void> logits_of(kernels::MatrixView<const float> states, std::uint32_t first_token,
                                       kernels::MatrixView<float> out, unsigned threads = 0) const;

 private:
  friend class BackwardPass;
  struct State;
  // run() without the layers from end_layer on; beyond graph().layers.size(): all of it.
  [[nodiscard]] Result<HiddenStates> run_to(std::uint32_t end_layer, const TokenWindows& windows,
                                            const RunOptions& options, ForwardObserver* observer,
                                            ProgressSink& progress, const CancellationToken& cancel,
                                            const Resume* resume) const;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quantfit::engine

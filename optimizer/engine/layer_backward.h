// Gradients of one layer on one batch of windows. Internal to the engine: backward.h is the interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "optimizer/engine/backward.h"
#include "optimizer/engine/layer.h"

namespace quantfit::engine {

// What layers owe to lower ones, for the whole text.
struct CarriedGradients {
  HiddenStates stream;         // at the input of the last layer that was done
  HiddenStates embedding;      // at the embeddings, from per-layer embeddings; no rows where there are none
  std::vector<KeptKeys> kept;  // per layer, at keys and values that later layers use; else no rows
};

// A LayerRunner that can also go back. Each function beside its forward pass in the file of the same name
// (attention.cpp and attention_backward.cpp ...). Naming: gradients_[B] is the gradient at what forward()
// left in buffers_[B], unless said otherwise.
class LayerBackward : public LayerRunner {
 public:
  using LayerRunner::LayerRunner;

  // As LayerRunner::scratch_floats, for both directions.
  [[nodiscard]] static std::size_t scratch_floats(const ModelGraph& graph, std::size_t longest);
  // Sizes of the gradients beside those of buffers_of().
  [[nodiscard]] static std::vector<BufferSpec> gradient_buffers_of(const ModelGraph& graph,
                                                                   const LayerGraph& layer);

  // Afterwards forward() and backward() may be called for this layer; with null output_backward() and
  // output_norm_backward().
  void begin_backward(const LayerGraph* layer, BackwardObserver* observer);
  // BackwardOptions::choice_error, and what decides signs.
  void expect_choice_errors(float share, std::uint64_t seed) { choice_error_ = share, choice_seed_ = seed; }
  // After forward(batch, ...) of the same batch. `input`: the layer's input, as forward() got it.
  // `gradient`: at the layer's output on entry, at its input on return.
  [[nodiscard]] Result<void> backward(const Batch& batch, MatrixView<const float> input,
                                      MatrixView<float> gradient, CarriedGradients& carried);
  // The output matrix for some tokens of the text: `normed` is what it read, dlogits the gradient at W x + b
  // (overwritten); dnormed is written.
  [[nodiscard]] Result<void> output_backward(std::uint64_t first_token, MatrixView<const float> normed,
                                             MatrixView<float> dlogits, MatrixView<float> dnormed);
  // The final norm: x is the last layer's output; its gradient is written.
  void output_norm_backward(const Batch& batch, MatrixView<const float> x, MatrixView<const float> dnormed,
                            MatrixView<float> gradient);
  // To the rows of the embedding: `gradient` at the first layer's input on entry, at the table's rows on
  // return.
  [[nodiscard]] Result<void> embedding_backward(const Batch& batch, MatrixView<float> gradient);
  // Tells the observer the gradients of norms that were added up since begin_backward.
  [[nodiscard]] Result<void> tell_parameters();

 private:
  // dx (+)= W^T dy. A task without dx only tells the observer.
  struct GradientTask {
    const Matrix* matrix;
    std::uint32_t index;
    std::size_t first;          // row of the matrix
    MatrixView<const float> x;  // what forward() multiplied
    MatrixView<float> dy;       // at the product with scale and bias; scaled on return
    MatrixView<float> dx;
    InputGroup group;
    bool add = true;
    std::span<const std::uint32_t> tokens = {};
  };
  // The dx of different tasks must not overlap.
  [[nodiscard]] Result<void> products_backward(std::span<const GradientTask> tasks);
  [[nodiscard]] Result<void> multiply_backward(const Matrix& matrix, InputGroup group,
                                               MatrixView<const float> x, MatrixView<float> dy,
                                               MatrixView<float> dx, bool add);
  // Adds to dx.
  [[nodiscard]] Result<void> project_backward(std::span<const Projection> projections, InputGroup group,
                                              MatrixView<const float> x, MatrixView<float> dy,
                                              MatrixView<float> dx);
  void run_backward_tiles(std::span<const GradientTask> tasks);

  // `heads` vectors of norm.size per row. dx is added to, or written, where it may be dy.
  void norm_backward(const Norm& norm, std::size_t heads, MatrixView<const float> x,
                     MatrixView<const float> dy, MatrixView<float> dx, bool add);
  void add_rows(MatrixView<const float> from, float factor, MatrixView<float> to);  // to += factor * from
  void scale_rows(MatrixView<float> x, float factor);
  void clear_rows(MatrixView<float> x);
  void rotate_backward(const Batch& batch, Rope rope, std::uint32_t rope_index, std::size_t heads,
                       std::size_t head_stride, MatrixView<float> dx, std::size_t offset);
  void scores_backward(const Batch& batch, const kernels::AttentionShape& shape, MatrixView<const float> q,
                       MatrixView<const float> k, MatrixView<const float> v, MatrixView<const float> out,
                       MatrixView<const float> dout, MatrixView<float> dq, MatrixView<float> dk,
                       MatrixView<float> dv);
  void convolve_backward(const Batch& batch, std::size_t kernel, std::span<const TensorInfo* const> taps,
                         MatrixView<const float> dy, MatrixView<float> dx);

  // All add to dinput, the gradient at the mixer's input; the gradient at the mixer's output is in
  // gradients_[MixerOutput].
  [[nodiscard]] Result<void> mixer_backward(const Batch& batch, MatrixView<const float> input,
                                            MatrixView<float> dinput, CarriedGradients& carried);
  [[nodiscard]] Result<void> attention_backward(const Batch& batch, MatrixView<const float> input,
                                                MatrixView<float> dinput, CarriedGradients& carried);
  [[nodiscard]] Result<void> latent_backward(const Batch& batch, MatrixView<const float> input,
                                             MatrixView<float> dinput);
  [[nodiscard]] Result<void> gated_delta_backward(const Batch& batch, MatrixView<const float> input,
                                                  MatrixView<float> dinput);
  [[nodiscard]] Result<void> key_delta_backward(const Batch& batch, MatrixView<const float> input,
                                                MatrixView<float> dinput);
  [[nodiscard]] Result<void> mamba2_backward(const Batch& batch, MatrixView<const float> input,
                                             MatrixView<float> dinput, InputGroup out_group);
  [[nodiscard]] Result<void> short_convolution_backward(const Batch& batch, MatrixView<const float> input,
                                                        MatrixView<float> dinput);
  // From hidden = act(gate, up) back: dgate_up is written.
  void activate_backward(const FfnGraph& graph, MatrixView<const float> gate_up,
                         MatrixView<const float> dhidden, MatrixView<float> dgate_up);
  // Adds to dinput.
  [[nodiscard]] Result<void> ffn_backward(const FfnGraph& graph, InputGroup input_group,
                                          InputGroup hidden_group, MatrixView<const float> input,
                                          Buffer gate_up, Buffer hidden, MatrixView<float> dout,
                                          MatrixView<float> dinput);
  // dout: at the experts' output (norm included), overwritten. Adds to the three gradients.
  [[nodiscard]] Result<void> experts_backward(const Batch& batch, MatrixView<const float> layer_input,
                                              MatrixView<const float> middle,
                                              MatrixView<const float> ffn_input, MatrixView<float> dout,
                                              MatrixView<float> dlayer_input, MatrixView<float> dmiddle,
                                              MatrixView<float> dffn_input);
  // Adds to dlogits, token by token, +- sqrt(h) (ds_a - ds_b): a the chosen expert with the lowest score s, b
  // the best one left out, m = s_a - s_b their margin, sigma = choice_error times the spread of s over
  // experts, h = C phi(m / sigma) m / sigma^3. C Phi(-m / sigma) is the expected cost of a change of choice
  // when m is off by a normal error of deviation sigma, h twice its derivative with respect to sigma^2. C =
  // (w_a dw_a)^2: the outputs of both experts are taken as unrelated and of equal size. choice_costs_ gets,
  // per token, C times a kernel of width choice_error around margins of zero, in spreads of s.
  void add_choice_errors(const Batch& batch, const kernels::RouterShape& shape);
  // `before`: the stream as the per-layer embedding met it. gradient: at the stream after it on entry, before
  // it on return.
  [[nodiscard]] Result<void> layer_embedding_backward(const Batch& batch, MatrixView<const float> before,
                                                      MatrixView<float> gradient, CarriedGradients& carried);

  BackwardObserver* back_observer_ = nullptr;
  float choice_error_ = 0;
  std::uint64_t choice_seed_ = 0;
  std::vector<double> choice_costs_;  // of the batch
  bool wants_parameters_ = false;
  std::vector<BufferSpec> gradient_specs_;
  Buffers gradients_;
  std::uint64_t first_token_ = 0;           // of the batch
  std::vector<std::size_t> window_starts_;  // rows of the batch, for sums by window
  std::map<const TensorInfo*, std::vector<double>> parameter_gradients_;
  void start_batch(const Batch& batch);
  std::vector<float> carried_buffer_, carried_value_buffer_;
};

}  // namespace quantfit::engine

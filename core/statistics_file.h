// What a forward and a backward pass of a text found out about every matrix of a model, and the file it is
// kept in.
//
// How much a change of the weights changes the model's predictions, in nats per token, to second order:
//
//   KL = 1/2 sum over matrices and rows i of G_i D_i
//
// G_i, `gradient`: mean over tokens of the squared gradient of -ln p(y) at output i of the matrix, y drawn
// from the model's own distribution; D_i: mean over tokens of the squared change of that output. A change dW
// of row i that is uncorrelated over inputs gives D_i = sum_j a_j dw_ij^2, a_j the mean square of input j,
// that is D_i = (relative error of row i) * E_i with E_i = sum_j a_j w_ij^2, `energy`. So with an error N of
// the whole tensor relative to its weighted energy,
//
//   KL(tensor) = F N,   F = 1/2 sum_i G_i E_i,
//
// which nats_by_window holds window by window. Mean squares a_j, `output` and `energy` of an expert are over
// the tokens that it saw; its G_i is the sum over those, divided by all tokens: the products need no further
// factor. A table (an embedding) is looked up, not multiplied: its rows' changes act on one token each, and
// F = 1/2 mean over tokens of sum_j g_tj^2 m(row of t), m the mean square of that row's weights.
// A tied embedding is a matrix and a table; its two terms add up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/gguf_writer.h"
#include "core/model.h"
#include "core/tensor_info.h"

namespace quantfit {

// One tensor of `matrices` matrices (experts, heads) with `rows` outputs each; arrays by matrix, then row.
struct MatrixStatistics {
  std::uint32_t rows = 0;
  std::uint32_t matrices = 1;
  std::vector<float> gradient;        // G_i
  std::vector<float> gradient_error;  // its standard error over windows; 0 with one window
  std::vector<float> output;          // E[y_i^2], bias and scale not included; empty: not known
  std::vector<float> energy;          // E_i
  std::vector<double> tokens;         // per matrix: that it saw
  // F of every window: the tensor's F is their mean, weighted by the windows' tokens.
  std::vector<double> nats_by_window;

  friend bool operator==(const MatrixStatistics&, const MatrixStatistics&) = default;
};

struct TableStatistics {
  std::uint32_t rows = 0;  // tokens of the vocabulary
  std::uint32_t columns = 0;
  std::vector<float> gradient;        // per column: mean over tokens of the squared gradient there
  std::vector<float> gradient_error;  // its standard error over windows
  std::vector<double> row_gradient;   // per row: sum over its tokens and all columns, divided by all tokens
  std::vector<double> row_tokens;     // per row: tokens of the text
  std::vector<double> nats_by_window;

  friend bool operator==(const TableStatistics&, const TableStatistics&) = default;
};

struct ModelStatistics {
  std::string model_fingerprint, text_fingerprint;
  std::uint32_t seed = 0;  // of the labels
  std::uint32_t engine_version = 0;
  // The share of their spread that routers' scores were taken to be off by, so that the gradients of what
  // decides them contain the cost of other choices; 0: they do not.
  float choice_error = 0;
  // What other choices of experts cost, nats per token, where the margins of all routers are off by normal
  // errors of deviation d, in spreads of their scores: choice_cost * d for small d, all layers together. 0:
  // no experts, or a file of an earlier program.
  double choice_cost = 0;
  std::vector<std::uint32_t> window_tokens;
  std::map<std::string, MatrixStatistics, std::less<>> matrices;  // by tensor name
  std::map<std::string, TableStatistics, std::less<>> tables;

  [[nodiscard]] std::uint64_t tokens() const;

  friend bool operator==(const ModelStatistics&, const ModelStatistics&) = default;
};

struct NatsEstimate {
  double value = 0;
  double standard_error = 0;  // over windows; 0 with one window
};

// Mean over windows, weighted by their tokens, with its standard error (ratio of sums, windows as units).
// `by_window`: a mean over tokens for every window.
[[nodiscard]] NatsEstimate mean_of_windows(std::span<const double> by_window,
                                           std::span<const std::uint32_t> window_tokens);

// Predicted KL divergence per token of a model whose tensors have these relative errors N, by tensor name;
// tensors without an entry are exact. The standard error is that of the text, windows as units. Names that
// the statistics do not know are left out.
[[nodiscard]] NatsEstimate predicted_divergence(
    const ModelStatistics& statistics, const std::map<std::string, double, std::less<>>& relative_errors);

// Writes the file in one go, or with further tensors behind the statistics: a run's state between two layers,
// say.
class StatisticsWriter {
 public:
  // `keys` and `extra` (names, dims, formats) come on top. InvalidArgument for sizes that do not fit together
  // and for names too long for GGUF with the suffixes below; Io and NoSpace of the file.
  [[nodiscard]] static Result<StatisticsWriter> create(const std::filesystem::path& path,
                                                       const ModelStatistics& statistics,
                                                       std::span<const GgufKeyValue> keys = {},
                                                       std::span<const TensorInfo> extra = {});
  // Data of the extra tensors, in order, in pieces of any size.
  [[nodiscard]] Result<void> append(std::span<const std::byte> bytes) { return writer_.append(bytes); }
  // The file appears complete, or not at all.
  [[nodiscard]] Result<void> commit() { return writer_.commit(); }

 private:
  explicit StatisticsWriter(GgufWriter writer) : writer_(std::move(writer)) {}
  GgufWriter writer_;
};

// The same statistics give the same bytes. A GGUF file, general.type "quantfit.statistics", keys
// statistics.version (1), .model, .text, .seed, .engine_version, .choice_error, .choice_cost (F64),
// .window_tokens; for every matrix NAME the tensors NAME.gradient, NAME.gradient_error, NAME.output,
// NAME.energy (F32, rows x matrices), NAME.tokens (F64, matrices) and NAME.nats (F64, windows); for every
// table NAME.lookup_gradient, NAME.lookup_gradient_error (F32, columns), NAME.lookup_row_gradient,
// NAME.lookup_row_tokens (F64, rows), NAME.lookup_nats (F64, windows). Names in ascending order.
[[nodiscard]] Result<void> write_statistics(const std::filesystem::path& path,
                                            const ModelStatistics& statistics);

// Io; Unsupported for a GGUF file of another kind or version, and for what a pass left that was interrupted;
// Malformed naming file and tensor for sizes that do not fit together, numbers that are not finite or are
// negative. Tensors with other suffixes are left alone.
[[nodiscard]] Result<ModelStatistics> read_statistics(const std::filesystem::path& path);
// The same from an open file, further tensors of which the caller reads for itself.
[[nodiscard]] Result<ModelStatistics> read_statistics(const Model& file);

}  // namespace quantfit

// Measures what each format costs each tensor, on a sample of its rows, in parallel.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/format_measurement.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"
#include "kernels/row_kernels.h"
#include "optimizer/measurement/covariance_provider.h"
#include "optimizer/measurement/error_model.h"

namespace quantfit::optimizer {

// How many rows are enough. Equal parameters choose equal rows; they are part of a run's identity.
struct SamplingParameters {
  // Rows are added until the standard error of every format's NMSE is below this share of it.
  double precision = 0.02;
  std::uint64_t min_rows = 32;        // at least this many (or the whole tensor)
  std::uint64_t max_rows = 1U << 20;  // never more
  std::uint64_t seed = 1;

  // Canonical text, for the state file.
  [[nodiscard]] std::string to_text() const;
};

// The `index`-th sampled row of a tensor with `matrices` stacked matrices of `rows_per_matrix` rows: walks
// the matrices in turn and, inside each, the rows in a fixed order that is spread evenly whatever its length.
// A bijection of 0 .. rows-1: the first n indices are the sample of size n, the same for every format.
class RowSample {
 public:
  RowSample(std::string_view tensor_name, std::uint64_t rows_per_matrix, std::uint64_t matrices,
            std::uint64_t seed);

  struct Row {
    std::uint64_t matrix;
    std::uint64_t row;  // inside the matrix
  };
  [[nodiscard]] Row at(std::uint64_t index) const;
  [[nodiscard]] std::uint64_t size() const { return rows_per_matrix_ * matrices_; }

 private:
  std::uint64_t rows_per_matrix_;
  std::uint64_t matrices_;
  std::uint64_t row_start_, row_step_;
  std::uint64_t matrix_start_, matrix_step_;
};

struct SampledTensor {
  std::uint64_t rows_sampled = 0;         // that were encoded
  std::vector<FormatMeasurement> errors;  // in the order of the formats asked for
};

struct SamplingTask {
  const TensorInfo* tensor = nullptr;
  std::vector<Format> formats;  // each has an encoder and fits the row length
};

struct SamplerOptions {
  SamplingParameters sampling;
  ErrorModel error_model;
  kernels::Effort effort = kernels::Effort::Default;
  unsigned threads = 0;  // 0: all cores
  // Where given, rows are encoded with error feedback and their errors are e^T C e; must outlive the call.
  const CovarianceProvider* covariances = nullptr;
};

// Weights that measuring `task` will touch at least: the unit of progress.
[[nodiscard]] std::uint64_t expected_weights(const SamplingTask& task, const SamplingParameters& sampling);

// Measures all tasks, by two-phase sampling (README.md, "Sampling"). `finished` is called once per tensor,
// never concurrently, in any order; an error that it returns stops the sampler. Returns Interrupted when
// `cancel` was set: tensors finished by then were reported, others left no trace. Malformed, naming tensor
// and row, for a weight that is not a finite number; Unsupported for weights so large (about 1e18) that their
// squares are not; Io when the model's files change meanwhile. The numbers do not depend on threads,
// instruction set, or the order of the tasks.
[[nodiscard]] Result<void> sample_tensors(
    const Model& model, const ImportanceMatrix* importance, std::span<const SamplingTask> tasks,
    const SamplerOptions& options, const kernels::RowKernels& kernels, ProgressSink& progress,
    const CancellationToken& cancel,
    const std::function<Result<void>(const SamplingTask&, const SampledTensor&)>& finished);

}  // namespace quantfit::optimizer

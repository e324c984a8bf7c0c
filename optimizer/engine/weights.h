// Weights of a file as numbers: rows for the products, decoded where they are used, and small tensors as a
// whole.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "kernels/math/math_kernels.h"
#include "kernels/row_kernels.h"
#include "optimizer/engine/arithmetic.h"
#include "optimizer/engine/forward.h"
#include "optimizer/engine/graph.h"
#include "optimizer/engine/workers.h"

namespace quantfit::engine {

// Immutable, except for what its owner does to replaced bytes between runs.
class Weights {
 public:
  Weights(const Model& model, const kernels::RowKernels& kernels, Arithmetic arithmetic = Arithmetic::Exact,
          ReplacedTensors replaced = {})
      : model_(&model), kernels_(&kernels), arithmetic_(arithmetic), replaced_(std::move(replaced)) {}

  // Rows first .. first + rows - 1 of matrix `index` of the tensor.
  [[nodiscard]] kernels::WeightRows rows(const Matrix& matrix, std::uint32_t index, std::size_t first,
                                         std::size_t rows) const;
  [[nodiscard]] kernels::WeightRows rows(const Matrix& matrix, std::uint32_t index = 0) const {
    return rows(matrix, index, 0, matrix.rows);
  }
  // Decodes row `row` of a tensor into `out`, row_length() values.
  void decode(const TensorInfo& tensor, std::uint64_t row, float* out) const;

  // Malformed, naming tensor and row, when weights are not finite; Interrupted. Reads every byte of the
  // tensors, which also brings them into memory.
  [[nodiscard]] Result<void> validate(std::span<const TensorInfo* const> tensors, Workers& workers,
                                      const CancellationToken& cancel) const;
  // Hints: these will be read soon, or not again for long.
  void will_need(std::span<const TensorInfo* const> tensors) const;
  void done_with(std::span<const TensorInfo* const> tensors) const;

  [[nodiscard]] const Model& model() const { return *model_; }
  [[nodiscard]] Arithmetic arithmetic() const { return arithmetic_; }

 private:
  // The bytes that count: of the file, or those in their place.
  [[nodiscard]] std::span<const std::byte> data(const TensorInfo& tensor) const;

  const Model* model_;
  const kernels::RowKernels* kernels_;
  Arithmetic arithmetic_;
  ReplacedTensors replaced_;
};

// The small tensors of one layer (norms, biases, taps of convolutions), decoded once. One thread at a time.
class Parameters {
 public:
  explicit Parameters(const Weights& weights) : weights_(&weights) {}
  // All values in file order; null for a null tensor.
  [[nodiscard]] const float* values(const TensorInfo* tensor);
  // [taps, channels] of the file as the kernels want it: cut into slices of `slice` channels, each tap by
  // tap.
  [[nodiscard]] const float* taps(const TensorInfo* tensor, std::size_t taps, std::size_t slice);
  void clear() { decoded_.clear(), transposed_.clear(); }

 private:
  const Weights* weights_;
  std::unordered_map<const TensorInfo*, std::vector<float>> decoded_, transposed_;
};

}  // namespace quantfit::engine

// From what a backward pass shows to gradients of the numbers that are tuned.
#pragma once

#include <tbb/enumerable_thread_specific.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "kernels/math/math_kernels.h"
#include "kernels/row_kernels.h"
#include "optimizer/engine/backward.h"
#include "optimizer/tuning/parameters.h"

namespace quantfit::tuning {

// Adds to Parameter::gradient: with dL/dW = sum over tokens of g x^T, a value's own entry; for the scale s_k
// of a block the sum over its weights of dL/dw u_k (kernels/block_scales.h). Where codes are tuned, dL/dW
// itself is added to Codes::gradient(), and Codes::step makes the scales' from it. Sums go window by window,
// so that they have the same bits however the engine cuts its batches.
class GradientCollector final : public engine::BackwardObserver {
 public:
  // `windows`: lengths, in the order of the pass's text. All must outlive the object.
  GradientCollector(const kernels::MathKernels& math, const kernels::RowKernels& rows, Parameters& parameters,
                    std::span<const std::uint32_t> windows);

  Result<void> gradient(const engine::MatrixGradient& g) override;
  Result<void> lookup(const engine::LookupGradient& g) override;
  Result<void> parameter(std::uint32_t layer, const TensorInfo& tensor,
                         std::span<const double> gradient) override;
  [[nodiscard]] bool wants_parameters() const override { return true; }

 private:
  struct Rows {  // of one window
    std::size_t first, count;
  };
  [[nodiscard]] std::vector<Rows> rows_by_window(const engine::MatrixGradient& g) const;
  void add_bias(const engine::MatrixGradient& g, std::span<const Rows> windows);
  void add_matrix(const engine::MatrixGradient& g, std::span<const Rows> windows, Parameter& parameter);
  // What blocks decode to when scale k is 1 and the others are 0; `bytes` is scratch.
  void decode_unit(Format format, std::span<const std::byte> blocks, std::size_t k,
                   std::vector<std::byte>& bytes, float* out) const;

  struct Scratch {
    std::vector<float> products, outer, units;
    std::vector<std::byte> bytes;
  };
  const kernels::MathKernels* math_;
  const kernels::RowKernels* rows_;
  Parameters* parameters_;
  std::vector<std::uint64_t> window_ends_;  // in tokens
  tbb::enumerable_thread_specific<Scratch> scratch_;
};

}  // namespace quantfit::tuning

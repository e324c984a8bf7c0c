// From an importance matrix to the metric that encoders minimize and the sampler reports; design:
// error_model.md.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/tensor_info.h"
#include "kernels/error_metric.h"

namespace quantfit::optimizer {

// Parameters of the error model. Equal parameters give equal measurements; they are part of a run's identity.
struct ErrorModel {
  static constexpr float kKappa = 5.0F;
  static constexpr float kAveragedKappa = 20.0F;

  // Weight of an error along the row (the gain term) for all tensors alike; 1 leaves the term out. Without
  // it: kAveragedKappa where the outputs are averaged afterwards (values, by attention; up and gate
  // projections, by the columns of the down projection), kKappa elsewhere. error_model.md says why and how
  // they were chosen.
  std::optional<float> kappa;

  [[nodiscard]] float kappa_of(std::string_view tensor) const;
  // Canonical text, for the state file.
  [[nodiscard]] std::string to_text() const;
};

// The metric of each matrix of a tensor (one, or one per expert) and each matrix's
// weight in sums over the tensor.
struct TensorMetric {
  std::vector<kernels::ColumnMetric> matrices;  // one per matrix of the tensor, or a single one shared by all
  std::vector<double> weights;                  // per matrix: its share of routed tokens, averaging 1
  bool from_importance = false;                 // false: every column weighs 1

  [[nodiscard]] const kernels::ColumnMetric& of(std::uint64_t matrix) const {
    return matrices.size() == 1 ? matrices[0] : matrices[matrix];
  }
  [[nodiscard]] double weight(std::uint64_t matrix) const { return weights.empty() ? 1.0 : weights[matrix]; }
};

// `importance` may be null. ShapeMismatch when its entry does not fit the tensor.
[[nodiscard]] Result<TensorMetric> make_tensor_metric(const TensorInfo& tensor,
                                                      const ImportanceMatrix* importance,
                                                      const ErrorModel& model);

}  // namespace quantfit::optimizer

// From an importance matrix to the metric that encoders minimize and the sampler reports; design: error_model.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/tensor_info.h"
#include "kernels/error_metric.h"

namespace quantfit::optimizer {

// Parameters of the error model. Equal parameters give equal measurements; they are part of a run's identity.
struct ErrorModel {
  // Weight of an error along the row (the gain term); 1 leaves the term out. Measured on two trained models, whole
  // model in one format, KL divergence at kappa 1, 2, 3, 5: IQ1_S 0.251, 0.179, 0.165, 0.156; IQ2_XXS 0.081, 0.066,
  // 0.062, 0.060; Q2_K 0.0435, 0.0378, 0.0373, 0.0369; Q4_K 0.00268, 0.00264, 0.00262, 0.00263. The true output error
  // under held-out second moments is flat between 2 and 8.
  float kappa = 5.0F;

  // Canonical text, for the state file.
  [[nodiscard]] std::string to_text() const;
};

// The metric of each matrix of a tensor (one, or one per expert) and each matrix's weight in sums over the tensor.
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
[[nodiscard]] Result<TensorMetric> make_tensor_metric(const TensorInfo& tensor, const ImportanceMatrix* importance,
                                                      const ErrorModel& model);

}  // namespace quantfit::optimizer

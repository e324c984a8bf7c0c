// Where the sampler and the writer get the full second moments of inputs from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/tensor_info.h"
#include "kernels/covariance.h"

namespace quantfit::optimizer {

// Covariances of the inputs of a model's matrices, made or read when they are asked for. Sampler and writer
// take the same one, so that what is predicted is what is written.
class CovarianceProvider {
 public:
  virtual ~CovarianceProvider() = default;

  // Of matrix `matrix` of `tensor` (0 where it is one matrix, else the expert), for rows of
  // tensor.row_length() weights. Null where nothing is known: that matrix is encoded and measured with the
  // diagonal metric. Called by several threads at once, the same matrix again and again.
  [[nodiscard]] virtual Result<std::shared_ptr<const kernels::CovarianceFactor>> covariance(
      const TensorInfo& tensor, std::uint64_t matrix) const = 0;

  // Canonical text of all that decides the covariances (the moments' fingerprint, form, damping): a part of a
  // run's identity, beside the error model, since measurements with and without them must not mix.
  [[nodiscard]] virtual std::string identity() const = 0;
};

// The metric of a run as the state file knows it: `error_model` and, unless null, `covariances`.
[[nodiscard]] std::string metric_identity(const std::string& error_model,
                                          const CovarianceProvider* covariances);

}  // namespace quantfit::optimizer

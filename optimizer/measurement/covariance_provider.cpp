#include "optimizer/measurement/covariance_provider.h"

namespace quantfit::optimizer {

std::string metric_identity(const std::string& error_model, const CovarianceProvider* covariances) {
  if (covariances == nullptr) return error_model;
  return error_model + " covariances=" + covariances->identity();
}

}  // namespace quantfit::optimizer

#include "optimizer/measurement/covariance_provider.h"

#include "optimizer/measurement/interaction.h"

namespace quantfit::optimizer {

std::string metric_identity(const std::string& error_model, const CovarianceProvider* covariances) {
  if (covariances == nullptr) return error_model;
  return fmt::format("{} covariances={} interaction={}", error_model, covariances->identity(), kInteraction);
}

}  // namespace quantfit::optimizer

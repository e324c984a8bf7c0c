#include "optimizer/measurement/error_model.h"

#include <utility>

#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {

float ErrorModel::kappa_of(std::string_view tensor) const {
  if (kappa) return *kappa;
  switch (recipe_role(tensor)) {
    case RecipeRole::V:
    case RecipeRole::Up:
    case RecipeRole::Gate:
      return kAveragedKappa;
    default:
      return kKappa;
  }
}

std::string ErrorModel::to_text() const {
  if (kappa) return fmt::format("kappa={}", *kappa);
  return fmt::format("kappa={},v={},up={},gate={}", kKappa, kAveragedKappa, kAveragedKappa, kAveragedKappa);
}

Result<TensorMetric> make_tensor_metric(const TensorInfo& tensor, const ImportanceMatrix* importance,
                                        const ErrorModel& model) {
  TensorMetric metric;
  std::optional<std::vector<ColumnStatistics>> statistics;
  if (importance != nullptr) {
    QF_ASSIGN(statistics, importance->statistics(tensor));
  }
  const std::size_t columns = tensor.row_length();
  const float kappa = model.kappa_of(tensor.name);
  if (!statistics) {
    metric.matrices.emplace_back(columns, std::span<const float>{}, std::span<const float>{}, kappa);
    return metric;
  }
  metric.from_importance = true;
  metric.matrices.reserve(statistics->size());
  double tokens = 0;
  for (const ColumnStatistics& matrix : *statistics) {
    metric.matrices.emplace_back(columns, matrix.mean_square, matrix.mean, kappa);
    tokens += matrix.tokens;
  }
  if (statistics->size() > 1) {
    // An expert that calibration never reached still is read by somebody: it counts as one token. Its error
    // would otherwise be free, and so would be any damage to it.
    const double mean = tokens / static_cast<double>(statistics->size());
    for (const ColumnStatistics& matrix : *statistics)
      metric.weights.push_back(mean > 0 ? std::max(matrix.tokens, 1.0) / mean : 1.0);
  }
  return metric;
}

}  // namespace quantfit::optimizer

#include "kernels/covariance.h"

#include <algorithm>
#include <cmath>

namespace quantfit::kernels {

bool has_error_feedback(Format format) {
  switch (format) {
    case Format::Q4_0:
    case Format::Q4_1:
    case Format::Q5_0:
    case Format::Q5_1:
    case Format::Q8_0:
    case Format::Q2_K:
    case Format::Q3_K:
    case Format::Q4_K:
    case Format::Q5_K:
    case Format::Q6_K:
    case Format::IQ1_S:
    case Format::IQ1_M:
    case Format::IQ2_XXS:
    case Format::IQ2_XS:
    case Format::IQ2_S:
    case Format::IQ3_XXS:
    case Format::IQ3_S:
    case Format::IQ4_NL:
    case Format::IQ4_XS:
    case Format::MXFP4:
    case Format::NVFP4:
    case Format::Q1_0:
    case Format::Q2_0:
    case Format::TQ1_0:
    case Format::TQ2_0:
      return true;
    default:
      return false;
  }
}

std::vector<float> CovarianceFactor::group_costs(std::size_t size) const {
  std::vector<float> costs(stride_ * size, 0.0F);
  for (std::size_t i = 0; i < columns_; ++i)
    for (std::size_t k = i / size * size; k < std::min(i / size * size + size, columns_); ++k) {
      double cost = 0;
      for (std::size_t j = std::max(i, k); j < std::min(i / size * size + size, columns_); ++j)
        cost +=
            double{feedback_[i * stride_ + j]} * double{innovations_[j]} * double{feedback_[k * stride_ + j]};
      costs[i * size + k % size] = static_cast<float>(cost);
    }
  return costs;
}

Result<CovarianceFactor> CovarianceFactor::make(std::size_t columns, std::span<const float> moments,
                                                float damping) {
  if (columns == 0 || moments.size() / columns != columns || moments.size() % columns != 0)
    return fail(ErrorCode::ShapeMismatch, "second moments of {} columns need {} x {} numbers, not {}",
                columns, columns, columns, moments.size());
  double trace = 0;
  for (std::size_t i = 0; i < columns; ++i) trace += double{moments[i * columns + i]};
  const double mean = trace / static_cast<double>(columns);
  if (!(mean > 0) || !std::isfinite(mean))
    return fail(ErrorCode::Malformed, "second moments have a diagonal with mean {}", mean);

  CovarianceFactor factor;
  factor.columns_ = columns;
  factor.stride_ = (columns + 255) / 256 * 256;
  const std::size_t stride = factor.stride_;

  // From the last column to the first: D_j = C_jj, U_ij = C_ij / D_j, and C_ik -= U_ij D_j U_kj for i, k < j.
  // `c` keeps the lower triangle; its row j ends as D_j U_ij.
  std::vector<double> c(columns * columns);
  for (std::size_t i = 0; i < columns; ++i)
    for (std::size_t j = 0; j <= i; ++j) c[i * columns + j] = double{moments[i * columns + j]} / mean;
  for (std::size_t i = 0; i < columns; ++i) c[i * columns + i] += double{damping};
  std::vector<double> innovation(columns);
  for (std::size_t j = columns; j-- > 0;) {
    double* last = &c[j * columns];
    const double d = last[j];
    if (!(d > 1e-12) || !std::isfinite(d))
      return fail(ErrorCode::Malformed, "second moments are not positive definite at column {}", j);
    innovation[j] = d;
    for (std::size_t i = 0; i < j; ++i) {
      const double u = last[i] / d;
      double* line = &c[i * columns];
      for (std::size_t k = 0; k <= i; ++k) line[k] -= u * last[k];
    }
  }

  factor.feedback_.assign(columns * stride, 0.0F);
  for (std::size_t j = 0; j < columns; ++j) {
    factor.feedback_[j * stride + j] = 1.0F;
    for (std::size_t i = 0; i < j; ++i)
      factor.feedback_[i * stride + j] = static_cast<float>(c[j * columns + i] / innovation[j]);
  }
  factor.innovation_tiles_.assign(stride, 0.0F);
  for (std::size_t j = 0; j < columns; ++j)
    factor.innovation_tiles_[j / 256 * 256 + 16 * (j % 16) + j % 256 / 16] =
        static_cast<float>(innovation[j]);

  factor.innovations_.assign(stride, 0.0F);
  for (std::size_t j = 0; j < columns; ++j) factor.innovations_[j] = static_cast<float>(innovation[j]);
  factor.group_cost_4_ = factor.group_costs(4);
  factor.group_cost_8_ = factor.group_costs(8);

  factor.tile_cost_.assign(stride * 256, 0.0F);
  for (std::size_t first = 0; first < columns; first += 256) {
    const std::size_t end = std::min(columns, first + 256);
    std::vector<double> cost(256 * 256, 0.0);
    for (std::size_t j = first; j < end; ++j)  // u_j D_j u_j^T, u_j = column j of U
      for (std::size_t i = first; i <= j; ++i) {
        const double left = double{factor.feedback_[i * stride + j]} * innovation[j];
        for (std::size_t k = first; k <= i; ++k)
          cost[(i - first) * 256 + (k - first)] += left * double{factor.feedback_[k * stride + j]};
      }
    for (std::size_t i = first; i < end; ++i)
      for (std::size_t k = first; k < end; ++k) {
        const std::size_t row = std::max(i, k) - first;
        const std::size_t column = std::min(i, k) - first;
        factor.tile_cost_[i * 256 + (k - first)] = static_cast<float>(cost[row * 256 + column]);
      }
  }
  return factor;
}

}  // namespace quantfit::kernels

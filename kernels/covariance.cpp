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

namespace {

// U D U^T = C for a symmetric matrix of n columns whose lower triangle lies in `c`, row by row: afterwards
// row j holds D_j U_ij for i < j, and D_j. False where a D_j is not positive; `bad` then has the column.
//
// From the last column to the first: D_j = C_jj, U_ij = C_ij / D_j, C_ik -= U_ij D_j U_kj for i, k < j.
// Columns are taken kPanel at a time, so that what remains is read once for all of them; each element still
// sees the same operations in the same order, on every machine (no fused multiply-add, no reordered sums).
bool factorize(std::vector<double>& c, std::size_t n, std::size_t& bad) {
  constexpr std::size_t kPanel = 16;
  constexpr std::size_t kRun = 512;  // columns at a time: the panel's part of them stays in the cache
  std::vector<double> ratios(n * kPanel);
  for (std::size_t end = n; end > 0;) {
    const std::size_t begin = end > kPanel ? end - kPanel : 0;
    for (std::size_t j = end; j-- > begin;) {
      double* last = &c[j * n];
      const double d = last[j];
      if (!(d > 1e-12) || !std::isfinite(d)) {
        bad = j;
        return false;
      }
      for (std::size_t i = 0; i < j; ++i) ratios[i * kPanel + (j - begin)] = last[i] / d;
      for (std::size_t i = begin; i < j; ++i) {
        const double u = ratios[i * kPanel + (j - begin)];
        double* line = &c[i * n];
        for (std::size_t k = 0; k <= i; ++k) line[k] -= u * last[k];
      }
    }
    for (std::size_t first = 0; first < begin; first += kRun)
      for (std::size_t i = first; i < begin; ++i) {
        double* line = &c[i * n];
        const std::size_t last = std::min(i + 1, first + kRun);
        for (std::size_t j = end; j-- > begin;) {
          const double u = ratios[i * kPanel + (j - begin)];
          const double* other = &c[j * n];
          for (std::size_t k = first; k < last; ++k) line[k] -= u * other[k];
        }
      }
    end = begin;
  }
  return true;
}

Result<double> mean_of_diagonal(double trace, std::size_t columns) {
  const double mean = trace / static_cast<double>(columns);
  if (!(mean > 0) || !std::isfinite(mean))
    return fail(ErrorCode::Malformed, "second moments have a diagonal with mean {}", mean);
  return mean;
}

}  // namespace

Result<CovarianceFactor> CovarianceFactor::make(std::size_t columns, std::span<const float> moments,
                                                float damping) {
  return make_blocks(columns, (columns + 255) / 256 * 256, moments, damping);
}

Result<CovarianceFactor> CovarianceFactor::make_blocks(std::size_t columns, std::size_t block,
                                                       std::span<const float> moments, float damping) {
  if (columns == 0 || block == 0 || block % 256 != 0)
    return fail(ErrorCode::ShapeMismatch, "second moments of {} columns in blocks of {}", columns, block);
  const std::size_t rest = columns % block;
  const std::size_t whole = columns / block;
  // Numbers of more than 2^64 would need more memory than there is: no span is so long.
  const std::size_t size = whole * block * block + rest * rest;
  if (moments.size() != size || (block < columns && moments.size() / block / block < whole))
    return fail(ErrorCode::ShapeMismatch, "second moments of {} columns need {} numbers, not {}", columns,
                size, moments.size());

  CovarianceFactor factor;
  factor.columns_ = columns;
  factor.stride_ = (columns + 255) / 256 * 256;
  factor.block_ = std::min(block, factor.stride_);
  factor.damping_ = damping;
  double trace = 0;
  std::size_t at = 0;
  for (std::size_t first = 0; first < columns; first += block) {
    const std::size_t n = std::min(block, columns - first);
    for (std::size_t i = 0; i < n; ++i) trace += double{moments[at + i * n + i]};
    at += n * n;
  }
  QF_ASSIGN(factor.scale_, mean_of_diagonal(trace, columns));

  factor.feedback_.assign(columns * factor.block_, 0.0F);
  factor.innovations_.assign(factor.stride_, 0.0F);
  factor.diagonal_.resize(columns);
  std::vector<double> c;
  at = 0;
  for (std::size_t first = 0; first < columns; first += block) {
    const std::size_t n = std::min(block, columns - first);
    c.assign(n * n, 0.0);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j <= i; ++j) c[i * n + j] = double{moments[at + i * n + j]} / factor.scale_;
      factor.diagonal_[first + i] = static_cast<float>(c[i * n + i]);
      c[i * n + i] += double{damping};
    }
    at += n * n;
    std::size_t bad = 0;
    if (!factorize(c, n, bad))
      return fail(ErrorCode::Malformed, "second moments are not positive definite at column {}", first + bad);
    for (std::size_t j = 0; j < n; ++j) {
      const double d = c[j * n + j];
      factor.innovations_[first + j] = static_cast<float>(d);
      factor.feedback_[(first + j) * factor.block_ + j] = 1.0F;
      for (std::size_t i = 0; i < j; ++i)
        factor.feedback_[(first + i) * factor.block_ + j] = static_cast<float>(c[j * n + i] / d);
    }
  }
  factor.derive();
  return factor;
}

Result<CovarianceFactor> CovarianceFactor::with_diagonal(std::span<const float> second_moments) const {
  if (second_moments.size() != columns_)
    return fail(ErrorCode::ShapeMismatch, "{} second moments for a covariance of {} columns",
                second_moments.size(), columns_);
  double trace = 0;
  for (const float a : second_moments) {
    if (!std::isfinite(a) || a < 0.0F) return fail(ErrorCode::Malformed, "a second moment of {}", a);
    trace += double{a};
  }
  CovarianceFactor factor;
  factor.columns_ = columns_;
  factor.stride_ = stride_;
  factor.block_ = block_;
  factor.damping_ = damping_;
  QF_ASSIGN(factor.scale_, mean_of_diagonal(trace, columns_));
  // S C S = (S U S^-1) (S D S) (S U S^-1)^T.
  factor.diagonal_.resize(columns_);
  std::vector<float> stretch(stride_, 1.0F);
  std::vector<float> inverse(stride_, 1.0F);
  factor.innovations_.assign(stride_, 0.0F);
  for (std::size_t j = 0; j < columns_; ++j) {
    const double a = double{second_moments[j]} / factor.scale_;
    // Without damping a column that is always zero keeps a little weight: its scale is divided by below.
    const double wanted = std::max(a + double{damping_}, 1e-6);
    const double has = std::max(double{diagonal_[j]} + double{damping_}, 1e-6);
    factor.diagonal_[j] = static_cast<float>(a);
    stretch[j] = static_cast<float>(std::sqrt(wanted / has));
    inverse[j] = 1.0F / stretch[j];
    factor.innovations_[j] = innovations_[j] * stretch[j] * stretch[j];
  }
  factor.feedback_.resize(feedback_.size());
  for (std::size_t i = 0; i < columns_; ++i) {
    const float* from = &feedback_[i * block_];
    const float* over = &inverse[i / block_ * block_];
    float* to = &factor.feedback_[i * block_];
    // The last block of columns may be shorter than its rows.
    const std::size_t n = std::min(block_, stride_ - i / block_ * block_);
    for (std::size_t j = 0; j < n; ++j) to[j] = from[j] * stretch[i] * over[j];
  }
  factor.derive();
  return factor;
}

void CovarianceFactor::derive() {
  innovation_tiles_.assign(stride_, 0.0F);
  for (std::size_t j = 0; j < columns_; ++j)
    innovation_tiles_[j / 256 * 256 + 16 * (j % 16) + j % 256 / 16] = innovations_[j];
  group_cost_4_ = group_costs(4);
  group_cost_8_ = group_costs(8);

  tile_cost_.assign(stride_ * 256, 0.0F);
  std::vector<double> cost(std::size_t{256} * 256);
  for (std::size_t first = 0; first < columns_; first += 256) {
    const std::size_t end = std::min(columns_, first + 256);
    std::ranges::fill(cost, 0.0);
    std::vector<double> u(256);
    for (std::size_t j = first; j < end; ++j) {  // u_j D_j u_j^T, u_j = column j of U
      for (std::size_t i = first; i <= j; ++i) u[i - first] = double{*feedback(i, j)};
      for (std::size_t i = 0; i <= j - first; ++i) {
        const double left = u[i] * double{innovations_[j]};
        for (std::size_t k = 0; k <= i; ++k) cost[i * 256 + k] += left * u[k];
      }
    }
    for (std::size_t i = 0; i < end - first; ++i)
      for (std::size_t k = 0; k < end - first; ++k)
        tile_cost_[(first + i) * 256 + k] = static_cast<float>(cost[std::max(i, k) * 256 + std::min(i, k)]);
  }
}

std::vector<float> CovarianceFactor::group_costs(std::size_t size) const {
  std::vector<float> costs(stride_ * size, 0.0F);
  for (std::size_t i = 0; i < columns_; ++i) {
    const std::size_t end = std::min(i / size * size + size, columns_);
    for (std::size_t k = i / size * size; k < end; ++k) {
      double cost = 0;
      for (std::size_t j = std::max(i, k); j < end; ++j)
        cost += double{*feedback(i, j)} * double{innovations_[j]} * double{*feedback(k, j)};
      costs[i * size + k % size] = static_cast<float>(cost);
    }
  }
  return costs;
}

}  // namespace quantfit::kernels

#include "kernels/covariance.h"

#include <algorithm>
#include <cmath>
#include <memory>

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

void for_each(const ForEach& each, std::size_t count, const std::function<void(std::size_t)>& body) {
  if (each && count > 1) {
    each(count, body);
  } else {
    for (std::size_t i = 0; i < count; ++i) body(i);
  }
}

// U D U^T = C for a symmetric matrix of n columns whose lower triangle lies in `c`, row by row: afterwards
// row j holds D_j U_ij for i < j, and D_j. False where a D_j is not positive; `bad` then has the column.
//
// From the last column to the first: D_j = C_jj, U_ij = C_ij / D_j, C_ik -= U_ij D_j U_kj for i, k < j.
// Columns are taken kPanel at a time, so that what remains is read once for all of them; each element still
// sees the same operations in the same order, on every machine (no fused multiply-add, no reordered sums) and
// whoever takes which rows.
bool factorize(double* c, std::size_t n, std::size_t& bad, const ForEach& each) {
  constexpr std::size_t kPanel = 16;
  constexpr std::size_t kRows = 64;  // that one task takes
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
    for_each(each, (begin + kRows - 1) / kRows, [&](std::size_t task) {
      const std::size_t top = task * kRows;
      const std::size_t bottom = std::min(top + kRows, begin);
      for (std::size_t first = 0; first < bottom; first += kRun)
        for (std::size_t i = std::max(first, top); i < bottom; ++i) {
          double* line = &c[i * n];
          const std::size_t last = std::min(i + 1, first + kRun);
          for (std::size_t j = end; j-- > begin;) {
            const double u = ratios[i * kPanel + (j - begin)];
            const double* other = &c[j * n];
            for (std::size_t k = first; k < last; ++k) line[k] -= u * other[k];
          }
        }
    });
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
                                                float damping, float shrinkage, const ForEach& each) {
  return make_blocks(columns, (columns + 255) / 256 * 256, moments, damping, shrinkage, each);
}

namespace {

// That `size` is what blocks of all columns come to, each of `numbers(columns of it)`.
template <class Numbers>
Result<void> check_size(std::size_t columns, std::size_t block, std::size_t size, const Numbers& numbers) {
  if (columns == 0 || block == 0 || block % 256 != 0)
    return fail(ErrorCode::ShapeMismatch, "second moments of {} columns in blocks of {}", columns, block);
  const std::size_t whole = columns / block;
  // Numbers of more than 2^64 would need more memory than there is: no span is so long.
  const std::size_t needed = whole * numbers(block) + numbers(columns % block);
  if (size != needed || (block < columns && size / numbers(block) < whole))
    return fail(ErrorCode::ShapeMismatch, "second moments of {} columns need {} numbers, not {}", columns,
                needed, size);
  return outcome::success();
}

}  // namespace

Result<CovarianceFactor> CovarianceFactor::make_blocks(std::size_t columns, std::size_t block,
                                                       std::span<const float> moments, float damping,
                                                       float shrinkage, const ForEach& each) {
  QF_TRY(check_size(columns, block, moments.size(), [](std::size_t n) { return n * n; }));
  return make_of_rows(
      columns, block,
      [&](std::size_t b, std::size_t n, std::size_t i) { return &moments[b * block * block + i * n]; },
      damping, shrinkage, each);
}

Result<CovarianceFactor> CovarianceFactor::make_packed(std::size_t columns, std::size_t block,
                                                       std::span<const float> triangles, float damping,
                                                       float shrinkage, const ForEach& each) {
  const auto packed = [](std::size_t n) { return n * (n + 1) / 2; };
  QF_TRY(check_size(columns, block, triangles.size(), packed));
  return make_of_rows(
      columns, block,
      [&](std::size_t b, std::size_t, std::size_t i) { return &triangles[b * packed(block) + packed(i)]; },
      damping, shrinkage, each);
}

template <class Row>
Result<CovarianceFactor> CovarianceFactor::make_of_rows(std::size_t columns, std::size_t block,
                                                        const Row& row, float damping, float shrinkage,
                                                        const ForEach& each) {
  CovarianceFactor factor;
  factor.columns_ = columns;
  factor.stride_ = (columns + 255) / 256 * 256;
  factor.block_ = std::min(block, factor.stride_);
  factor.damping_ = damping;
  double trace = 0;
  for (std::size_t j = 0; j < columns; ++j) {
    const std::size_t first = j / block * block;
    trace += double{row(j / block, std::min(block, columns - first), j - first)[j - first]};
  }
  QF_ASSIGN(factor.scale_, mean_of_diagonal(trace, columns));

  factor.feedback_.assign(columns * factor.block_, 0.0F);
  factor.innovations_.assign(factor.stride_, 0.0F);
  factor.diagonal_.resize(columns);
  const std::size_t blocks = (columns + block - 1) / block;
  std::vector<std::size_t> bad(blocks, columns);  // columns where a block ends early
  for_each(each, blocks, [&](std::size_t b) {
    const std::size_t first = b * block;
    const std::size_t n = std::min(block, columns - first);
    const double kept = 1 - double{shrinkage};
    constexpr std::size_t kLines = 64;  // that one task takes
    const std::size_t tasks = (n + kLines - 1) / kLines;
    const auto c = std::make_unique_for_overwrite<double[]>(n * n);  // its lower triangle
    for_each(each, tasks, [&](std::size_t task) {
      for (std::size_t i = task * kLines; i < std::min(n, (task + 1) * kLines); ++i) {
        const float* line = row(b, n, i);
        for (std::size_t j = 0; j < i; ++j) c[i * n + j] = kept * (double{line[j]} / factor.scale_);
        c[i * n + i] = double{line[i]} / factor.scale_;
        factor.diagonal_[first + i] = static_cast<float>(c[i * n + i]);
        c[i * n + i] += double{damping};
      }
    });
    std::size_t column = 0;
    if (!factorize(c.get(), n, column, each)) {
      bad[b] = first + column;
      return;
    }
    for_each(each, tasks, [&](std::size_t task) {
      for (std::size_t j = task * kLines; j < std::min(n, (task + 1) * kLines); ++j) {
        const double d = c[j * n + j];
        factor.innovations_[first + j] = static_cast<float>(d);
        factor.feedback_[(first + j) * factor.block_ + j] = 1.0F;
        for (std::size_t i = 0; i < j; ++i)
          factor.feedback_[(first + i) * factor.block_ + j] = static_cast<float>(c[j * n + i] / d);
      }
    });
  });
  if (const std::size_t column = std::ranges::min(bad); column < columns)
    return fail(ErrorCode::Malformed, "second moments are not positive definite at column {}", column);
  factor.derive(each);
  return factor;
}

Result<CovarianceFactor> CovarianceFactor::with_diagonal(std::span<const float> second_moments,
                                                         const ForEach& each) const {
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
  factor.derive(each);
  return factor;
}

void CovarianceFactor::derive(const ForEach& each) {
  innovation_tiles_.assign(stride_, 0.0F);
  for (std::size_t j = 0; j < columns_; ++j)
    innovation_tiles_[j / 256 * 256 + 16 * (j % 16) + j % 256 / 16] = innovations_[j];
  group_cost_4_ = group_costs(4);
  group_cost_8_ = group_costs(8);

  tile_cost_.assign(stride_ * 256, 0.0F);
  for_each(each, stride_ / 256, [&](std::size_t tile) {
    const std::size_t first = tile * 256;
    const std::size_t end = std::min(columns_, first + 256);
    std::vector<double> cost(std::size_t{256} * 256);
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
  });
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

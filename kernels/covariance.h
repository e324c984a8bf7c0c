// Full second moments of a layer's inputs, factored for rounding with error feedback.
//
// With C = E[x x^T] the expected squared output error of a row error e is exactly e^T C e. Factor C = U D U^T
// with U upper triangular and unit diagonal; then
//   e^T C e = sum_j D_j (e_j + sum_{i < j} U_ij e_i)^2,
// and coding the columns in order, each against a target that takes back what the earlier errors cause
// (x_j - sum_{i < j} U_ij e_i), minimizes one term after another (the order of GPTQ and LDLQ).
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/format.h"

namespace quantfit::kernels {

// The formats whose encoders round with error feedback when the metric has a covariance: those with a code
// per weight (uniform levels, or a table of them). All others leave it unread.
[[nodiscard]] bool has_error_feedback(Format format);

// Calls body(0) .. body(count - 1) in any order, on any threads, and returns when all are done. Empty: one
// after the other. What is made with it has the same bits.
using ForEach = std::function<void(std::size_t count, const std::function<void(std::size_t)>& body)>;

// Full, or block-diagonal: correlations inside blocks of a multiple of 256 columns only, for inputs so wide
// that columns^2 floats do not fit. Immutable once made; threads may share it. Holds about (block + 270) *
// columns floats, `block` = columns where it is full.
class CovarianceFactor {
 public:
  // Measured with 1e5 tokens of calibration, dense example model: the output error under held-out moments is
  // flat between 0.01 and 0.1 and grows on both sides, KL divergences agree (benchmarks/README.md).
  static constexpr float kDamping = 0.03F;

  // `moments`: E[x_i x_j] as a full symmetric matrix, row by row (only i >= j is read). `damping` times the
  // mean of the diagonal is added to the diagonal: moments of finitely many tokens are not trusted to the
  // last direction. ShapeMismatch when the size is not columns^2, Malformed when the matrix is not finite or,
  // damping included, not positive definite.
  // `shrinkage`, 0 to 1: the share of everything beside the diagonal that is left out.
  [[nodiscard]] static Result<CovarianceFactor> make(std::size_t columns, std::span<const float> moments,
                                                     float damping = kDamping, float shrinkage = 0,
                                                     const ForEach& each = {});

  // The same from diagonal blocks alone: `moments` holds a full symmetric matrix for each run of `block`
  // columns, a multiple of 256 (the last run may be shorter), one after another. ShapeMismatch, Malformed as
  // above.
  [[nodiscard]] static Result<CovarianceFactor> make_blocks(std::size_t columns, std::size_t block,
                                                            std::span<const float> moments,
                                                            float damping = kDamping, float shrinkage = 0,
                                                            const ForEach& each = {});

  // The same from lower triangles: `triangles` holds those of each block, row by row.
  [[nodiscard]] static Result<CovarianceFactor> make_packed(std::size_t columns, std::size_t block,
                                                            std::span<const float> triangles,
                                                            float damping = kDamping, float shrinkage = 0,
                                                            const ForEach& each = {});

  // For an input with the same correlations and other second moments (an expert's, beside those of its
  // layer): C' = S C S with the diagonal S that gives C' the diagonal `second_moments` (>= 0, one per
  // column), both damped. Costs about a copy of the factor. ShapeMismatch for another number of columns,
  // Malformed when the moments are not finite, negative or all zero.
  [[nodiscard]] Result<CovarianceFactor> with_diagonal(std::span<const float> second_moments,
                                                       const ForEach& each = {}) const;

  [[nodiscard]] std::size_t columns() const { return columns_; }
  // One past the last column that the errors of column i reach.
  [[nodiscard]] std::size_t reach(std::size_t i) const {
    return std::min(i / block_ * block_ + block_, columns_);
  }
  // Row i of U from `column` on, which lies in the same block: zeros before i, one at i. Padded to whole
  // tiles of 256 columns.
  [[nodiscard]] const float* feedback(std::size_t i, std::size_t column) const {
    return feedback_.data() + i * block_ + column % block_;
  }
  // D as transposed tiles (see ColumnMetric), 0 in the padding. Scaled like everything here: C / scale(),
  // whose diagonal averages 1 (damping comes on top).
  [[nodiscard]] const float* innovation_tiles() const { return innovation_tiles_.data(); }
  // What C was divided by: the mean of its diagonal.
  [[nodiscard]] double scale() const { return scale_; }
  // D in the order of the columns, padded to tiles with zeros.
  [[nodiscard]] const float* innovations() const { return innovations_.data(); }
  // The cost of a tile's errors when all later columns are free to make up for them: U_t D_t U_t^T with the
  // rows and columns of the tile, 256 x 256; row i of tile t.
  [[nodiscard]] const float* tile_cost(std::size_t column) const { return tile_cost_.data() + column * 256; }
  // The same for aligned groups of kGroup = 4 or 8 columns, U_g D_g U_g^T: row `column` of its group's
  // matrix.
  template <int kGroup>
  [[nodiscard]] const float* group_cost(std::size_t column) const {
    static_assert(kGroup == 4 || kGroup == 8);
    return (kGroup == 4 ? group_cost_4_ : group_cost_8_).data() + column * kGroup;
  }

 private:
  CovarianceFactor() = default;
  // row(b, n, i): line i of block b, which has n columns, as far as its diagonal.
  template <class Row>
  static Result<CovarianceFactor> make_of_rows(std::size_t columns, std::size_t block, const Row& row,
                                               float damping, float shrinkage, const ForEach& each);
  // Fills what follows from feedback_ and innovations_.
  void derive(const ForEach& each);
  [[nodiscard]] std::vector<float> group_costs(std::size_t size) const;

  std::size_t columns_ = 0;
  std::size_t stride_ = 0;  // columns padded to tiles
  std::size_t block_ = 0;   // a multiple of 256; stride_ where the matrix is full
  float damping_ = 0;
  double scale_ = 1;
  std::vector<float> diagonal_;  // of C / scale(), undamped
  std::vector<float> feedback_;  // columns x block
  std::vector<float> innovations_;
  std::vector<float> innovation_tiles_;
  std::vector<float> tile_cost_;
  std::vector<float> group_cost_4_;
  std::vector<float> group_cost_8_;
};

}  // namespace quantfit::kernels

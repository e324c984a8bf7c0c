// What an encoder minimizes: the expected squared output error of one row, from what
// is known about its inputs.
//
//   D(e) = sum_j v_j e_j^2 + (sum_j m_j e_j)^2 + (kappa - 1) (sum_j a_j w_j e_j)^2 / sum_j a_j w_j^2
//
// with a_j = E[x_j^2], m_j = E[x_j], v_j = a_j - m_j^2, e = decoded - original (see error_metric.md).
// The second term is the squared shift of the mean output, the third stands for the correlations that a
// diagonal cannot see: an error along the row itself is amplified kappa times.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace quantfit::kernels {

// How long an encoder may search. What each level does is the encoder's business; more
// is never worse on average.
enum class Effort : unsigned char { Fast, Default, Max };
[[nodiscard]] std::string_view to_string(Effort effort);
[[nodiscard]] std::optional<Effort> parse_effort(std::string_view name);  // "fast", "default", "max"

// Full second moments of the inputs, prepared for rounding with error feedback; kernels/covariance.h.
class CovarianceFactor;

// The metric of one matrix: per-column numbers that all its rows and all formats share. Immutable once made,
// so threads may share it. Everything is scaled by 1 / `scale` such that the variances average 1; ratios of
// errors do not notice, and single precision suffices whatever the activations' unit.
class ColumnMetric {
 public:
  // `second_moment`: a_j >= 0, one per column; empty means 1 for every column.
  // `mean`: m_j, or empty when unknown (no bias term).
  // `kappa` >= 1: weight of an error along the row; 1 leaves the gain term out.
  // Columns without importance get a floor of kVarianceFloor times the mean, so that no fit divides by zero
  // and columns that calibration never excited are still rounded to nearest. Covariance, when given, must
  // outlive the metric; only formats with error feedback read it.
  ColumnMetric(std::size_t columns, std::span<const float> second_moment, std::span<const float> mean,
               float kappa, const CovarianceFactor* covariance = nullptr);

  static constexpr float kVarianceFloor = 1e-5F;

  [[nodiscard]] std::size_t columns() const { return columns_; }
  [[nodiscard]] const float* second_moment() const { return second_moment_.data(); }  // a_j / scale
  [[nodiscard]] const float* variance() const { return variance_.data(); }  // max(v_j, floor) / scale
  [[nodiscard]] const float* mean() const { return mean_.data(); }          // m_j / sqrt(scale), or 0
  [[nodiscard]] bool has_mean() const { return has_mean_; }
  [[nodiscard]] float kappa() const { return kappa_; }
  [[nodiscard]] double scale() const { return scale_; }
  [[nodiscard]] const CovarianceFactor* covariance() const { return covariance_; }

  // The same numbers as transposed tiles, the layout that many encoders work in: in each tile of 256 columns,
  // element 16 k + l belongs to column 16 l + k; zeros beyond the last column.
  [[nodiscard]] const float* second_moment_tiles() const { return second_moment_tiles_.data(); }
  [[nodiscard]] const float* variance_tiles() const { return variance_tiles_.data(); }
  [[nodiscard]] const float* mean_tiles() const { return mean_tiles_.data(); }
  [[nodiscard]] const float* shift_tiles() const { return shift_tiles_.data(); }  // 1 / (v + p^2 / 4)
  static constexpr std::size_t kTileColumns = 256;

 private:
  std::size_t columns_;
  std::vector<float> second_moment_, variance_, mean_;  // padded with zeros to a multiple of 16
  std::vector<float> second_moment_tiles_, variance_tiles_, mean_tiles_, shift_tiles_;
  bool has_mean_ = false;
  float kappa_ = 1;
  double scale_ = 1;
  const CovarianceFactor* covariance_ = nullptr;
};

// One row ready for encoding: what every format needs, computed once. Arrays hold `columns` floats, padded
// with zeros to a multiple of 16, and live in the RowWorkspace that made it.
//   D(e) = sum v e^2 + (sum p e)^2 + (sum q e)^2
struct PreparedRow {
  std::size_t columns = 0;
  const float* x = nullptr;  // the weights
  const float* v = nullptr;  // variance of the column, > 0
  const float* p = nullptr;  // mean of the column; all zero when unknown
  const float* q =
      nullptr;  // a_j x_j sqrt((kappa - 1) / energy); all zero when kappa is 1 or the row is zero
  const float* a = nullptr;  // second moment of the column
  bool has_p = false;
  bool has_q = false;
  float energy = 0;  // sum a_j x_j^2
  // Groups of 16 columns: suffix[3 * g + {0, 1, 2}] = sum over columns j >= 16 g of (p p, p q, q q) / v. What
  // the columns still to come could take up of the two row sums; the last entry (g = columns / 16) is zero.
  // With s = (sum p e, sum q e) over the columns done, the price that is left to pay at best is
  // s^T (I + M)^-1 s, M = [[pp, pq], [pq, qq]] of the suffix.
  const float* suffix = nullptr;
  // Transposed tiles as in ColumnMetric. x_tiles is bounded: |x| <= 2^30 (no format reaches further), and
  // zero below 1e-30, so that squares and reciprocals stay finite.
  const float* x_tiles = nullptr;
  const float* v_tiles = nullptr;
  const float* p_tiles = nullptr;
  const float* q_tiles = nullptr;
  const float* shift_tiles = nullptr;  // 1 / (v + p^2 / 4)
  // For rounding with error feedback and for e^T C e as the error; null: the diagonal metric is the
  // objective.
  const CovarianceFactor* covariance = nullptr;
  float* feedback = nullptr;  // room for `columns` floats, padded to tiles: error feedback in progress
  const ColumnMetric* metric = nullptr;
};

// The parts of D for one encoded row, in the units of the activations (scale applied). With a covariance the
// total is e^T C e, damping included.
struct RowError {
  double variance = 0;  // sum v e^2; with a covariance: what is left of e^T C e
  double bias = 0;      // (sum m e)^2; with a covariance: at most e^T C e
  double gain = 0;      // (kappa - 1) (sum a x e)^2 / energy; with a covariance: 0
  double energy = 0;    // sum a x^2
  [[nodiscard]] double total() const { return variance + bias + gain; }
};

// Buffers of one thread for rows of up to `max_columns`; allocated once, reused for every row.
class RowWorkspace {
 public:
  explicit RowWorkspace(std::size_t max_columns);
  RowWorkspace(RowWorkspace&&) noexcept = default;

  [[nodiscard]] std::size_t max_columns() const { return max_columns_; }
  [[nodiscard]] float* x() { return x_; }  // where the caller puts the row
  [[nodiscard]] float* q() { return q_; }
  [[nodiscard]] float* decoded() { return decoded_; }  // where a decoded row may go
  [[nodiscard]] float* suffix() { return suffix_; }
  [[nodiscard]] float* x_tiles() { return x_tiles_; }
  [[nodiscard]] float* q_tiles() { return q_tiles_; }
  [[nodiscard]] float* feedback() { return feedback_; }
  [[nodiscard]] std::byte* encoded() { return encoded_; }  // room for one row in any format

 private:
  std::size_t max_columns_;
  std::vector<float> storage_;
  std::vector<std::byte> bytes_;
  float* x_;
  float* q_;
  float* decoded_;
  float* suffix_;
  float* x_tiles_;
  float* q_tiles_;
  float* feedback_;
  std::byte* encoded_;
};

}  // namespace quantfit::kernels

// One thread's view of the kernels: a row goes in once, any number of formats and measurements come out.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "core/error.h"
#include "core/format.h"
#include "kernels/error_metric.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels {

// Owns the buffers of one thread. Not thread-safe; make one per thread. No call allocates after construction.
class RowQuantizer {
 public:
  // `kernels` must outlive the object (tables live as long as the program).
  RowQuantizer(const RowKernels& kernels, std::size_t max_columns);

  // Decodes one row of the source (any format with a decoder) and prepares it under `metric`,
  // which must outlive the row's use. `covariance`, kept as long as the row, takes the place of the metric's.
  // Malformed when a weight is NaN or infinite, Unsupported when the format has no decoder, ShapeMismatch
  // when the bytes or the covariance are of another number of columns.
  [[nodiscard]] Result<void> load(Format source, std::span<const std::byte> bytes, const ColumnMetric& metric,
                                  std::shared_ptr<const CovarianceFactor> covariance = {});

  // The row loaded last.
  [[nodiscard]] const PreparedRow& row() const { return row_; }

  // True when `format` has an encoder.
  [[nodiscard]] bool can_encode(Format format) const;

  // Encodes the loaded row into `out`, row_bytes(format, columns) bytes.
  void encode(Format format, Effort effort, std::byte* out) const;

  // Encodes into the object's own buffer, decodes, and measures.
  [[nodiscard]] RowError encode_and_measure(Format format, Effort effort);
  // Decodes `encoded` and measures it against the loaded row.
  [[nodiscard]] RowError measure(Format format, const std::byte* encoded);

 private:
  const RowKernels* kernels_;
  RowWorkspace workspace_;
  PreparedRow row_;
  std::shared_ptr<const CovarianceFactor> covariance_;  // of the row
};

}  // namespace quantfit::kernels

#include "kernels/row_quantizer.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "kernels/covariance.h"

namespace quantfit::kernels {
namespace {

// Infinities and NaN have all exponent bits set.
bool all_finite(const float* x, std::size_t columns) {
  std::uint32_t bad = 0;
  for (std::size_t j = 0; j < columns; ++j)
    bad |= (std::bit_cast<std::uint32_t>(x[j]) & 0x7F800000U) == 0x7F800000U ? 1U : 0U;
  return bad == 0;
}

}  // namespace

RowQuantizer::RowQuantizer(const RowKernels& kernels, std::size_t max_columns)
    : kernels_(&kernels), workspace_(max_columns) {}

Result<void> RowQuantizer::load(Format source, std::span<const std::byte> bytes, const ColumnMetric& metric,
                                std::shared_ptr<const CovarianceFactor> covariance) {
  const DecodeRow decode = kernels_->decode[static_cast<std::size_t>(source)];
  if (decode == nullptr) return fail(ErrorCode::Unsupported, "{} cannot be quantized", name_of(source));
  const std::size_t columns = metric.columns();
  if (columns > workspace_.max_columns())
    return fail(ErrorCode::Internal, "a row of {} weights in a workspace for {}", columns,
                workspace_.max_columns());
  QF_ASSIGN(const std::uint64_t expected, row_bytes(source, columns));
  if (bytes.size() != expected)
    return fail(ErrorCode::ShapeMismatch, "a {} row of {} weights has {} bytes, not {}", name_of(source),
                columns, expected, bytes.size());
  decode(bytes.data(), columns, workspace_.x());
  for (std::size_t j = columns; j % 16 != 0; ++j) workspace_.x()[j] = 0.0F;
  if (!all_finite(workspace_.x(), columns)) {
    const float* bad = std::find_if(workspace_.x(), workspace_.x() + columns, [](float v) {
      return (std::bit_cast<std::uint32_t>(v) & 0x7F800000U) == 0x7F800000U;
    });
    return fail(ErrorCode::Malformed, "column {} is not a finite number", bad - workspace_.x());
  }
  if (covariance && covariance->columns() != columns)
    return fail(ErrorCode::ShapeMismatch, "a covariance of {} columns for a row of {} weights",
                covariance->columns(), columns);
  row_ = kernels_->prepare(metric, workspace_);
  covariance_ = std::move(covariance);
  if (covariance_) row_.covariance = covariance_.get();
  return outcome::success();
}

bool RowQuantizer::can_encode(Format format) const {
  return kernels_->encode[static_cast<std::size_t>(format)] != nullptr;
}

void RowQuantizer::encode(Format format, Effort effort, std::byte* out) const {
  kernels_->encode[static_cast<std::size_t>(format)](row_, effort, out);
}

RowError RowQuantizer::encode_and_measure(Format format, Effort effort) {
  encode(format, effort, workspace_.encoded());
  return measure(format, workspace_.encoded());
}

RowError RowQuantizer::measure(Format format, const std::byte* encoded) {
  kernels_->decode[static_cast<std::size_t>(format)](encoded, row_.columns, workspace_.decoded());
  return kernels_->measure(row_, workspace_.decoded());
}

}  // namespace quantfit::kernels

#include "kernels/error_metric.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace quantfit::kernels {
namespace {

constexpr std::size_t kAlignment = 64;  // bytes: one cache line, one 512-bit register

std::size_t padded(std::size_t columns) {
  return (columns + 15) / 16 * 16;
}

std::size_t padded_to_tiles(std::size_t columns) {
  constexpr std::size_t kTile = ColumnMetric::kTileColumns;
  return (columns + kTile - 1) / kTile * kTile;
}

std::vector<float> transposed_tiles(const std::vector<float>& natural, std::size_t columns) {
  std::vector<float> tiles(padded_to_tiles(columns), 0.0F);
  for (std::size_t j = 0; j < columns; ++j) tiles[j / 256 * 256 + 16 * (j % 16) + j % 256 / 16] = natural[j];
  return tiles;
}

}  // namespace

std::string_view to_string(Effort effort) {
  switch (effort) {
    case Effort::Fast:
      return "fast";
    case Effort::Default:
      return "default";
    case Effort::Max:
      return "max";
  }
  return "unknown";
}

std::optional<Effort> parse_effort(std::string_view name) {
  for (const Effort effort : {Effort::Fast, Effort::Default, Effort::Max})
    if (name == to_string(effort)) return effort;
  return std::nullopt;
}

ColumnMetric::ColumnMetric(std::size_t columns, std::span<const float> second_moment,
                           std::span<const float> mean, float kappa, const CovarianceFactor* covariance)
    : columns_(columns),
      second_moment_(padded(columns), 0.0F),
      variance_(padded(columns), 0.0F),
      mean_(padded(columns), 0.0F),
      has_mean_(!mean.empty()),
      kappa_(std::max(kappa, 1.0F)),
      covariance_(covariance) {
  const auto a = [&](std::size_t j) { return second_moment.empty() ? 1.0 : double{second_moment[j]}; };
  const auto m = [&](std::size_t j) { return mean.empty() ? 0.0 : double{mean[j]}; };
  double total = 0;
  for (std::size_t j = 0; j < columns; ++j) total += std::max(a(j) - m(j) * m(j), 0.0);
  if (!(total > 0)) {  // every variance is zero: fall back to the second moments, then to equal weights
    for (std::size_t j = 0; j < columns; ++j) total += a(j);
  }
  const bool uniform = !(total > 0);
  scale_ = uniform || columns == 0 ? 1.0 : total / static_cast<double>(columns);
  const double root = std::sqrt(scale_);
  for (std::size_t j = 0; j < columns; ++j) {
    const double variance = uniform ? 1.0 : (a(j) - m(j) * m(j)) / scale_;
    variance_[j] = static_cast<float>(std::max(variance, double{kVarianceFloor}));
    second_moment_[j] = static_cast<float>(uniform ? 1.0 : std::max(a(j) / scale_, double{kVarianceFloor}));
    mean_[j] = static_cast<float>(m(j) / root);
  }
  std::vector<float> shift(columns);
  for (std::size_t j = 0; j < columns; ++j) shift[j] = 1.0F / (variance_[j] + 0.25F * mean_[j] * mean_[j]);
  second_moment_tiles_ = transposed_tiles(second_moment_, columns);
  variance_tiles_ = transposed_tiles(variance_, columns);
  mean_tiles_ = transposed_tiles(mean_, columns);
  shift_tiles_ = transposed_tiles(shift, columns);
}

RowWorkspace::RowWorkspace(std::size_t max_columns) : max_columns_(max_columns) {
  const std::size_t row = padded(max_columns);
  const std::size_t suffix = padded(3 * (row / 16 + 1));
  const std::size_t tiles = padded_to_tiles(max_columns);
  constexpr std::size_t kSlack = kAlignment / sizeof(float);
  storage_.assign(3 * row + suffix + 3 * tiles + kSlack, 0.0F);
  const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
  x_ = storage_.data() + ((kAlignment - address % kAlignment) % kAlignment) / sizeof(float);
  q_ = x_ + row;
  decoded_ = q_ + row;
  suffix_ = decoded_ + row;
  x_tiles_ = suffix_ + suffix;
  q_tiles_ = x_tiles_ + tiles;
  feedback_ = q_tiles_ + tiles;
  bytes_.assign(row * 4 + 256, std::byte{0});  // F32 is the largest format
  encoded_ = bytes_.data();
}

}  // namespace quantfit::kernels

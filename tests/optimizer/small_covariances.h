// Made-up covariances for tests of sampler and writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "optimizer/measurement/covariance_provider.h"

namespace quantfit::test {

// E[x x^T] of inputs with a few strong directions and noise, full.
inline std::vector<float> correlated_moments(std::size_t columns, std::uint32_t seed) {
  constexpr std::size_t kDirections = 24;
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<double> directions(kDirections * columns);
  for (double& value : directions) value = normal(generator);
  std::vector<float> moments(columns * columns);
  for (std::size_t i = 0; i < columns; ++i)
    for (std::size_t j = 0; j < columns; ++j) {
      double sum = i == j ? 4.0 : 0.0;
      for (std::size_t k = 0; k < kDirections; ++k)
        sum += directions[k * columns + i] * directions[k * columns + j];
      moments[i * columns + j] = static_cast<float>(sum);
    }
  return moments;
}

// One covariance per matrix, the same at every call; none for the tensors in `without`.
class SmallCovariances final : public optimizer::CovarianceProvider {
 public:
  explicit SmallCovariances(std::set<std::string> without = {}) : without_(std::move(without)) {}

  [[nodiscard]] Result<std::shared_ptr<const kernels::CovarianceFactor>> covariance(
      const TensorInfo& tensor, std::uint64_t matrix) const override {
    const std::scoped_lock lock(mutex_);
    ++calls_;
    if (without_.contains(tensor.name)) return std::shared_ptr<const kernels::CovarianceFactor>();
    auto& made = made_[{tensor.name, matrix}];
    if (!made) {
      const std::size_t columns = tensor.row_length();
      QF_ASSIGN(auto factor,
                kernels::CovarianceFactor::make(
                    columns, correlated_moments(columns, static_cast<std::uint32_t>(7 + matrix))));
      made = std::make_shared<const kernels::CovarianceFactor>(std::move(factor));
    }
    return made;
  }
  [[nodiscard]] std::string identity() const override { return "small"; }
  [[nodiscard]] std::uint64_t calls() const { return calls_; }

 private:
  std::set<std::string> without_;
  mutable std::mutex mutex_;
  mutable std::uint64_t calls_ = 0;
  mutable std::map<std::pair<std::string, std::uint64_t>, std::shared_ptr<const kernels::CovarianceFactor>>
      made_;
};

}  // namespace quantfit::test

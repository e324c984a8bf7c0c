// Covariances from a file of second moments.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "core/error.h"
#include "core/second_moments_file.h"
#include "optimizer/measurement/covariance_provider.h"

namespace quantfit::optimizer {

// Factors are made at the first call for them and kept while they fit into `cache_bytes`, the one used
// longest ago going first; those in use stay valid. An expert that shares its layer's matrix gets that with
// its own diagonal. No covariance for tensors the file does not know, and for matrices that its text never
// reached.
class FileCovariances final : public CovarianceProvider {
 public:
  static constexpr std::uint64_t kCacheBytes = std::uint64_t{1} << 30;

  explicit FileCovariances(SecondMomentsFile file, float damping = kernels::CovarianceFactor::kDamping,
                           std::uint64_t cache_bytes = kCacheBytes);

  // ShapeMismatch when the tensor's shape is not that of the file, Malformed for numbers of the file that are
  // no second moments; both name the tensor.
  [[nodiscard]] Result<std::shared_ptr<const kernels::CovarianceFactor>> covariance(
      const TensorInfo& tensor, std::uint64_t matrix) const override;
  [[nodiscard]] std::string identity() const override;

 private:
  using Factor = std::shared_ptr<const kernels::CovarianceFactor>;
  // Input, and matrix or expert; kShared: the matrix that experts share.
  using Key = std::pair<const SecondMomentsInput*, std::uint64_t>;
  static constexpr std::uint64_t kShared = ~std::uint64_t{0};
  struct Slot {
    std::mutex making;
    bool made = false;
    Factor factor;
    std::list<Key>::iterator used;
    std::uint64_t bytes = 0;
  };

  [[nodiscard]] Result<Factor> get(const Key& key) const;
  [[nodiscard]] Result<Factor> make(const Key& key) const;

  SecondMomentsFile file_;
  float damping_;
  std::uint64_t cache_bytes_;
  mutable std::mutex mutex_;  // of what follows
  mutable std::map<Key, std::shared_ptr<Slot>> slots_;
  mutable std::list<Key> used_;  // the latest first
  mutable std::uint64_t bytes_ = 0;
};

}  // namespace quantfit::optimizer

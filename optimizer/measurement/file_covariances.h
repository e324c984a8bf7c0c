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
#include "optimizer/parallel/made_together.h"

namespace quantfit::optimizer {

// Factors are made at the first call for them, by all threads that wait for them together, and kept while
// they fit into `cache_bytes`, the one used longest ago going first; those in use stay valid. An expert that
// shares its layer's matrix gets that with its own diagonal. No covariance for tensors the file does not
// know, and for matrices that its text never reached.
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

  // The share of everything beside the diagonal that is left out of moments of `columns` columns (of a block)
  // that are means over so many rows: 1.5 columns / rows - 0.015, from 0 (a hundred rows per column) to
  // kMostShrinkage. Few rows make correlations up; what judged it is text held back (benchmarks/README.md).
  static constexpr double kMostShrinkage = 0.2;
  [[nodiscard]] static float shrinkage_for(std::uint64_t columns, double rows);

 private:
  using Factor = std::shared_ptr<const kernels::CovarianceFactor>;
  // Input, and matrix or expert; kShared: the matrix that experts share.
  using Key = std::pair<const SecondMomentsInput*, std::uint64_t>;
  static constexpr std::uint64_t kShared = ~std::uint64_t{0};
  struct Slot {
    MadeTogether once;
    Result<Factor> factor = Factor();
    std::list<Key>::iterator used;
    std::uint64_t bytes = 0;
  };

  [[nodiscard]] Result<Factor> get(const Key& key) const;
  [[nodiscard]] Result<Factor> make(const Key& key, const kernels::ForEach& each) const;
  [[nodiscard]] double rows_of(const SecondMomentsInput& input, std::uint64_t matrix) const;

  SecondMomentsFile file_;
  float damping_;
  std::uint64_t cache_bytes_;
  mutable std::mutex mutex_;  // of what follows
  mutable std::map<Key, std::shared_ptr<Slot>> slots_;
  mutable std::list<Key> used_;  // the latest first
  mutable std::uint64_t bytes_ = 0;
};

}  // namespace quantfit::optimizer

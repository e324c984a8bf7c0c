// Knapsacks of one job that were made before: answers to many targets ask for the same few again and again.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/error.h"
#include "optimizer/planning/knapsack.h"

namespace quantfit::optimizer {

// Thread-safe. For one set of measurements, sensitivities and costs of speed.
class KnapsackMemory {
 public:
  // The knapsack over `subset` with these options, made by `make` where it is not known. What was not asked
  // for lately is forgotten.
  [[nodiscard]] Result<std::shared_ptr<const Knapsack>> get(const KnapsackOptions& options,
                                                            std::span<const std::uint32_t> subset,
                                                            const std::function<Result<Knapsack>()>& make);

 private:
  struct Known {
    std::uint64_t alignment = 1;
    double max_nmse = 0;
    std::vector<std::uint32_t> subset;
    std::shared_ptr<const Knapsack> knapsack;
  };

  std::mutex lock_;
  std::list<Known> known_;  // the last used first
};

}  // namespace quantfit::optimizer

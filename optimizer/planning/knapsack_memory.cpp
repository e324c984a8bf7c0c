#include "optimizer/planning/knapsack_memory.h"

#include <algorithm>
#include <utility>

namespace quantfit::optimizer {
namespace {

// Bits per weight and file size, with and without ruinous formats, and some placements over two memories.
constexpr std::size_t kMost = 12;

}  // namespace

Result<std::shared_ptr<const Knapsack>> KnapsackMemory::get(const KnapsackOptions& options,
                                                            std::span<const std::uint32_t> subset,
                                                            const std::function<Result<Knapsack>()>& make) {
  const auto is_it = [&](const Known& one) {
    return one.alignment == options.alignment && one.max_nmse == options.max_nmse &&
           std::ranges::equal(one.subset, subset);
  };
  {
    const std::scoped_lock guard(lock_);
    const auto found = std::ranges::find_if(known_, is_it);
    if (found != known_.end()) {
      known_.splice(known_.begin(), known_, found);
      return known_.front().knapsack;
    }
  }
  QF_ASSIGN(Knapsack made, make());
  Known one{options.alignment,
            options.max_nmse,
            {subset.begin(), subset.end()},
            std::make_shared<const Knapsack>(std::move(made))};
  const std::scoped_lock guard(lock_);
  known_.push_front(std::move(one));
  if (known_.size() > kMost) known_.pop_back();
  return known_.front().knapsack;
}

}  // namespace quantfit::optimizer

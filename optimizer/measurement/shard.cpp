#include "optimizer/measurement/shard.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace quantfit::optimizer {
namespace {

// Rows that the default precision asks for, about: most tensors of trained models stop between 60 and 250.
constexpr std::uint64_t kTypicalRows = 128;

// Proportional to the time: rows, their length, formats.
std::uint64_t cost_of(const SamplingTask& task) {
  return std::min(task.tensor->rows(), kTypicalRows) * task.tensor->row_length() *
         std::max<std::uint64_t>(task.formats.size(), 1);
}

}  // namespace

std::vector<SamplingTask> tasks_of_shard(const std::vector<SamplingTask>& tasks, Shard shard) {
  if (shard.is_everything()) return tasks;
  std::vector<std::size_t> order(tasks.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // By name where the cost is the same: the order of tensors in a file means nothing.
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return std::tuple(cost_of(tasks[b]), std::string_view(tasks[a].tensor->name)) <
           std::tuple(cost_of(tasks[a]), std::string_view(tasks[b].tensor->name));
  });
  std::vector<std::uint64_t> load(shard.count, 0);
  std::vector<std::size_t> mine;
  for (const std::size_t i : order) {
    const auto least = std::ranges::min_element(load);
    *least += std::max<std::uint64_t>(cost_of(tasks[i]), 1);
    if (static_cast<std::uint32_t>(least - load.begin()) + 1 == shard.index) mine.push_back(i);
  }
  std::ranges::sort(mine);
  std::vector<SamplingTask> part;
  part.reserve(mine.size());
  for (const std::size_t i : mine) part.push_back(tasks[i]);
  return part;
}

}  // namespace quantfit::optimizer

#include "optimizer/measurement/shard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace quantfit::optimizer {
namespace {

// A model's shapes: one large head, layers of several sizes.
std::vector<TensorInfo> tensors_case() {
  std::vector<TensorInfo> tensors;
  const auto add = [&](std::string name, std::uint64_t columns, std::uint64_t rows) {
    TensorInfo& tensor = tensors.emplace_back();
    tensor.name = std::move(name);
    tensor.n_dims = 2;
    tensor.ne = {columns, rows, 1, 1};
  };
  add("output.weight", 4096, 128000);
  for (int layer = 0; layer < 32; ++layer) {
    add(fmt::format("blk.{}.attn_q.weight", layer), 4096, 4096);
    add(fmt::format("blk.{}.attn_k.weight", layer), 4096, 16);
    add(fmt::format("blk.{}.ffn_down.weight", layer), 14336, 4096);
  }
  return tensors;
}

std::vector<SamplingTask> tasks_case(const std::vector<TensorInfo>& tensors) {
  std::vector<SamplingTask> tasks;
  for (const TensorInfo& tensor : tensors) tasks.push_back({&tensor, {Format::Q4_K, Format::Q8_0}});
  return tasks;
}

TEST(Shard, PartsAreDisjointCompleteAndCostAboutTheSame) {
  const auto tensors = tensors_case();
  const auto tasks = tasks_case(tensors);
  for (const std::uint32_t count : {1U, 2U, 5U, 16U}) {
    std::set<std::string> seen;
    std::vector<std::uint64_t> columns;
    for (std::uint32_t index = 1; index <= count; ++index) {
      std::uint64_t sum = 0;
      for (const SamplingTask& task : tasks_of_shard(tasks, {index, count})) {
        EXPECT_TRUE(seen.insert(task.tensor->name).second) << task.tensor->name;
        sum += std::min<std::uint64_t>(task.tensor->rows(), 128) * task.tensor->row_length();
      }
      columns.push_back(sum);
    }
    EXPECT_EQ(seen.size(), tasks.size());
    EXPECT_LT(std::ranges::max(columns), 1.2 * static_cast<double>(std::ranges::min(columns))) << count;
  }
}

TEST(Shard, DoesNotDependOnTheOrderOfTheTensors) {
  const auto tensors = tensors_case();
  auto tasks = tasks_case(tensors);
  const auto names = [](const std::vector<SamplingTask>& part) {
    std::set<std::string> all;
    for (const SamplingTask& task : part) all.insert(task.tensor->name);
    return all;
  };
  const auto part = names(tasks_of_shard(tasks, {2, 3}));
  std::ranges::reverse(tasks);
  EXPECT_EQ(names(tasks_of_shard(tasks, {2, 3})), part);
}

TEST(Shard, MorePartsThanTasksLeavesSomeEmpty) {
  const auto tensors = tensors_case();
  const std::vector<SamplingTask> tasks = {{&tensors[0], {Format::Q4_K}}};
  EXPECT_EQ(tasks_of_shard(tasks, {1, 4}).size(), 1U);
  EXPECT_TRUE(tasks_of_shard(tasks, {4, 4}).empty());
}

}  // namespace
}  // namespace quantfit::optimizer

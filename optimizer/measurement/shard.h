// A part of the measuring, for machines that share it.
#pragma once

#include <cstdint>
#include <vector>

#include "optimizer/measurement/sampler.h"

namespace quantfit::optimizer {

// The part `index` of `count`, counted from 1.
struct Shard {
  std::uint32_t index = 1;
  std::uint32_t count = 1;

  [[nodiscard]] bool is_everything() const { return count <= 1; }
};

// The tasks of one part, in the order given. Parts are chosen so that they cost about the same: the dearest
// task first, each to the part that has the least so far. All parts together are all tasks, each once. The
// choice depends on the tasks alone, not on what is measured already, so that every machine makes the same.
[[nodiscard]] std::vector<SamplingTask> tasks_of_shard(const std::vector<SamplingTask>& tasks, Shard shard);

}  // namespace quantfit::optimizer

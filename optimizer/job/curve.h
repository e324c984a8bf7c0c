// The whole curve of size against predicted error.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/error.h"
#include "optimizer/allocation/frontier.h"
#include "optimizer/job/job.h"
#include "optimizer/planning/knapsack.h"

namespace quantfit::optimizer {

// With what is spent in any case added to every point.
struct ModelFrontier {
  Knapsack knapsack;
  Frontier frontier;
  Foresight foresight;  // costs are sums
};
[[nodiscard]] Result<ModelFrontier> model_frontier(const PreparedJob& job, const JobRequest& request);

// The same from what a run of a state file measured, without the model: over all formats that were measured
// and the source's own, without a job's rules. `sensitivity` by tensor; tensors without one cost nothing.
// `other_bytes`: of tensors that were not measured. Infeasible where nothing was.
[[nodiscard]] Result<ModelFrontier> recorded_frontier(const Measurements& measurements,
                                                      const std::map<std::string, double>& sensitivity,
                                                      std::uint64_t other_bytes);

}  // namespace quantfit::optimizer

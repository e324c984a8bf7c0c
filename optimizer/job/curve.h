// The whole curve of size against predicted error.
#pragma once

#include "core/error.h"
#include "optimizer/allocation/frontier.h"
#include "optimizer/job/job.h"
#include "optimizer/planning/knapsack.h"

namespace quantfit::optimizer {

// With what is spent in any case added to every point.
struct ModelFrontier {
  Knapsack knapsack;
  Frontier frontier;
};
[[nodiscard]] Result<ModelFrontier> model_frontier(const PreparedJob& job, const JobRequest& request);

}  // namespace quantfit::optimizer

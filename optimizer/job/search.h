// The search for a recipe within the budgets of one target: one knapsack, or two that share some tensors.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "optimizer/job/job.h"
#include "optimizer/job/solve.h"

namespace quantfit::optimizer {

struct Found {
  Recipe recipe;
  Recipe unfilled;  // the best recipe for the budgets alone; the same without a share to fill
  Proof proof;
  std::vector<double> multipliers;         // per memory
  std::vector<std::optional<Fill>> fills;  // per memory
  std::vector<std::string> limits;         // as sentences
  std::vector<std::string> notes;
  bool ruinous = false;  // the budget forced formats beyond JobRequest::max_nmse
};

// The best recipe for a feasible budget. Tensors in RAM without a limit of their own pay the same price per
// byte as those on the GPU: more would make the file larger than its quality is worth. A share to be used is
// demanded of either budget on its own, after formats of tensors in both memories were chosen.
[[nodiscard]] Result<Found> search(const PreparedJob& job, const JobRequest& request, const Budget& budget,
                                   const AllocatorLimits& limits);

}  // namespace quantfit::optimizer

// One job from its inputs to its recipe, as every front end runs it: open_inputs, check_job, measure_job, and
// for each of its targets choose.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/row_kernels.h"
#include "optimizer/job/budget.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"
#include "optimizer/measurement/measure.h"
#include "optimizer/planning/candidates.h"
#include "optimizer/planning/foresight.h"
#include "optimizer/planning/knapsack.h"

namespace quantfit::optimizer {

class KnapsackMemory;

// Everything that a job's targets have in common, and the budget of each.
struct PreparedJob {
  std::vector<TensorCandidates> candidates;                              // point into the model
  std::vector<std::string> notes;                                        // what a person should know
  std::vector<double> sensitivity;                                       // s_t per tensor
  std::vector<std::string> sensitivity_source;                           // how each was obtained
  state::SensitivityUnit error_unit = state::SensitivityUnit::Relative;  // of sums of s_t N
  Foresight foresight;                                                   // of the divergence, from such a sum
  std::vector<double> read_share;  // per tensor: part of all weights read per generated token
  std::vector<Budget> budgets;     // one per target, in order
  MeasureReport measured;          // empty before measure_job
  // For those who ask about many targets with one request; null: every search makes its own.
  std::shared_ptr<KnapsackMemory> knapsacks;
};

// Finds everything that can be refused before anything is measured: constraints that contradict one another,
// formats that cannot be written, requests without meaning. A target that cannot be reached is no error but
// an infeasible budget: choose() then says what could be. Without targets the job serves the whole curve.
// With recipes for targets, only their formats will be measured.
[[nodiscard]] Result<PreparedJob> check_job(const JobInputs& inputs, const JobRequest& request,
                                            std::span<const Target> targets,
                                            const kernels::RowKernels& kernels);

// Measures what a choice needs and is not known yet. Interrupted when cancelled: what was finished is in the
// state file.
[[nodiscard]] Result<void> measure_job(JobInputs& inputs, const JobRequest& request,
                                       const kernels::RowKernels& kernels, const JobControl& control,
                                       PreparedJob& job);

// The same from the state file alone, which is only read: `measured.tensors_missing` says of how many tensors
// it does not know enough. Io without a state file.
[[nodiscard]] Result<void> recall_job(const JobInputs& inputs, const JobRequest& request, PreparedJob& job);

// How costs are counted in this job; bytes in multiples of `alignment`.
[[nodiscard]] KnapsackOptions knapsack_options(const PreparedJob& job, const JobRequest& request,
                                               std::uint64_t alignment);

}  // namespace quantfit::optimizer

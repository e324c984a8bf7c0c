// What a front end asks of a job, and how it follows and stops one.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "core/shard_plan.h"
#include "optimizer/allocation/allocator.h"
#include "optimizer/job/target.h"
#include "optimizer/measurement/sampler.h"
#include "optimizer/measurement/shard.h"
#include "optimizer/output/encoded_tensors.h"
#include "optimizer/planning/candidates.h"
#include "optimizer/planning/sensitivity.h"

namespace quantfit::optimizer {

struct JobPaths {
  std::filesystem::path model;
  std::filesystem::path importance;               // empty: none
  std::filesystem::path state;                    // empty: nothing is remembered
  std::vector<std::uint32_t> pruned_layers = {};  // left out of the model, whatever is done with it
  // The importance matrix was made from what is left, not from the whole model.
  bool importance_is_pruned = false;
};

// Where the weights between tensors come from.
enum class Objective {
  Measured,  // sensitivities measured on the model, where there are some; the prior otherwise
  Prior,     // what other models taught, by the tensors' roles
};

struct JobRequest {
  JobPaths paths;
  Objective objective = Objective::Measured;
  CandidatePolicy policy;
  SamplerOptions sampler;
  Shard shard;  // the part of the measuring to do; nothing can be chosen for less than everything
  std::vector<RoleWeight> role_weights;  // the first that matches counts
  double max_nmse = 0.9;  // formats that ruin a tensor: only when the budget forces them. 0: no veto
  double speed_weight = 0;
  std::optional<FillShare> min_fill;  // nothing: the lowest error, whatever it leaves unused
  AllocatorLimits allocator;
  ShardLimits split;  // of what is written: what cutting costs counts in file sizes
  ReuseSources reuse;
  std::vector<GgufKeyValue> overrides;  // metadata that the written file has instead of the source's
  std::string program_version;
  std::uint32_t candidates = 1;  // recipes that are written and run, of which the best is kept (contest.h)
  bool keep_provenance = true;   // written files say how they were made
};

// One per job; both outlive every call that takes it. Calls that were cancelled return Interrupted.
struct JobControl {
  ProgressSink& progress;
  const CancellationToken& cancel;
};

}  // namespace quantfit::optimizer

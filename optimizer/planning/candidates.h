// Which formats each tensor of a model may take.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/recipe.h"
#include "optimizer/measurement/sampler.h"
#include "optimizer/planning/constraints.h"

namespace quantfit::optimizer {

// Which formats are considered at all, before the data have a say.
struct CandidatePolicy {
  // Without a pool of the user's own, keeping the source as it is
  // competes with the default formats too, wherever floors, ceilings and exclusions allow it.
  ConstraintRules rules;
  bool allow_requantize = false;  // sources that are quantized already
};

// What may happen to one tensor.
struct TensorCandidates {
  const TensorInfo* tensor = nullptr;
  std::vector<Format> formats;  // to choose from, ascending bytes; holds the source format only when kept
  std::string kept_because;     // why it stays as it is; empty when there is a choice
  std::string tie_group;        // tensors with the same non-empty name share one format
};

struct ModelCandidates {
  std::vector<TensorCandidates>
      tensors;                     // one per tensor of the model, in file order; they point into the model
  std::vector<std::string> notes;  // what a person should know: substitutions, rules that match nothing
};

// Infeasible, naming the constraint, when rules contradict one another; InvalidArgument for a quantized
// source without allow_requantize.
[[nodiscard]] Result<ModelCandidates> find_candidates(const Model& model, const CandidatePolicy& policy);

// What has to be measured for a choice: every tensor with formats other than its own.
[[nodiscard]] std::vector<SamplingTask> sampling_tasks(std::span<const TensorCandidates> candidates);

// The recipe that keeps to what every tensor is left without a choice: its only format, or its smallest.
[[nodiscard]] Recipe smallest_recipe(std::span<const TensorCandidates> candidates);

}  // namespace quantfit::optimizer

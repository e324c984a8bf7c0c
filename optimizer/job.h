// One job from its inputs to its recipe, as the command line and the service both run it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"
#include "core/recipe.h"
#include "optimizer/allocator.h"
#include "optimizer/model_writer.h"
#include "optimizer/planner.h"
#include "optimizer/sensitivity.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

// Bits per weight over all elements, tensors that are never quantized included; an exact decimal.
struct BpwTarget {
  std::string text;  // as written, for example "4.5678"
};
// The whole output file, metadata and padding included.
struct FileSizeTarget {
  std::uint64_t bytes = 0;
};
using Target = std::variant<BpwTarget, FileSizeTarget>;

// As people write it: "4.5 bpw", "23.50 GiB (25.23 GB) file".
[[nodiscard]] std::string to_text(const Target& target);

struct JobPaths {
  std::filesystem::path model;
  std::filesystem::path importance;  // empty: none
  std::filesystem::path state;       // empty: nothing is remembered
};

struct JobRequest {
  JobPaths paths;
  CandidatePolicy policy;
  SamplerOptions sampler;
  std::vector<RoleWeight> role_weights;  // --role-weight, the first that matches counts
  AllocatorLimits allocator;
  std::string program_version;
};

// What a job reads and remembers.
struct JobInputs {
  Model model;
  std::optional<ImportanceMatrix> importance;
  std::string model_fingerprint;
  std::string importance_fingerprint;  // empty without importance matrix
  std::optional<state::StateStore> store;
  std::vector<std::string> warnings;   // for people: what was noticed and not refused

  [[nodiscard]] const ImportanceMatrix* importance_or_null() const { return importance ? &*importance : nullptr; }
};

// Opens model, importance matrix and state file and checks that they belong together: an importance matrix that
// shares no tensor with the model, or whose shapes disagree, is an IdentityMismatch or ShapeMismatch.
[[nodiscard]] Result<JobInputs> open_inputs(const JobPaths& paths);

// Everything that does not depend on the target: computed once, solved for any number of targets.
struct PreparedJob {
  std::vector<TensorPlan> plans;     // point into the model
  std::vector<std::string> notes;    // what a person should know
  std::vector<double> sensitivity;   // s_t per tensor
  std::vector<std::string> sensitivity_source;  // how each was obtained
  MeasureReport measured;
};
[[nodiscard]] Result<PreparedJob> prepare_job(JobInputs& inputs, const JobRequest& request,
                                              const kernels::RowKernels& kernels, ProgressSink& progress,
                                              const CancellationToken& cancel);

// The answer for one target. Bytes are of the whole file for a file size, of tensor data otherwise.
struct Solution {
  Target target;
  bool feasible = false;            // false: the budget is below the smallest recipe; `recipe` is that one
  std::uint64_t budget_bytes = 0;
  std::uint64_t used_bytes = 0;     // same unit as the budget, never above it when feasible
  std::uint64_t smallest_bytes = 0; // reachable range, same unit
  std::uint64_t largest_bytes = 0;
  std::uint64_t elements = 0;
  std::uint64_t tensor_bytes = 0;   // of the recipe
  std::uint64_t file_bytes = 0;
  double predicted_error = 0;       // sum of s_t N(t, f), fixed tensors included
  Allocation allocation;
  Recipe recipe;

  [[nodiscard]] double bpw() const {
    return elements == 0 ? 0 : 8.0 * static_cast<double>(tensor_bytes) / static_cast<double>(elements);
  }
};

// Solves and, when there is a state file, remembers the recipe in it.
[[nodiscard]] Result<Solution> solve(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                                     const Target& target);

}  // namespace quantfit::optimizer

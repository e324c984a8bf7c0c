// One job from its inputs to its recipe, as the command line and the service both run it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"
#include "core/recipe.h"
#include "optimizer/allocation/allocator.h"
#include "optimizer/allocation/frontier.h"
#include "optimizer/llama_cpp/memory_model.h"
#include "optimizer/llama_cpp/model_traits.h"
#include "optimizer/llama_cpp/static_recipes.h"
#include "optimizer/measurement/measure.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/planning/candidates.h"
#include "optimizer/planning/knapsack.h"
#include "optimizer/planning/sensitivity.h"
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
// What a GPU (and, when limited, RAM) has room for beside cache and buffers.
struct MemoryTarget {
  MemoryRequest request;
};
// No search: the formats are given, by a named mixture of llama.cpp or by a recipe file.
struct RecipeTarget {
  std::string name;
  Recipe recipe;
};
using Target = std::variant<BpwTarget, FileSizeTarget, MemoryTarget, RecipeTarget>;

// As people write it: "4.5 bpw", "file of 23.50 GiB (25.23 GB)".
[[nodiscard]] std::string to_text(const Target& target);

// --min-fill: how much of every budget must be used; an exact decimal.
struct FillShare {
  std::string text;  // as written, for example "99.99%"
  Decimal share;
};

struct JobPaths {
  std::filesystem::path model;
  std::filesystem::path importance;  // empty: none
  std::filesystem::path state;       // empty: nothing is remembered
};

struct JobRequest {
  JobPaths paths;
  CandidatePolicy policy;
  SamplerOptions sampler;
  Shard shard;  // the part of the measuring to do; nothing can be solved for less than everything
  std::vector<RoleWeight> role_weights;  // --role-weight, the first that matches counts
  double max_nmse = 0.9;  // formats that ruin a tensor: only when the budget forces them. 0: no veto
  double speed_weight = 0;
  std::optional<FillShare> min_fill;  // nothing: the lowest error, whatever it leaves unused
  AllocatorLimits allocator;
  std::string program_version;
};

// What a job reads and remembers.
struct JobInputs {
  Model model;
  ModelTraits traits;
  std::optional<ImportanceMatrix> importance;
  std::string model_fingerprint;
  std::string importance_fingerprint;  // empty without importance matrix
  std::optional<state::StateStore> store;
  std::vector<std::string> warnings;  // for people: what was noticed and not refused

  [[nodiscard]] const ImportanceMatrix* importance_or_null() const {
    return importance ? &*importance : nullptr;
  }
};

// Opens model, importance matrix and state file and checks that they belong together: an importance matrix
// that shares no tensor with the model is an IdentityMismatch, one whose shapes disagree a ShapeMismatch.
[[nodiscard]] Result<JobInputs> open_inputs(const JobPaths& paths);

// Everything that does not depend on the target: computed once, solved for any number of targets.
struct PreparedJob {
  std::vector<TensorCandidates> candidates;     // point into the model
  std::vector<std::string> notes;               // what a person should know
  std::vector<double> sensitivity;              // s_t per tensor
  std::vector<std::string> sensitivity_source;  // how each was obtained
  std::vector<double> read_share;               // per tensor: part of all weights read per generated token
  MeasureReport measured;
};
[[nodiscard]] Result<PreparedJob> prepare_job(JobInputs& inputs, const JobRequest& request,
                                              const kernels::RowKernels& kernels, ProgressSink& progress,
                                              const CancellationToken& cancel);

// What demanding a share of a budget came to. Bytes as the budget counts them.
struct Fill {
  std::uint64_t wanted_bytes = 0;  // the share of the budget
  std::uint64_t least_bytes = 0;   // the answer is the best of recipes with so many bytes or more; 0: of all
  std::uint64_t unfilled_bytes = 0;  // of the best recipe for the budget alone
  bool met = true;                   // the answer uses the share
  bool proven_impossible = false;    // no recipe does
};

// The answer for one target. The unit of the budget is the target's: bytes of the whole file for a file size,
// of weights on the GPU for a memory size, of tensor data otherwise.
struct Solution {
  Target target;
  bool feasible = false;  // false: the budget is below the smallest recipe; `recipe` is that one
  std::uint64_t budget_bytes = 0;
  std::uint64_t used_bytes = 0;      // never above the budget when feasible
  std::uint64_t smallest_bytes = 0;  // reachable range
  std::uint64_t largest_bytes = 0;
  std::uint64_t elements = 0;
  std::uint64_t tensor_bytes = 0;  // of the recipe
  std::uint64_t file_bytes = 0;
  double predicted_error = 0;       // sum of s_t N(t, f), fixed tensors included
  bool error_is_known = true;       // false: a recipe with formats that were not measured
  std::vector<std::string> limits;  // what limited the answer, as sentences
  std::vector<std::string> notes;   // what a person should know about the request
  std::optional<Fill> fill;         // with --min-fill: of `budget_bytes`
  std::optional<Fill> host_fill;    // likewise of `host_budget_bytes`
  double unfilled_error = 0;  // predicted error of the best recipe for the budgets alone, with --min-fill
  Allocation allocation;      // of the first memory
  std::optional<Allocation> host_allocation;  // of RAM, when it has a budget of its own
  std::optional<MemoryEstimate> memory;
  std::optional<std::uint64_t> host_budget_bytes;
  std::uint64_t host_used_bytes = 0;
  Recipe recipe;

  [[nodiscard]] double bpw() const {
    return elements == 0 ? 0 : 8.0 * static_cast<double>(tensor_bytes) / static_cast<double>(elements);
  }
};

// Solves and, when there is a state file, remembers the recipe in it. The answer's predicted error is never
// above that of a static recipe which keeps to the same constraints and budget.
[[nodiscard]] Result<Solution> solve(JobInputs& inputs, const PreparedJob& job, const JobRequest& request,
                                     const Target& target);

// What llama.cpp's named mixture would make of the model.
[[nodiscard]] Result<Recipe> preset_recipe(const JobInputs& inputs, FileType type);

// A static recipe beside the optimum of the same size.
struct StaticComparison {
  FileType type;
  std::uint64_t tensor_bytes = 0;
  double bpw = 0;
  double predicted_error = 0;
  double optimized_error = 0;  // of the best recipe with at most as many bytes, under the same constraints
};
// All file types whose formats were measured and fit, in ascending order of bytes.
[[nodiscard]] Result<std::vector<StaticComparison>> compare_static_recipes(const JobInputs& inputs,
                                                                           const PreparedJob& job,
                                                                           const JobRequest& request);

// The whole curve, with what is spent in any case added to every point.
struct ModelFrontier {
  Knapsack knapsack;
  Frontier frontier;
};
[[nodiscard]] Result<ModelFrontier> model_frontier(const PreparedJob& job, const JobRequest& request);

}  // namespace quantfit::optimizer

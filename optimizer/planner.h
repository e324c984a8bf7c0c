// From a model to an allocation: which formats each tensor may take, what each costs, and the best choice.
// Every step is a function from plain structs to plain structs; the state file is the only thing that remembers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/log.h"
#include "core/model.h"
#include "core/progress.h"
#include "core/recipe.h"
#include "optimizer/allocator.h"
#include "optimizer/constraints.h"
#include "optimizer/sampler.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

// Which formats are considered at all, before the data have a say.
struct CandidatePolicy {
  // has_importance is set by plan_tensors. Without a pool of the user's own, keeping the source as it is competes
  // with the default formats too, wherever floors, ceilings and exclusions allow it.
  ConstraintRules rules;
  bool allow_requantize = false;  // sources that are quantized already
};

// What may happen to one tensor.
struct TensorPlan {
  const TensorInfo* tensor = nullptr;
  std::vector<Format> formats;  // to choose from, ascending bytes; holds the source format only when kept
  std::string kept_because;     // why it stays as it is; empty when there is a choice
  std::string tie_group;        // tensors with the same non-empty name share one format
};

struct ModelPlan {
  std::vector<TensorPlan> tensors;  // one per tensor of the model, in file order; they point into the model
  std::vector<std::string> notes;   // what a person should know: substitutions, rules that match nothing
};

// Infeasible, naming the constraint, when rules contradict one another; InvalidArgument for a quantized source
// without allow_requantize.
[[nodiscard]] Result<ModelPlan> plan_tensors(const Model& model, const ImportanceMatrix* importance,
                                                           const CandidatePolicy& policy);

// What is known about each tensor, by name.
using Measurements = std::map<std::string, state::TensorMeasurement>;

struct MeasureReport {
  Measurements measurements;
  state::RunId run = 0;
  std::uint64_t tensors_sampled = 0;  // now; the others were known
  std::uint64_t tensors_known = 0;
  double seconds = 0;
};

// Measures what `store` does not know yet and stores each tensor as it is finished. Interrupted when cancelled:
// the store then holds what was finished. `store` may be null: nothing is remembered.
[[nodiscard]] Result<MeasureReport> measure_tensors(const Model& model, const ImportanceMatrix* importance,
                                                    std::span<const TensorPlan> plans, const SamplerOptions& options,
                                                    const kernels::RowKernels& kernels, state::StateStore* store,
                                                    const std::string& importance_fingerprint,
                                                    const std::string& program_version, ProgressSink& progress,
                                                    const CancellationToken& cancel);

// The knapsack of a model: classes with a choice, and what is spent in any case.
struct Knapsack {
  std::vector<CandidateClass> classes;
  std::vector<std::vector<std::uint32_t>> members;  // per class: indices of its tensors in the model
  std::uint64_t fixed_bytes = 0;                    // tensors without a choice
  double fixed_cost = 0;
  std::uint64_t smallest_bytes = 0;  // fixed ones included
  std::uint64_t largest_bytes = 0;
};

struct KnapsackOptions {
  // Bytes are rounded up to multiples of this. 1: data alone, as bits per weight count; the file's alignment: as a
  // file counts.
  std::uint64_t alignment = 1;
  // Candidates with a larger relative error are left out where something better remains; 0: none are.
  double max_nmse = 0;
  // Added to the cost of tensor i as format f: speed_weight * read_share[i] * decode_cost(f, runtime).
  double speed_weight = 0;
  Runtime runtime = Runtime::Cuda;
  std::vector<double> read_share;  // per tensor; empty when speed_weight is 0
};

// The knapsack over the tensors `subset` (indices, ascending; empty: all). `sensitivity[i]` is s_t of tensor i.
// Internal when a measurement is missing, Infeasible when a tied group has no common format in the subset.
[[nodiscard]] Result<Knapsack> make_knapsack(std::span<const TensorPlan> plans, const Measurements& measurements,
                                             std::span<const double> sensitivity, const KnapsackOptions& options = {},
                                             std::span<const std::uint32_t> subset = {});

// The recipe that keeps to what every tensor is left without a choice: its only format, or its smallest.
[[nodiscard]] Recipe smallest_recipe(std::span<const TensorPlan> plans);
// Enters the choices of an allocation of `knapsack` into `recipe`.
void apply(const Knapsack& knapsack, const Allocation& allocation, Recipe& recipe);

// Predicted error of any recipe whose formats were all measured; nothing otherwise.
[[nodiscard]] std::optional<double> predicted_error(std::span<const TensorPlan> plans,
                                                    const Measurements& measurements,
                                                    std::span<const double> sensitivity, const Recipe& recipe);

}  // namespace quantfit::optimizer

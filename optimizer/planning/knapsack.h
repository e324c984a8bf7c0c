// Measurements times sensitivities as the allocator's classes, and the way back to a recipe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/error.h"
#include "core/recipe.h"
#include "optimizer/allocation/allocator.h"
#include "optimizer/measurement/measure.h"
#include "optimizer/planning/candidates.h"
#include "optimizer/planning/runtime_speed.h"

namespace quantfit::optimizer {

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
  // Bytes are rounded up to multiples of this. 1: data alone, as bits per weight count; the file's alignment:
  // as a file counts.
  std::uint64_t alignment = 1;
  // Candidates with a larger relative error are left out where something better remains; 0: none are.
  double max_nmse = 0;
  // Added to the cost of tensor i as format f: speed_weight * read_share[i] * decode_cost(f, runtime).
  double speed_weight = 0;
  Runtime runtime = Runtime::Cuda;
  std::vector<double> read_share = {};  // per tensor; empty when speed_weight is 0
};

// The knapsack over the tensors `subset` (indices, ascending). `sensitivity[i]` is s_t of tensor
// i. Internal when a measurement is missing, Infeasible when a tied group has no common format in the subset.
[[nodiscard]] Result<Knapsack> make_knapsack(std::span<const TensorCandidates> tensors,
                                             const Measurements& measurements,
                                             std::span<const double> sensitivity,
                                             const KnapsackOptions& options,
                                             std::span<const std::uint32_t> subset);

// Enters the choices of an allocation of `knapsack` into `recipe`.
void apply(const Knapsack& knapsack, const Allocation& allocation, Recipe& recipe);

// N(t, f), or nothing when it was not measured. Keeping the source costs nothing.
[[nodiscard]] std::optional<double> nmse_of(const TensorCandidates& tensor, Format format,
                                            const Measurements& measurements);

// What is added to the cost of tensor `index` as `format`.
[[nodiscard]] double speed_penalty(const KnapsackOptions& options, std::size_t index, Format format);

}  // namespace quantfit::optimizer

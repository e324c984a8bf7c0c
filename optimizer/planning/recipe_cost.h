// What a whole recipe costs: in predicted error, in reading time, in bytes it cannot do without.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "core/recipe.h"
#include "optimizer/planning/knapsack.h"

namespace quantfit::optimizer {

struct RecipeCost {
  double error = 0;          // sum of s_t N(t, f), tensors without a choice included
  double speed_penalty = 0;  // KnapsackOptions::speed_weight times the time to read all weights

  // What the search minimizes.
  [[nodiscard]] double objective() const { return error + speed_penalty; }
};

// The cost of any recipe whose formats were all measured; nothing otherwise. `recipe` has one entry per
// tensor, in order. Of `options` only speed counts.
[[nodiscard]] std::optional<RecipeCost> recipe_cost(std::span<const TensorCandidates> tensors,
                                                    const Measurements& measurements,
                                                    std::span<const double> sensitivity,
                                                    const KnapsackOptions& options, const Recipe& recipe);

// The fewest and most bytes that tensors can take, known before anything is measured.
struct ByteRange {
  std::uint64_t smallest = 0;
  std::uint64_t largest = 0;
};

// Of the tensors `subset` (indices, ascending), each rounded up to a multiple of `alignment`. Tied tensors
// take one format. ShapeMismatch when a sum exceeds 64 bits.
[[nodiscard]] Result<ByteRange> byte_range(std::span<const TensorCandidates> tensors,
                                           std::span<const std::uint32_t> subset, std::uint64_t alignment);

}  // namespace quantfit::optimizer

// What a target leaves for weights, and what a model's tensors can take: known before anything is measured.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/target.h"
#include "optimizer/llama_cpp/memory_model.h"
#include "optimizer/planning/candidates.h"

namespace quantfit::optimizer {

// What a budget is about.
enum class BudgetKind : std::uint8_t {
  TensorData,  // bits per weight: data without padding
  File,        // the whole file
  Gpu,         // weights on the GPU
  Ram,         // weights in RAM
};
[[nodiscard]] std::string_view to_string(BudgetKind kind);  // "tensor data", "file", "GPU", "RAM"

// One budget and the tensors that count in it.
struct MemoryBudget {
  BudgetKind kind = BudgetKind::TensorData;
  std::optional<std::uint64_t> bytes;  // nothing: no limit
  std::uint64_t shortfall_bytes = 0;   // cache and buffers alone need so much more; `bytes` is then 0
  std::uint64_t overhead_bytes = 0;    // of `bytes`, taken whatever the recipe: a file's metadata
  std::uint64_t alignment = 1;         // every tensor is rounded up to a multiple of this
  std::vector<std::uint32_t> tensors;  // indices, ascending; one with a copy counts in two memories
  std::uint64_t smallest_bytes = 0;    // reachable range, overhead included
  std::uint64_t largest_bytes = 0;

  [[nodiscard]] bool feasible() const { return shortfall_bytes == 0 && (!bytes || *bytes >= smallest_bytes); }
};

// All budgets of one target; the first is the one that its result is told in.
struct Budget {
  Target target;
  std::vector<MemoryBudget> memories;      // at least one
  std::optional<MemoryEstimate> estimate;  // of a memory target
  std::vector<std::string> notes;          // what a person should know about the request

  [[nodiscard]] bool feasible() const;
  // The budget of that kind, or null.
  [[nodiscard]] const MemoryBudget* find(BudgetKind kind) const;
};

// `tensors` are the model's candidates, `keys` the metadata that the file will have beside the source's. What
// cutting the file adds is taken at its most. Errors of budget_for_bpw, estimate_memory and output_layout.
[[nodiscard]] Result<Budget> find_budget(const JobInputs& inputs, std::span<const TensorCandidates> tensors,
                                         const Target& target, std::span<const GgufKeyValue> keys = {},
                                         const ShardLimits& split = {});

// What a recipe takes of a budget, overhead included. ShapeMismatch when a format does not fit a row.
[[nodiscard]] Result<std::uint64_t> bytes_used(const MemoryBudget& memory,
                                               std::span<const TensorInfo> tensors, const Recipe& recipe);

}  // namespace quantfit::optimizer

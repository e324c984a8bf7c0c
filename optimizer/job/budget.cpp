#include "optimizer/job/budget.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/byte_size.h"
#include "core/checked.h"
#include "core/gguf_writer.h"
#include "optimizer/llama_cpp/tensor_role.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/output/recipe_io.h"
#include "optimizer/planning/recipe_cost.h"

namespace quantfit::optimizer {
namespace {

// Data sections are laid out with this alignment; a source's other alignment is dropped.
constexpr std::uint64_t kFileAlignment = 32;

std::vector<std::uint32_t> all_of(std::span<const TensorInfo> tensors) {
  std::vector<std::uint32_t> indices(tensors.size());
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

// Rules of placement without effect, as sentences.
std::vector<std::string> idle_rules(const MemoryRequest& request, std::span<const TensorInfo> tensors) {
  std::vector<std::string> notes;
  for (const PlacementRule& rule : request.overrides)
    if (std::ranges::none_of(tensors,
                             [&](const TensorInfo& tensor) { return rule.pattern.found_in(tensor.name); }))
      notes.push_back(
          fmt::format("{} '{}' applies to no tensor", request.names.overrides, rule.pattern.text()));
  if ((request.cpu_moe || request.n_cpu_moe != 0) &&
      std::ranges::none_of(tensors, [](const TensorInfo& tensor) { return is_routed_experts(tensor.name); }))
    notes.push_back(fmt::format("{} changes nothing: the model has no routed experts",
                                request.cpu_moe ? request.names.cpu_moe : request.names.n_cpu_moe));
  return notes;
}

// GPU and RAM, each with what the estimate leaves of it.
Result<void> add_memories(const JobInputs& inputs, const MemoryRequest& request, Budget& budget) {
  const auto tensors = inputs.model.tensors();
  QF_ASSIGN(budget.estimate, estimate_memory(inputs.model.metadata(), tensors, request));
  budget.notes = idle_rules(request, tensors);
  const MemoryEstimate& estimate = *budget.estimate;
  MemoryBudget gpu;
  gpu.kind = BudgetKind::Gpu;
  gpu.bytes = estimate.gpu_weight_budget_bytes;
  gpu.shortfall_bytes = estimate.gpu_shortfall_bytes;
  MemoryBudget ram;
  ram.kind = BudgetKind::Ram;
  ram.bytes = estimate.host_weight_budget_bytes;
  ram.shortfall_bytes = estimate.host_shortfall_bytes;
  for (std::uint32_t i = 0; i < estimate.placement.size(); ++i) {
    const TensorPlacement& place = estimate.placement[i];
    if (place.device == Device::Gpu || place.copied_to_gpu) gpu.tensors.push_back(i);
    if (place.device == Device::Host) ram.tensors.push_back(i);
  }
  if (request.vram_bytes) budget.memories.push_back(std::move(gpu));
  if (!request.vram_bytes || ram.bytes || !ram.tensors.empty()) budget.memories.push_back(std::move(ram));
  return outcome::success();
}

}  // namespace

std::string_view to_string(BudgetKind kind) {
  switch (kind) {
    case BudgetKind::TensorData:
      return "tensor data";
    case BudgetKind::File:
      return "file";
    case BudgetKind::Gpu:
      return "GPU";
    case BudgetKind::Ram:
      return "RAM";
  }
  return "unknown";
}

bool Budget::feasible() const {
  return std::ranges::all_of(memories, &MemoryBudget::feasible);
}

const MemoryBudget* Budget::find(BudgetKind kind) const {
  const auto found = std::ranges::find(memories, kind, &MemoryBudget::kind);
  return found == memories.end() ? nullptr : &*found;
}

Result<Budget> find_budget(const JobInputs& inputs, std::span<const TensorCandidates> tensors,
                           const Target& target, std::span<const GgufKeyValue> keys,
                           const ShardLimits& split) {
  const auto infos = inputs.model.tensors();
  Budget budget;
  budget.target = target;
  if (const auto* memory = std::get_if<MemoryTarget>(&target)) {
    QF_TRY(add_memories(inputs, memory->request, budget));
  } else {
    MemoryBudget one;
    one.tensors = all_of(infos);
    if (const auto* bpw = std::get_if<BpwTarget>(&target)) {
      QF_ASSIGN(one.bytes, budget_for_bpw(inputs.model.total_elements(), bpw->text));
    } else if (const auto* file = std::get_if<FileSizeTarget>(&target)) {
      // A file counts padding and metadata; both are known whatever the recipe. How it is cut is not.
      QF_ASSIGN(const OutputLayout layout,
                output_layout(inputs.model, recipe_of(infos), inputs.importance_or_null(), keys));
      QF_ASSIGN(one.overhead_bytes, gguf_header_bytes(layout.metadata, layout.tensors));
      one.overhead_bytes =
          saturating_sum(one.overhead_bytes,
                         most_shard_overhead(split, infos.size(), file->bytes, inputs.model.shards().size()));
      one.kind = BudgetKind::File;
      one.alignment = kFileAlignment;
      one.bytes = file->bytes;
    }
    budget.memories.push_back(std::move(one));
  }
  for (MemoryBudget& memory : budget.memories) {
    QF_ASSIGN(const ByteRange range, byte_range(tensors, memory.tensors, memory.alignment));
    memory.smallest_bytes = memory.overhead_bytes + range.smallest;
    memory.largest_bytes = memory.overhead_bytes + range.largest;
  }
  return budget;
}

Result<std::uint64_t> bytes_used(const MemoryBudget& memory, std::span<const TensorInfo> tensors,
                                 const Recipe& recipe) {
  std::uint64_t sum = memory.overhead_bytes;
  for (const std::uint32_t i : memory.tensors) {
    QF_ASSIGN(const std::uint64_t bytes,
              tensor_bytes(recipe.entries[i].format, tensors[i].row_length(), tensors[i].rows()));
    sum += saturating_round_up(bytes, memory.alignment);
  }
  return sum;
}

}  // namespace quantfit::optimizer

#include "optimizer/planning/recipe_cost.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/checked.h"

namespace quantfit::optimizer {
namespace {

Result<std::uint64_t> aligned_bytes(const TensorInfo& tensor, Format format, std::uint64_t alignment) {
  QF_ASSIGN(const std::uint64_t bytes, tensor_bytes(format, tensor.row_length(), tensor.rows()));
  const auto aligned = checked_round_up(bytes, alignment);
  if (!aligned) return fail(ErrorCode::ShapeMismatch, "tensor '{}': its size exceeds 64 bits", tensor.name);
  return *aligned;
}

}  // namespace

std::optional<RecipeCost> recipe_cost(std::span<const TensorCandidates> tensors,
                                      const Measurements& measurements, std::span<const double> sensitivity,
                                      const KnapsackOptions& options, const Recipe& recipe) {
  RecipeCost cost;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Format format = recipe.entries[i].format;
    const std::optional<double> nmse = nmse_of(tensors[i], format, measurements);
    if (!nmse) return std::nullopt;
    cost.error += sensitivity[i] * *nmse;
    cost.speed_penalty += speed_penalty(options, i, format);
  }
  return cost;
}

Result<ByteRange> byte_range(std::span<const TensorCandidates> tensors, std::span<const std::uint32_t> subset,
                             std::uint64_t alignment) {
  // Bytes per common format of every tied group.
  std::unordered_map<std::string_view, std::vector<std::pair<Format, std::uint64_t>>> groups;
  ByteRange range;
  const auto add = [&](std::uint64_t least, std::uint64_t most) -> Result<void> {
    range.smallest = saturating_sum(range.smallest, least);
    range.largest = saturating_sum(range.largest, most);
    if (range.smallest == kSaturated || range.largest == kSaturated)
      return fail(ErrorCode::ShapeMismatch, "the sizes of all tensors exceed 64 bits");
    return outcome::success();
  };
  for (const std::uint32_t i : subset) {
    const TensorCandidates& own = tensors[i];
    std::uint64_t least = UINT64_MAX;
    std::uint64_t most = 0;
    auto* const group = own.tie_group.empty() ? nullptr : &groups[own.tie_group];
    const bool first = group != nullptr && group->empty();
    for (const Format format : own.formats) {
      QF_ASSIGN(const std::uint64_t bytes, aligned_bytes(*own.tensor, format, alignment));
      least = std::min(least, bytes);
      most = std::max(most, bytes);
      if (group == nullptr) continue;
      if (first) group->emplace_back(format, 0);
      for (auto& [known, sum] : *group) {
        if (known != format) continue;
        sum = saturating_sum(sum, bytes);
        if (sum == kSaturated)
          return fail(ErrorCode::ShapeMismatch, "the sizes of the tied group '{}' exceed 64 bits",
                      own.tie_group);
      }
    }
    if (group == nullptr) QF_TRY(add(least, most));
  }
  for (const auto& [name, formats] : groups) {
    const auto by_bytes = [](const auto& entry) { return entry.second; };
    const auto [least, most] = std::ranges::minmax(formats, {}, by_bytes);
    QF_TRY(add(least.second, most.second));
  }
  return range;
}

}  // namespace quantfit::optimizer

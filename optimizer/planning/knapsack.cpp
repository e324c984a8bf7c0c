#include "optimizer/planning/knapsack.h"

#include <algorithm>
#include <unordered_map>

#include "core/checked.h"

namespace quantfit::optimizer {

namespace {

std::uint64_t aligned(std::uint64_t bytes, std::uint64_t alignment) {
  return saturating_round_up(bytes, alignment);
}

}  // namespace

std::optional<double> nmse_of(const TensorCandidates& tensor, Format format,
                              const Measurements& measurements) {
  if (format == tensor.tensor->format) return 0.0;
  const auto found = measurements.find(tensor.tensor->name);
  if (found == measurements.end()) return std::nullopt;
  for (const FormatMeasurement& measurement : found->second.errors)
    if (measurement.format == format) return measurement.nmse;
  return std::nullopt;
}

double speed_penalty(const KnapsackOptions& options, std::size_t index, Format format) {
  if (options.speed_weight <= 0) return 0;
  return options.speed_weight * options.read_share[index] * decode_cost(format, options.runtime);
}

Result<Knapsack> make_knapsack(std::span<const TensorCandidates> tensors, const Measurements& measurements,
                               std::span<const double> sensitivity, const KnapsackOptions& options,
                               std::span<const std::uint32_t> subset) {
  Knapsack knapsack;
  std::unordered_map<std::string, std::size_t> class_of_group;
  for (const std::uint32_t i : subset) {
    const TensorCandidates& own = tensors[i];
    const TensorInfo& tensor = *own.tensor;
    std::vector<Candidate> candidates;
    std::vector<double> errors;
    for (const Format format : own.formats) {
      const std::optional<double> nmse = nmse_of(own, format, measurements);
      if (!nmse)
        return fail(ErrorCode::Internal, "tensor '{}' was not measured as {}", tensor.name, name_of(format));
      QF_ASSIGN(const std::uint64_t bytes, tensor_bytes(format, tensor.row_length(), tensor.rows()));
      candidates.push_back({format, aligned(bytes, options.alignment),
                            sensitivity[i] * *nmse + speed_penalty(options, i, format)});
      errors.push_back(*nmse);
    }
    // Tied tensors must keep all formats in common; a veto of one member would veto the group's.
    if (options.max_nmse > 0 && own.tie_group.empty() &&
        std::ranges::any_of(errors, [&](double error) { return error <= options.max_nmse; })) {
      std::size_t kept = 0;
      for (std::size_t c = 0; c < candidates.size(); ++c)
        if (errors[c] <= options.max_nmse) candidates[kept++] = candidates[c];
      candidates.resize(kept);
    }
    if (own.formats.size() == 1 && own.tie_group.empty()) {
      knapsack.fixed_bytes += candidates[0].bytes;
      knapsack.fixed_cost += candidates[0].cost;
      continue;
    }
    const auto group = own.tie_group.empty() ? class_of_group.end() : class_of_group.find(own.tie_group);
    if (group == class_of_group.end()) {
      if (!own.tie_group.empty()) class_of_group.emplace(own.tie_group, knapsack.classes.size());
      knapsack.classes.push_back(
          {own.tie_group.empty() ? tensor.name : own.tie_group, std::move(candidates)});
      knapsack.members.push_back({i});
      continue;
    }
    // A tied tensor joins its class: bytes and costs add up over the formats that all members allow.
    CandidateClass& joined = knapsack.classes[group->second];
    std::vector<Candidate> common;
    for (const Candidate& candidate : joined.candidates) {
      const auto mine = std::ranges::find(candidates, candidate.format, &Candidate::format);
      if (mine != candidates.end())
        common.push_back({candidate.format, candidate.bytes + mine->bytes, candidate.cost + mine->cost});
    }
    if (common.empty())
      return fail(ErrorCode::Infeasible, "no format is allowed for all tensors of the tied group '{}'",
                  own.tie_group);
    joined.candidates = std::move(common);
    knapsack.members[group->second].push_back(i);
  }
  knapsack.smallest_bytes = knapsack.largest_bytes = knapsack.fixed_bytes;
  for (const CandidateClass& group : knapsack.classes) {
    const auto [least, most] = std::ranges::minmax(group.candidates, {}, &Candidate::bytes);
    knapsack.smallest_bytes += least.bytes;
    knapsack.largest_bytes += most.bytes;
  }
  return knapsack;
}

void apply(const Knapsack& knapsack, const Allocation& allocation, Recipe& recipe) {
  for (std::size_t c = 0; c < knapsack.classes.size(); ++c)
    for (const std::uint32_t member : knapsack.members[c])
      recipe.entries[member].format = allocation.choice[c];
}

}  // namespace quantfit::optimizer

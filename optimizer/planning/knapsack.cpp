#include "optimizer/planning/knapsack.h"

#include <algorithm>
#include <unordered_map>

namespace quantfit::optimizer {

namespace {

std::uint64_t aligned(std::uint64_t bytes, std::uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// N(t, f), or nothing when it was not measured. Keeping the source costs nothing.
std::optional<double> nmse_of(const TensorCandidates& own, Format format, const Measurements& measurements) {
  if (format == own.tensor->format) return 0.0;
  const auto found = measurements.find(own.tensor->name);
  if (found == measurements.end()) return std::nullopt;
  for (const FormatMeasurement& error : found->second.errors)
    if (error.format == format) return error.nmse;
  return std::nullopt;
}

}  // namespace

Result<Knapsack> make_knapsack(std::span<const TensorCandidates> tensors, const Measurements& measurements,
                               std::span<const double> sensitivity, const KnapsackOptions& options,
                               std::span<const std::uint32_t> subset) {
  Knapsack knapsack;
  std::unordered_map<std::string, std::size_t> class_of_group;
  const std::size_t count = subset.empty() ? tensors.size() : subset.size();
  for (std::size_t position = 0; position < count; ++position) {
    const auto i = subset.empty() ? static_cast<std::uint32_t>(position) : subset[position];
    const TensorCandidates& own = tensors[i];
    const TensorInfo& tensor = *own.tensor;
    std::vector<Candidate> candidates;
    std::vector<double> errors;
    for (const Format format : own.formats) {
      const std::optional<double> nmse = nmse_of(own, format, measurements);
      if (!nmse)
        return fail(ErrorCode::Internal, "tensor '{}' was not measured as {}", tensor.name, name_of(format));
      QF_ASSIGN(const std::uint64_t bytes, tensor_bytes(format, tensor.row_length(), tensor.rows()));
      const double penalty = options.speed_weight > 0 ? options.speed_weight * options.read_share[i] *
                                                            decode_cost(format, options.runtime)
                                                      : 0.0;
      candidates.push_back({format, aligned(bytes, options.alignment), sensitivity[i] * *nmse + penalty});
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

std::optional<double> predicted_error(std::span<const TensorCandidates> tensors,
                                      const Measurements& measurements, std::span<const double> sensitivity,
                                      const Recipe& recipe) {
  double total = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::optional<double> nmse = nmse_of(tensors[i], recipe.entries[i].format, measurements);
    if (!nmse) return std::nullopt;
    total += sensitivity[i] * *nmse;
  }
  return total;
}

}  // namespace quantfit::optimizer

#include "optimizer/allocation/pareto_classes.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

namespace quantfit::optimizer {

Result<ParetoClasses> pareto_classes(std::span<const CandidateClass> classes, Keep keep) {
  ParetoClasses pareto;
  pareto.order.resize(classes.size());
  std::iota(pareto.order.begin(), pareto.order.end(), 0U);
  std::ranges::stable_sort(pareto.order, {},
                           [&](std::uint32_t c) -> const std::string& { return classes[c].name; });
  pareto.classes.reserve(classes.size());
  std::uint64_t total_bytes = 0;
  double total_cost = 0;
  for (const std::uint32_t c : pareto.order) {
    const CandidateClass& given = classes[c];
    if (given.candidates.empty())
      return fail(ErrorCode::InvalidArgument, "class '{}' has no candidates", given.name);
    if (given.candidates.size() > kMaxCandidates)
      return fail(ErrorCode::InvalidArgument, "class '{}' has {} candidates, at most {} are allowed",
                  given.name, given.candidates.size(), kMaxCandidates);
    std::vector<ParetoPoint> points;
    std::uint64_t most_bytes = 0;
    double most_cost = 0;
    for (std::uint32_t i = 0; i < given.candidates.size(); ++i) {
      const Candidate& candidate = given.candidates[i];
      if (!std::isfinite(candidate.cost) || candidate.cost < 0)
        return fail(ErrorCode::InvalidArgument, "class '{}', format {}: cost {} is not a finite number >= 0",
                    given.name, name_of(candidate.format), candidate.cost);
      most_bytes = std::max(most_bytes, candidate.bytes);
      most_cost = std::max(most_cost, candidate.cost);
      points.push_back({candidate.bytes, candidate.cost, i});
    }
    if (most_bytes >= kMaxTotalBytes - total_bytes)
      return fail(ErrorCode::InvalidArgument, "class '{}': the largest candidates together reach 2^62 bytes",
                  given.name);
    total_bytes += most_bytes;
    total_cost += most_cost;
    if (!std::isfinite(total_cost))
      return fail(ErrorCode::InvalidArgument, "class '{}': the sum of costs is not finite", given.name);
    std::ranges::sort(points, [&](const ParetoPoint& a, const ParetoPoint& b) {
      return std::tuple(a.bytes, a.cost, given.candidates[a.candidate].format, a.candidate) <
             std::tuple(b.bytes, b.cost, given.candidates[b.candidate].format, b.candidate);
    });
    std::vector<ParetoPoint> kept;
    for (const ParetoPoint& point : points)
      if (kept.empty() ||
          (keep == Keep::Frontier ? point.cost < kept.back().cost : point.bytes > kept.back().bytes))
        kept.push_back(point);
    pareto.classes.push_back(std::move(kept));
  }
  return pareto;
}

}  // namespace quantfit::optimizer

// Candidate classes checked, put into canonical order and reduced to what may be worth choosing: what
// allocator and frontier both start from.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "optimizer/allocation/allocator.h"

namespace quantfit::optimizer {

// No sum over classes of their largest candidates reaches this many bytes.
inline constexpr std::uint64_t kMaxTotalBytes = std::uint64_t{1} << 62;

struct ParetoPoint {
  std::uint64_t bytes;
  double cost;
  std::uint32_t candidate;  // index into the caller's class
};

struct ParetoClasses {
  std::vector<std::uint32_t> order;  // canonical position (by name, then as given) -> caller's class
  std::vector<std::vector<ParetoPoint>> classes;  // per position; bytes ascend strictly, costs as kept
};

// What is kept of a class.
enum class Keep {
  Frontier,           // what no other candidate of at most as many bytes undercuts: costs descend
  CheapestOfEachSize  // one candidate per number of bytes, whatever smaller ones cost: costs in any order
};

// Of candidates equal in bytes and cost the one of lower format id is kept, of those the first given.
// InvalidArgument, naming the class: no or more than kMaxCandidates candidates, a cost that is negative or
// not finite, sums of bytes that reach kMaxTotalBytes or of costs that are not finite.
[[nodiscard]] Result<ParetoClasses> pareto_classes(std::span<const CandidateClass> classes,
                                                   Keep keep = Keep::Frontier);

}  // namespace quantfit::optimizer

// The whole curve of bytes against predicted error: every breakpoint of the multiplier's sweep over the
// classes' convex hulls. Each point is the exact optimum for the budget of its own bytes; between two points
// the optimum lies on or above the line that joins them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/error.h"
#include "optimizer/allocation/allocator.h"

namespace quantfit::optimizer {

// One class moving one step up its hull, and where the whole model stands after it.
struct FrontierStep {
  std::uint32_t class_index = 0;  // in the order the classes were given
  std::uint32_t from = 0;         // candidate indices in that class
  std::uint32_t to = 0;
  Format from_format = Format::F32;
  Format to_format = Format::F32;
  std::uint64_t bytes = 0;  // of the whole choice after the step; ascends
  double cost = 0;          // likewise; descends
  double multiplier = 0;    // predicted error saved per byte of this step; descends, equal within ties
};

struct Frontier {
  std::vector<std::uint32_t>
      smallest;  // candidate index per class: fewest bytes, then least cost, then format id
  std::uint64_t smallest_bytes = 0;
  double smallest_cost = 0;
  std::vector<FrontierStep> steps;

  // The choice after the first `count` steps; count <= steps.size().
  [[nodiscard]] std::vector<std::uint32_t> choice_after(std::size_t count) const;
};

// O(n log n) in the number of candidates. Steps of equal multiplier are ordered by class name, then by
// position on the hull. InvalidArgument as allocate().
[[nodiscard]] Result<Frontier> frontier(std::span<const CandidateClass> classes);

}  // namespace quantfit::optimizer

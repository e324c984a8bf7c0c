// The core of the multiple-choice knapsack: all choices within a given gap of the Lagrangian bound,
// by dynamic programming over Pareto states from both ends of the open classes, joined in the
// middle. See allocation.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "core/progress.h"
#include "optimizer/allocation/mckp_reductions.h"

namespace quantfit::optimizer::mckp {

struct CoreLimits {
  std::uint64_t max_states = 0;        // states alive at once, both lists and the one being built
  std::uint64_t max_memory_bytes = 0;  // states and back pointers
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  const CancellationToken* cancel = nullptr;  // a cancelled search stops like one out of time
};

enum class CoreStop { Complete, States, Time };

// How much of the capacity a choice may leave unused, when it may leave any.
inline constexpr std::int64_t kAnySpare = std::int64_t{1} << 62;

struct CoreResult {
  CoreStop stop = CoreStop::Complete;
  bool found = false;                 // some choice within the capacity was seen
  std::int64_t gap = 0;               // scaled: its cost less the bound; may exceed the gap asked for
  std::int64_t weight = 0;            // its weight less the base's weight
  std::vector<std::uint32_t> choice;  // per class: item index, empty unless found
  std::uint64_t states = 0;           // states made
  std::uint64_t peak_states = 0;      // most states alive at once
  std::uint64_t peak_memory_bytes = 0;
  std::uint32_t open_classes = 0;  // classes with more than one item left
};

// Searches all choices within the capacity that leave at most `spare` of it unused and whose cost is at most
// bound + gap. When `stop` is Complete and no result with a gap at most `gap` came back, none exists;
// otherwise the result is the cheapest, and of those the lightest. A result above `gap`, or of an incomplete
// search, is a valid choice and no more. `order` lists the classes from the front end to the back end. gap
// must be >= 0 and at most 2^61 + 1. Without a limit to `spare` the classes must be Pareto frontiers.
[[nodiscard]] CoreResult search_core(std::span<const Items> classes, const Dual& dual, std::int64_t gap,
                                     std::span<const std::uint32_t> order, const CoreLimits& limits,
                                     std::int64_t spare = kAnySpare);

// How the gap searched grows, and when it is good enough.
struct GapSchedule {
  std::int64_t first = 1;  // scaled, >= 0
  double growth = 1.6;     // > 1
  double relative_gap =
      0;  // stop when best - proven is at most this share of the best cost; 0: only when equal
};

enum class GapStop { Optimal, GapReached, States, Time };

struct GapResult {
  GapStop stop = GapStop::Optimal;
  std::int64_t best = 0;    // scaled gap of `choice`
  std::int64_t proven = 0;  // scaled: no choice within the capacity has a smaller gap; best when Optimal
  std::vector<std::uint32_t> choice;  // per class: item index
  std::uint64_t states = 0;           // sums and maxima over all searches, as in CoreResult
  std::uint64_t peak_states = 0;
  std::uint64_t peak_memory_bytes = 0;
  std::uint32_t open_classes = 0;
};

// Searches wider and wider gaps until the cheapest choice known lies within the gap searched or a
// limit stops it. `choice` is any choice within the capacity and `spare`, `best` its scaled cost less
// the bound. When none is known: empty, and a gap that no choice reaches; a result Optimal and empty
// then proves that none exists.
[[nodiscard]] GapResult close_gap(std::span<const Items> classes, const Dual& dual,
                                  std::vector<std::uint32_t> choice, std::int64_t best,
                                  const GapSchedule& schedule, std::span<const std::uint32_t> order,
                                  const CoreLimits& limits, std::int64_t spare = kAnySpare);

}  // namespace quantfit::optimizer::mckp

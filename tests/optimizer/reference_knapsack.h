// Slow and obvious solvers of the multiple-choice knapsack, to compare the real one with.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "optimizer/allocation/allocator.h"

namespace quantfit::optimizer::reference {

struct Answer {
  double cost;
  std::uint64_t bytes;
  friend bool operator==(const Answer&, const Answer&) = default;
  friend bool operator<(const Answer& a, const Answer& b) {
    return a.cost != b.cost ? a.cost < b.cost : a.bytes < b.bytes;
  }
};

// Tries every choice: cheapest, then fewest bytes. Nothing when no choice of `least` bytes or more fits.
inline std::optional<Answer> brute_force(std::span<const CandidateClass> classes, std::uint64_t budget,
                                         std::uint64_t least = 0) {
  std::optional<Answer> best;
  std::vector<std::size_t> index(classes.size(), 0);
  while (true) {
    Answer answer{0, 0};
    for (std::size_t c = 0; c < classes.size(); ++c) {
      answer.cost += classes[c].candidates[index[c]].cost;
      answer.bytes += classes[c].candidates[index[c]].bytes;
    }
    if (answer.bytes >= least && answer.bytes <= budget && (!best || answer < *best)) best = answer;
    std::size_t c = 0;
    while (c < classes.size() && ++index[c] == classes[c].candidates.size()) index[c++] = 0;
    if (c == classes.size()) return best;
  }
}

// Bellman's recursion over every number of bytes up to the budget; for small bytes and any number of classes.
inline std::optional<Answer> by_weights(std::span<const CandidateClass> classes, std::uint64_t budget,
                                        std::uint64_t least = 0) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  std::vector<double> cost(budget + 1, kNone);  // least cost of exactly so many bytes
  cost[0] = 0;
  for (const CandidateClass& one : classes) {
    std::vector<double> next(budget + 1, kNone);
    for (const Candidate& candidate : one.candidates)
      for (std::uint64_t b = candidate.bytes; b <= budget; ++b)
        if (const double sum = cost[b - candidate.bytes] + candidate.cost; sum < next[b]) next[b] = sum;
    cost = std::move(next);
  }
  std::optional<Answer> best;
  for (std::uint64_t b = least; b <= budget; ++b)
    if (cost[b] < kNone && (!best || cost[b] < best->cost)) best = Answer{cost[b], b};
  return best;
}

}  // namespace quantfit::optimizer::reference

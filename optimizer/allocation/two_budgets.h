// The multiple-choice knapsack over two memories, each with a budget of its own: some classes take room in
// the one, some in the other, and some in both.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "optimizer/allocation/allocator.h"

namespace quantfit::optimizer {

struct SharedCandidate {
  Format format = Format::F32;
  std::uint64_t first_bytes = 0;   // in the first memory
  std::uint64_t second_bytes = 0;  // in the second
  double cost = 0;                 // finite and >= 0, counted once
};

// Tensors in both memories that have one format: a tied group that is spread over them, a tensor with a copy.
struct SharedClass {
  std::string name;
  std::vector<SharedCandidate> candidates;  // at least one; the smallest in one memory is so in the other
};

struct TwoBudgets {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
};

struct TwoBudgetAllocation {
  Allocation first;                   // of the first memory's own classes, in what the shared ones leave
  Allocation second;                  // likewise
  std::vector<std::uint32_t> shared;  // per shared class: index of the chosen candidate
  TwoBudgets shared_bytes;            // what they take
  double objective = 0;               // of all classes
  double lower_bound = 0;             // of any choice within both budgets; equals objective when Optimal
  std::uint64_t states = 0;           // examined by all searches together
  double seconds = 0;
  Termination why = Termination::Optimal;  // BudgetTooSmall: the choice is the smallest of every class
};

// Combinations of shared formats that are solved; see allocate_two().
inline constexpr std::size_t kMaxCombinations = 256;

// The end that proves less, of two searches that make one answer.
[[nodiscard]] Termination worse(Termination a, Termination b);

// Of all choices within both budgets the cheapest. Once the shared classes have their formats the rest is one
// knapsack for each memory; combinations of shared formats are tried in ascending order of a Lagrangian bound
// (one multiplier for each budget) until no other can be better. After kMaxCombinations of them the bound
// stays honest (StateLimit). The answer is a function of the arguments as allocate()'s is. Errors as
// allocate(). `limits.max_seconds` is for the whole.
[[nodiscard]] Result<TwoBudgetAllocation> allocate_two(std::span<const CandidateClass> first,
                                                       std::span<const CandidateClass> second,
                                                       std::span<const SharedClass> shared,
                                                       const TwoBudgets& budgets,
                                                       const AllocatorLimits& limits = {});

}  // namespace quantfit::optimizer

// The multiple-choice knapsack: one candidate per class, lowest total cost within a budget of bytes, with a
// certificate of how near to the optimum the answer is. Functions of their arguments; see allocation.md.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "core/progress.h"

namespace quantfit::optimizer {

struct Candidate {
  Format format = Format::F32;
  std::uint64_t bytes = 0;
  double cost = 0;  // s_t * N(t, f) summed over the class: predicted error, finite and >= 0
};

// One tensor, or several tied to one common format.
struct CandidateClass {
  std::string name;                   // classes are taken in the order of their names
  std::vector<Candidate> candidates;  // at least one
};

enum class Termination {
  Optimal,         // proven: gap 0 in integer costs
  GapReached,      // the requested gap was reached first
  StateLimit,      // the cap on partial states stopped the proof; the gap is honest
  TimeLimit,       // likewise the cap on time
  BudgetTooSmall,  // no choice fits; `choice` is the smallest one
};
[[nodiscard]] std::string_view to_string(Termination why);

// Of one class; more than the formats there are.
inline constexpr std::size_t kMaxCandidates = 256;

struct AllocatorLimits {
  std::uint64_t max_states = 8'000'000;           // partial states alive at once
  std::uint64_t max_memory_bytes = 224ULL << 20;  // of the search: states and their back pointers
  double max_seconds = 10;
  double relative_gap = 0;                    // stop when (objective - bound) / objective is at most this
  const CancellationToken* cancel = nullptr;  // not owned; null: never cancelled
};

struct Allocation {
  std::vector<Format> choice;        // one per class, in the order the classes were given
  std::vector<std::uint32_t> index;  // likewise: index of the chosen candidate
  std::uint64_t least_bytes = 0;     // bounds hold for choices of at least so many bytes; 0: for all
  std::uint64_t bytes = 0;           // never above the budget unless BudgetTooSmall
  double objective = 0;              // sum of the chosen costs
  double lower_bound = 0;            // of any choice within the budget; equals objective when Optimal
  double lp_bound = 0;               // Lagrangian dual bound at the multiplier
  double multiplier = 0;             // lambda: predicted error bought by one more byte
  double cost_unit = 0;              // costs were rounded to multiples of this, a power of two, for the proof
  std::int64_t objective_units = 0;  // the certificate in integers: cost of `choice` in those units,
  std::int64_t lower_bound_units = 0;   // which no choice within the budget undercuts; equal when Optimal
  std::uint64_t states = 0;             // partial states examined
  std::uint64_t peak_states = 0;        // most partial states alive at once
  std::uint64_t peak_memory_bytes = 0;  // of states and back pointers
  std::uint32_t classes_in_core = 0;    // classes left open after fixing by reduced costs
  double seconds = 0;
  Termination why = Termination::Optimal;

  [[nodiscard]] double gap() const { return objective - lower_bound; }
};

// Of all choices within the budget the cheapest, and of those the one of fewest bytes (costs as rounded to
// `cost_unit`). The answer does not depend on the order of classes or candidates as long as names differ:
// classes are taken by name, and of two candidates equal in bytes and cost the lower format id is chosen. A
// budget below the smallest choice is an answer (BudgetTooSmall), not an error. Without a limit reached the
// answer is a function of the arguments alone, on every machine. InvalidArgument, naming the class, when a
// class has no or too many candidates, a cost is negative or not finite, or sums overflow (2^62 bytes, the
// largest double); Interrupted when cancelled.
[[nodiscard]] Result<Allocation> allocate(std::span<const CandidateClass> classes, std::uint64_t budget_bytes,
                                          const AllocatorLimits& limits = {});

// A budget that must be used almost whole.
struct FilledAllocation {
  Allocation answer;          // the cheapest choice of `answer.least_bytes` up to the budget
  Allocation unfilled;        // the cheapest within the budget, as allocate() finds it
  bool in_window = true;      // false: no choice was found of the least bytes asked for up to the budget
  bool proven_empty = false;  // ... and there is none
};

// The cheapest choice that takes at least `least_bytes` and at most `budget_bytes`. Where the cheapest within
// the budget does, it is the answer, `answer.least_bytes` is 0, and its proof holds for both. Where none can
// be found, the bytes that may stay unused are doubled until one is. Candidates that another one of no more
// bytes undercuts are considered too. `max_seconds` is for either problem. Of equal costs no order is
// promised, but the answer is a function of the arguments as allocate()'s is. Errors as allocate(), and
// InvalidArgument when `least_bytes` is above the budget.
[[nodiscard]] Result<FilledAllocation> allocate_filled(std::span<const CandidateClass> classes,
                                                       std::uint64_t least_bytes, std::uint64_t budget_bytes,
                                                       const AllocatorLimits& limits = {});

}  // namespace quantfit::optimizer

#include "optimizer/allocation/two_budgets.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <queue>
#include <utility>

#include "core/checked.h"
#include "core/clock.h"

namespace quantfit::optimizer {
namespace {

// Rounds of coordinate ascent on the two multipliers, and halvings for each of them. Any multipliers give a
// valid bound; better ones only save combinations.
constexpr int kDualRounds = 6;
constexpr int kHalvings = 50;
// Combinations looked at, those that do not fit included, times shared classes: bounds the memory of the
// walk.
constexpr std::size_t kMaxVisitedClasses = 4'000'000;

std::uint64_t minus(std::uint64_t a, std::uint64_t b) {
  return a > b ? a - b : 0;
}

struct Multipliers {
  double first = 0;
  double second = 0;
};

double price(const SharedCandidate& candidate, const Multipliers& at) {
  return candidate.cost + at.first * static_cast<double>(candidate.first_bytes) +
         at.second * static_cast<double>(candidate.second_bytes);
}

// The sum over the classes of their cheapest candidate at a price per byte, and the bytes that it takes.
struct Cheapest {
  double cost = 0;
  double first_bytes = 0;
  double second_bytes = 0;
};

double cheapest(std::span<const CandidateClass> classes, double per_byte, double& bytes) {
  double total = 0;
  for (const CandidateClass& group : classes) {
    double least = std::numeric_limits<double>::infinity();
    double taken = 0;
    for (const Candidate& candidate : group.candidates) {
      const double cost = candidate.cost + per_byte * static_cast<double>(candidate.bytes);
      if (cost < least) {
        least = cost;
        taken = static_cast<double>(candidate.bytes);
      }
    }
    total += least;
    bytes += taken;
  }
  return total;
}

class Problem {
 public:
  Problem(std::span<const CandidateClass> first, std::span<const CandidateClass> second,
          std::span<const SharedClass> shared, const TwoBudgets& budgets)
      : first_(first), second_(second), shared_(shared), budgets_(budgets) {}

  // No choice within the budgets costs less than `cost - first * budget - second * budget`.
  [[nodiscard]] Cheapest relaxed(const Multipliers& at) const {
    Cheapest sum;
    sum.cost = cheapest(first_, at.first, sum.first_bytes) + cheapest(second_, at.second, sum.second_bytes);
    for (const SharedClass& group : shared_) {
      const auto best = std::ranges::min_element(group.candidates, {},
                                                 [&](const SharedCandidate& c) { return price(c, at); });
      sum.cost += price(*best, at);
      sum.first_bytes += static_cast<double>(best->first_bytes);
      sum.second_bytes += static_cast<double>(best->second_bytes);
    }
    return sum;
  }

  [[nodiscard]] double bound(const Multipliers& at) const {
    return relaxed(at).cost - at.first * static_cast<double>(budgets_.first) -
           at.second * static_cast<double>(budgets_.second);
  }

  // Prices per byte at which both budgets are about used: one after the other, the other one held.
  [[nodiscard]] Multipliers best_multipliers() const {
    Multipliers at;
    for (int round = 0; round < kDualRounds; ++round) {
      at.first = price_for([&](double trial) {
        return relaxed({trial, at.second}).first_bytes > static_cast<double>(budgets_.first);
      });
      at.second = price_for([&](double trial) {
        return relaxed({at.first, trial}).second_bytes > static_cast<double>(budgets_.second);
      });
    }
    return at;
  }

 private:
  // The lowest price at which `too_much` no longer holds.
  template <class TooMuch>
  static double price_for(const TooMuch& too_much) {
    if (!too_much(0.0)) return 0;
    double low = 0;
    double high = 1e-30;
    while (too_much(high) && high < 1e30) high *= 1024;
    for (int i = 0; i < kHalvings; ++i) {
      const double middle = low == 0 ? high / 32 : std::sqrt(low * high);
      (too_much(middle) ? low : high) = middle;
    }
    return high;
  }

  std::span<const CandidateClass> first_;
  std::span<const CandidateClass> second_;
  std::span<const SharedClass> shared_;
  TwoBudgets budgets_;
};

std::uint64_t smallest_of(std::span<const CandidateClass> classes) {
  std::uint64_t sum = 0;
  for (const CandidateClass& group : classes)
    if (!group.candidates.empty())
      sum = saturating_sum(sum, std::ranges::min(group.candidates, {}, &Candidate::bytes).bytes);
  return sum;
}

// One choice of shared formats: positions in every class's own ascending order of price.
struct Combination {
  double bound = 0;
  std::vector<std::uint32_t> positions;  // by rank of the class
  std::size_t last = 0;                  // the class raised last; those after it are at 0
};
struct Later {
  bool operator()(const Combination& a, const Combination& b) const {
    return a.bound != b.bound ? a.bound > b.bound : a.positions > b.positions;
  }
};

// Walks the combinations in ascending order of their bound. Per class the candidates are sorted by price, the
// classes by what their first raise costs; every combination is then reached once, from a cheaper one, by
// raising the last raised class again, by raising the next class, or by handing its single raise to the next.
class Walk {
 public:
  Walk(std::span<const SharedClass> shared, const Multipliers& at, double bound) : count_(shared.size()) {
    for (std::uint32_t c = 0; c < shared.size(); ++c) {
      const std::vector<SharedCandidate>& candidates = shared[c].candidates;
      Ranked ranked{c, std::vector<std::uint32_t>(candidates.size()), {}};
      std::iota(ranked.order.begin(), ranked.order.end(), 0U);
      std::ranges::stable_sort(ranked.order, {}, [&](std::uint32_t i) { return price(candidates[i], at); });
      for (const std::uint32_t i : ranked.order) ranked.prices.push_back(price(candidates[i], at));
      ranked_.push_back(std::move(ranked));
    }
    std::ranges::stable_sort(ranked_, {}, [](const Ranked& r) {
      return r.prices.size() > 1 ? r.prices[1] - r.prices[0] : std::numeric_limits<double>::infinity();
    });
    queue_.push({bound, std::vector<std::uint32_t>(count_), 0});
  }

  [[nodiscard]] bool empty() const { return queue_.empty(); }
  [[nodiscard]] double next_bound() const { return queue_.top().bound; }

  // Candidate indices of the next combination.
  std::vector<std::uint32_t> next() {
    const Combination at = queue_.top();
    queue_.pop();
    const bool none_raised = at.positions.empty() || at.positions[at.last] == 0;
    if (none_raised) {
      raise(at, 0);
    } else {
      raise(at, at.last);
      if (at.last + 1 < count_) {
        raise(at, at.last + 1);
        if (at.positions[at.last] == 1) {
          Combination without = at;
          without.bound -= step(at.last, 0);
          without.positions[at.last] = 0;
          raise(without, at.last + 1);
        }
      }
    }
    std::vector<std::uint32_t> chosen(count_);
    for (std::size_t r = 0; r < count_; ++r) chosen[ranked_[r].index] = ranked_[r].order[at.positions[r]];
    return chosen;
  }

 private:
  struct Ranked {
    std::uint32_t index;  // of the class
    std::vector<std::uint32_t> order;
    std::vector<double> prices;  // ascending
  };

  [[nodiscard]] double step(std::size_t rank, std::uint32_t from) const {
    return ranked_[rank].prices[from + 1] - ranked_[rank].prices[from];
  }

  void raise(const Combination& from, std::size_t rank) {
    if (rank >= count_ || from.positions[rank] + 1 >= ranked_[rank].prices.size()) return;
    Combination raised = from;
    raised.bound += step(rank, from.positions[rank]);
    ++raised.positions[rank];
    raised.last = rank;
    queue_.push(std::move(raised));
  }

  std::size_t count_;
  std::vector<Ranked> ranked_;
  std::priority_queue<Combination, std::vector<Combination>, Later> queue_;
};

}  // namespace

Termination worse(Termination a, Termination b) {
  const auto rank = [](Termination why) {
    switch (why) {
      case Termination::Optimal:
        return 0;
      case Termination::GapReached:
        return 1;
      case Termination::StateLimit:
        return 2;
      case Termination::TimeLimit:
        return 3;
      case Termination::BudgetTooSmall:
        return 4;
    }
    return 4;
  };
  return rank(a) >= rank(b) ? a : b;
}

Result<TwoBudgetAllocation> allocate_two(std::span<const CandidateClass> first,
                                         std::span<const CandidateClass> second,
                                         std::span<const SharedClass> shared, const TwoBudgets& budgets,
                                         const AllocatorLimits& limits) {
  const Clock::time_point start = Clock::now();
  const auto elapsed = [&] { return seconds_since(start); };
  for (const SharedClass& group : shared) {
    if (group.candidates.empty())
      return fail(ErrorCode::InvalidArgument, "class '{}' has no candidates", group.name);
    for (const SharedCandidate& candidate : group.candidates)
      if (!std::isfinite(candidate.cost) || candidate.cost < 0)
        return fail(ErrorCode::InvalidArgument, "class '{}': a cost of {}", group.name, candidate.cost);
  }

  std::uint64_t states = 0;
  const auto taken_by = [&](std::span<const std::uint32_t> chosen) {
    TwoBudgets bytes;
    for (std::size_t c = 0; c < shared.size(); ++c) {
      bytes.first = saturating_sum(bytes.first, shared[c].candidates[chosen[c]].first_bytes);
      bytes.second = saturating_sum(bytes.second, shared[c].candidates[chosen[c]].second_bytes);
    }
    return bytes;
  };
  // The rest once the shared formats are given.
  const auto complete = [&](std::vector<std::uint32_t> chosen) -> Result<TwoBudgetAllocation> {
    TwoBudgetAllocation answer;
    answer.shared_bytes = taken_by(chosen);
    AllocatorLimits left = limits;
    left.max_seconds = std::max(0.0, limits.max_seconds - elapsed());
    QF_ASSIGN(answer.first, allocate(first, minus(budgets.first, answer.shared_bytes.first), left));
    left.max_seconds = std::max(0.0, limits.max_seconds - elapsed());
    QF_ASSIGN(answer.second, allocate(second, minus(budgets.second, answer.shared_bytes.second), left));
    for (std::size_t c = 0; c < shared.size(); ++c) answer.objective += shared[c].candidates[chosen[c]].cost;
    answer.lower_bound = answer.objective + answer.first.lower_bound + answer.second.lower_bound;
    answer.objective += answer.first.objective + answer.second.objective;
    answer.why = worse(answer.first.why, answer.second.why);
    answer.shared = std::move(chosen);
    states += answer.first.states + answer.second.states;
    return answer;
  };

  std::vector<std::uint32_t> smallest;
  for (const SharedClass& group : shared)
    smallest.push_back(static_cast<std::uint32_t>(std::ranges::min_element(group.candidates, {},
                                                                           [](const SharedCandidate& c) {
                                                                             return std::pair(c.first_bytes,
                                                                                              c.second_bytes);
                                                                           }) -
                                                  group.candidates.begin()));
  const std::uint64_t first_least = smallest_of(first);
  const std::uint64_t second_least = smallest_of(second);
  const auto fits = [&](std::span<const std::uint32_t> chosen) {
    const TwoBudgets bytes = taken_by(chosen);
    return saturating_sum(bytes.first, first_least) <= budgets.first &&
           saturating_sum(bytes.second, second_least) <= budgets.second;
  };
  if (shared.empty() || !fits(smallest)) {
    const bool too_small = !fits(smallest);
    QF_ASSIGN(TwoBudgetAllocation only, complete(std::move(smallest)));
    if (too_small) only.why = Termination::BudgetTooSmall;
    only.states = states;
    only.seconds = elapsed();
    return only;
  }

  const Problem problem(first, second, shared, budgets);
  const Multipliers at = problem.best_multipliers();
  Walk walk(shared, at, problem.bound(at));
  std::optional<TwoBudgetAllocation> best;
  double proven = std::numeric_limits<double>::infinity();  // of the combinations solved
  std::size_t solved = 0;
  const std::size_t most_visited = std::max<std::size_t>(kMaxVisitedClasses / shared.size(), 1);
  Termination why = Termination::Optimal;
  for (std::size_t visited = 0; !walk.empty(); ++visited) {
    if (best && walk.next_bound() >= best->objective) break;
    if (solved == kMaxCombinations || visited == most_visited) {
      why = Termination::StateLimit;
      break;
    }
    if (best && elapsed() >= limits.max_seconds) {
      why = Termination::TimeLimit;
      break;
    }
    std::vector<std::uint32_t> chosen = walk.next();
    if (!fits(chosen)) continue;
    QF_ASSIGN(TwoBudgetAllocation found, complete(std::move(chosen)));
    ++solved;
    proven = std::min(proven, found.lower_bound);
    if (found.why != Termination::Optimal) why = worse(why, found.why);
    if (!best || found.objective < best->objective) best = std::move(found);
  }
  if (!best) {  // so many combinations that do not fit were ahead
    QF_ASSIGN(best, complete(std::move(smallest)));
    proven = std::min(proven, best->lower_bound);
  }
  if (why != Termination::Optimal && !walk.empty()) proven = std::min(proven, walk.next_bound());
  best->lower_bound =
      why == Termination::Optimal ? best->objective : std::clamp(proven, 0.0, best->objective);
  best->why = why;
  best->states = states;
  best->seconds = elapsed();
  return std::move(*best);
}

}  // namespace quantfit::optimizer

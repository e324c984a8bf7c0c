#include "optimizer/allocator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "optimizer/mckp_core.h"
#include "optimizer/mckp_reductions.h"

namespace quantfit::optimizer {
namespace {

using Clock = std::chrono::steady_clock;
using mckp::Dual;
using mckp::HullStep;
using mckp::Int128;
using mckp::Item;
using mckp::Items;

// The sum of the largest integer costs, one per class, stays at most 2^53: scaled by 2^kMultiplierShift that
// is 2^61, and a double converts to such an integer exactly.
constexpr int kCostBits = 53;
static_assert(kCostBits + mckp::kMultiplierShift <= 61);
constexpr std::uint64_t kMaxTotalBytes = std::uint64_t{1} << 62;

// A candidate cost this much above a feasible objective is in no optimal choice, whatever the rounding of the
// sums.
constexpr double kCostFilter = 1.0 + 1e-9;

// The first gap to search holds about this many items besides the base; each further gap is this much wider.
constexpr std::size_t kFirstItems = 48;
constexpr double kGapGrowth = 1.6;

// The classes in canonical order (by name, then as given), Pareto frontiers in doubles.
struct Frontier {
  struct Point {
    std::uint64_t bytes;
    double cost;
    std::uint32_t candidate;  // index into the caller's class
  };
  std::vector<std::uint32_t> order;         // canonical position -> caller's class
  std::vector<std::vector<Point>> classes;  // per canonical position; bytes ascend, costs descend, strictly
};

Result<Frontier> pareto_frontier(std::span<const CandidateClass> classes) {
  Frontier frontier;
  frontier.order.resize(classes.size());
  std::iota(frontier.order.begin(), frontier.order.end(), 0U);
  std::ranges::stable_sort(frontier.order, {},
                           [&](std::uint32_t c) -> const std::string& { return classes[c].name; });
  frontier.classes.reserve(classes.size());
  std::uint64_t total_bytes = 0;
  double total_cost = 0;
  for (const std::uint32_t c : frontier.order) {
    const CandidateClass& given = classes[c];
    if (given.candidates.empty())
      return fail(ErrorCode::InvalidArgument, "class '{}' has no candidates", given.name);
    if (given.candidates.size() > kMaxCandidates)
      return fail(ErrorCode::InvalidArgument, "class '{}' has {} candidates, at most {} are allowed",
                  given.name, given.candidates.size(), kMaxCandidates);
    std::vector<Frontier::Point> points;
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
    std::ranges::sort(points, [&](const Frontier::Point& a, const Frontier::Point& b) {
      return std::tuple(a.bytes, a.cost, given.candidates[a.candidate].format, a.candidate) <
             std::tuple(b.bytes, b.cost, given.candidates[b.candidate].format, b.candidate);
    });
    std::vector<Frontier::Point> kept;
    for (const Frontier::Point& point : points)
      if (kept.empty() || point.cost < kept.back().cost) kept.push_back(point);
    frontier.classes.push_back(std::move(kept));
  }
  return frontier;
}

// The knapsack in integers: weights in steps of `weight_step` bytes above each class's smallest candidate,
// costs in units of 2^unit_exponent.
struct IntegerProblem {
  std::vector<Items> classes;  // Item::source indexes Frontier::classes[c]
  std::vector<HullStep> steps;
  std::vector<std::uint32_t> greedy;
  std::int64_t capacity = 0;
  std::int64_t weight_step = 1;
  int unit_exponent = 0;
};

// Every double is a multiple of this power of two.
constexpr int kLeastExponent = std::numeric_limits<double>::min_exponent - std::numeric_limits<double>::digits;

// The least exponent whose units keep `total` at most 2^kCostBits.
int unit_exponent_for(double total) {
  if (total <= 0) return 0;
  int exponent = 0;
  static_cast<void>(std::frexp(total, &exponent));  // total < 2^exponent
  return std::max(exponent - kCostBits, kLeastExponent);
}

IntegerProblem round_to_integers(const Frontier& frontier, std::uint64_t spare_bytes, double cost_limit,
                                 int unit_exponent) {
  IntegerProblem problem;
  problem.unit_exponent = unit_exponent;
  problem.classes.reserve(frontier.classes.size());
  for (const std::vector<Frontier::Point>& points : frontier.classes) {
    Items items;
    for (std::uint32_t i = 0; i < points.size(); ++i) {
      if (points[i].cost > cost_limit && i + 1 < points.size()) continue;
      const double units = std::nearbyint(std::ldexp(points[i].cost, -unit_exponent));
      items.push_back({static_cast<std::int64_t>(points[i].bytes - points.front().bytes),
                       static_cast<std::int64_t>(units), i, i});
    }
    mckp::remove_dominated(items);
    problem.classes.push_back(std::move(items));
  }
  // Weights count from the smallest candidate left; what the limit removed below it is spent already.
  auto capacity = static_cast<std::int64_t>(spare_bytes);
  for (Items& items : problem.classes) {
    const std::int64_t smallest = items.front().weight;
    capacity -= smallest;
    for (Item& item : items) item.weight -= smallest;
  }
  problem.weight_step = std::max<std::int64_t>(mckp::weight_step(problem.classes), 1);
  for (Items& items : problem.classes)
    for (Item& item : items) item.weight /= problem.weight_step;
  problem.capacity = capacity / problem.weight_step;
  problem.steps = mckp::sorted_hull_steps(problem.classes);
  problem.greedy = mckp::greedy_choice(problem.classes, problem.steps, problem.capacity);
  return problem;
}

double cost_of(const Frontier& frontier, const IntegerProblem& problem,
               std::span<const std::uint32_t> choice) {
  double cost = 0;
  for (std::size_t c = 0; c < choice.size(); ++c)
    cost += frontier.classes[c][problem.classes[c][choice[c]].source].cost;
  return cost;
}

// Chooses the unit: costs above a feasible objective are dropped, so that one ruinous candidate cannot make
// the unit coarse for all others; what is left decides the unit. Repeated while the unit still shrinks.
IntegerProblem scale(const Frontier& frontier, std::uint64_t spare_bytes) {
  double limit = std::numeric_limits<double>::infinity();
  std::optional<IntegerProblem> problem;
  while (true) {
    double total = 0;
    for (const auto& points : frontier.classes) {
      double most = points.back().cost;
      for (const Frontier::Point& point : points)
        if (point.cost <= limit) most = std::max(most, point.cost);
      total += most;
    }
    const int exponent = unit_exponent_for(total);
    if (problem && exponent >= problem->unit_exponent) return *std::move(problem);
    problem = round_to_integers(frontier, spare_bytes, limit, exponent);
    limit = std::min(limit, cost_of(frontier, *problem, problem->greedy) * kCostFilter);
  }
}

// Large classes at the front, equal shapes side by side: sums over equal weights coincide and their states
// merge.
std::vector<std::uint32_t> search_order(std::span<const Items> classes) {
  std::vector<std::uint32_t> order(classes.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [&](std::uint32_t c) { return classes[c].back().weight; });
  return order;
}

// The gap below which about kFirstItems items besides the base are left.
std::int64_t first_gap(std::span<const Items> classes, const Dual& dual, std::int64_t most) {
  std::vector<std::int64_t> reduced;
  for (const auto& items : mckp::fix_by_reduced_cost(classes, dual, most))
    for (const mckp::ReducedItem& item : items)
      if (item.reduced > 0) reduced.push_back(item.reduced);
  if (reduced.size() <= kFirstItems) return most;
  std::ranges::nth_element(reduced, reduced.begin() + kFirstItems);
  return reduced[kFirstItems];
}

// Scaled differences to whole units, towards the safe side.
std::int64_t ceil_units(Int128 scaled) {
  const Int128 one = Int128{1} << mckp::kMultiplierShift;
  return static_cast<std::int64_t>((scaled + one - 1) >> mckp::kMultiplierShift);
}

class Solver {
 public:
  Solver(const Frontier& frontier, const IntegerProblem& problem, const AllocatorLimits& limits,
         Clock::time_point start)
      : frontier_(frontier), problem_(problem), limits_(limits), choice_(problem.greedy) {
    core_limits_.max_states = limits.max_states;
    core_limits_.max_memory_bytes = limits.max_memory_bytes;
    if (const std::chrono::duration<double> seconds(limits.max_seconds);
        seconds < std::chrono::hours(24 * 365))
      core_limits_.deadline = start + std::chrono::duration_cast<Clock::duration>(seconds);
  }

  // Widens the gap until the cheapest known choice lies within it.
  void solve(Allocation& answer) {
    const std::vector<Items>& classes = problem_.classes;
    dual_ = mckp::dual_bound(classes, problem_.steps, problem_.capacity);
    const std::vector<std::uint32_t> order = search_order(classes);
    Int128 greedy = 0;
    for (std::size_t c = 0; c < choice_.size(); ++c) greedy += classes[c][choice_[c]].cost;
    auto best = static_cast<std::int64_t>((greedy << mckp::kMultiplierShift) - dual_.bound);
    std::int64_t proven = 0;  // every choice costs at least bound + proven
    answer.why = Termination::Optimal;
    for (std::int64_t gap = std::min(best, first_gap(classes, dual_, best));;) {
      if (near_enough(best, proven)) {
        answer.why = Termination::GapReached;
        break;
      }
      const mckp::CoreResult found = mckp::search_core(classes, dual_, gap, order, core_limits_);
      answer.states += found.states;
      answer.peak_states = std::max(answer.peak_states, found.peak_states);
      answer.peak_memory_bytes = std::max(answer.peak_memory_bytes, found.peak_memory_bytes);
      answer.classes_in_core = std::max(answer.classes_in_core, found.open_classes);
      // At equal cost the search's answer is the lighter one.
      if (found.found && found.gap <= best) {
        best = found.gap;
        choice_ = found.choice;
      }
      if (found.stop != mckp::CoreStop::Complete) {
        answer.why = found.stop == mckp::CoreStop::Time ? Termination::TimeLimit : Termination::StateLimit;
        break;
      }
      if (best <= gap) {
        proven = best;
        break;
      }
      proven = gap + 1;
      const double wider = static_cast<double>(gap) * kGapGrowth + 1;
      gap = wider < static_cast<double>(best) ? std::max(gap + 1, static_cast<std::int64_t>(wider)) : best;
    }
    answer.objective_units = ceil_units(dual_.bound + best);
    answer.lower_bound_units = std::min(ceil_units(dual_.bound + proven), answer.objective_units);
    if (answer.lower_bound_units == answer.objective_units) answer.why = Termination::Optimal;
  }

  const std::vector<std::uint32_t>& choice() const { return choice_; }
  const Dual& dual() const { return dual_; }

 private:
  bool near_enough(std::int64_t best, std::int64_t proven) const {
    if (limits_.relative_gap <= 0) return false;
    const auto objective = static_cast<double>(dual_.bound + best);
    return static_cast<double>(best - proven) <= limits_.relative_gap * objective;
  }

  const Frontier& frontier_;
  const IntegerProblem& problem_;
  const AllocatorLimits& limits_;
  mckp::CoreLimits core_limits_;
  Dual dual_;
  std::vector<std::uint32_t> choice_;
};

void set_choice(std::span<const CandidateClass> classes, const Frontier& frontier, std::size_t position,
                const Frontier::Point& point, Allocation& answer) {
  const std::uint32_t c = frontier.order[position];
  answer.index[c] = point.candidate;
  answer.choice[c] = classes[c].candidates[point.candidate].format;
}

}  // namespace

std::string_view to_string(Termination why) {
  switch (why) {
    case Termination::Optimal:
      return "optimal";
    case Termination::GapReached:
      return "gap reached";
    case Termination::StateLimit:
      return "state limit";
    case Termination::TimeLimit:
      return "time limit";
    case Termination::BudgetTooSmall:
      return "budget too small";
  }
  return "unknown";
}

Result<Allocation> allocate(std::span<const CandidateClass> classes, std::uint64_t budget_bytes,
                            const AllocatorLimits& limits) {
  const Clock::time_point start = Clock::now();
  if (std::isnan(limits.max_seconds) || std::isnan(limits.relative_gap))
    return fail(ErrorCode::InvalidArgument, "a limit of the allocator is not a number");
  QF_ASSIGN(const Frontier frontier, pareto_frontier(classes));
  Allocation answer;
  answer.choice.resize(classes.size());
  answer.index.resize(classes.size());
  std::uint64_t smallest = 0;
  for (const auto& points : frontier.classes) smallest += points.front().bytes;
  if (smallest > budget_bytes) {
    answer.why = Termination::BudgetTooSmall;
    for (std::size_t p = 0; p < frontier.classes.size(); ++p)
      set_choice(classes, frontier, p, frontier.classes[p].front(), answer);
  } else {
    // No sum of bytes reaches 2^62, so a larger budget is the same as none.
    const std::uint64_t spare = std::min(budget_bytes - smallest, kMaxTotalBytes);
    const IntegerProblem problem = scale(frontier, spare);
    Solver solver(frontier, problem, limits, start);
    solver.solve(answer);
    for (std::size_t p = 0; p < frontier.classes.size(); ++p)
      set_choice(classes, frontier, p, frontier.classes[p][problem.classes[p][solver.choice()[p]].source],
                 answer);
    answer.cost_unit = std::ldexp(1.0, problem.unit_exponent);
    const double scaled_unit = std::ldexp(answer.cost_unit, -mckp::kMultiplierShift);
    answer.lp_bound = std::max(0.0, static_cast<double>(solver.dual().bound) * scaled_unit);
    answer.multiplier = static_cast<double>(solver.dual().multiplier) * scaled_unit /
                        static_cast<double>(problem.weight_step);
  }
  for (std::size_t c = 0; c < classes.size(); ++c) {
    const Candidate& chosen = classes[c].candidates[answer.index[c]];
    answer.bytes += chosen.bytes;
    answer.objective += chosen.cost;
  }
  if (answer.why == Termination::BudgetTooSmall || answer.why == Termination::Optimal) {
    answer.lower_bound = answer.objective;
  } else {
    answer.lower_bound =
        std::min(answer.objective, static_cast<double>(answer.lower_bound_units) * answer.cost_unit);
  }
  if (answer.why == Termination::BudgetTooSmall) answer.lp_bound = answer.objective;
  answer.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return answer;
}

}  // namespace quantfit::optimizer

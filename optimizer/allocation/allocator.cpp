#include "optimizer/allocation/allocator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "core/clock.h"
#include "optimizer/allocation/mckp_core.h"
#include "optimizer/allocation/mckp_reductions.h"
#include "optimizer/allocation/pareto_classes.h"

namespace quantfit::optimizer {
namespace {

using mckp::Dual;
using mckp::HullStep;
using mckp::Int128;
using mckp::Item;
using mckp::Items;

// The sum of the largest integer costs, one per class, stays at most 2^53: scaled by 2^kMultiplierShift that
// is 2^61, and a double converts to such an integer exactly.
constexpr int kCostBits = 53;
static_assert(kCostBits + mckp::kMultiplierShift <= 61);

// A candidate cost this much above a feasible objective is in no optimal choice,
// whatever the rounding of the sums.
constexpr double kCostFilter = 1.0 + 1e-9;

// A window's problem is rounded again, in finer units, until the rounding of a whole choice is at most this
// share of its cost.
constexpr double kRoundingShare = 0x1p-40;

// The first gap to search holds about this many items besides the base; each further gap is this much wider.
constexpr std::size_t kFirstItems = 48;
constexpr double kGapGrowth = 1.6;

// What is left of the budget above the smallest candidates, and how much of it may stay unused, in bytes.
struct Room {
  std::int64_t capacity = 0;
  std::int64_t spare = mckp::kAnySpare;

  [[nodiscard]] bool is_window() const { return spare < mckp::kAnySpare; }
};

// The knapsack in integers: weights in steps of `weight_step` bytes above each class's smallest candidate,
// costs in units of 2^unit_exponent.
struct IntegerProblem {
  std::vector<Items> classes;  // Item::source indexes ParetoClasses::classes[c]
  std::vector<HullStep> steps;
  std::vector<std::uint32_t> greedy;  // a choice within the capacity; empty for a window
  std::int64_t capacity = 0;          // negative: a window that no sum of weights can lie in
  std::int64_t spare = mckp::kAnySpare;
  bool mirrored = false;  // weights count down from each class's largest candidate
  std::int64_t weight_step = 1;
  int unit_exponent = 0;
};

// Every double is a multiple of this power of two.
constexpr int kLeastExponent =
    std::numeric_limits<double>::min_exponent - std::numeric_limits<double>::digits;

// The least exponent whose units keep `total` at most 2^kCostBits.
int unit_exponent_for(double total) {
  if (total <= 0) return 0;
  int exponent = 0;
  static_cast<void>(std::frexp(total, &exponent));  // total < 2^exponent
  return std::max(exponent - kCostBits, kLeastExponent);
}

// A window that lies above what the cheapest choice weighs, seen from the other end: what must be added at
// the least cost becomes what may be spared. So the multiplier is never negative.
void mirror(IntegerProblem& problem) {
  std::int64_t heaviest = 0;
  for (Items& items : problem.classes) {
    const std::int64_t most = items.back().weight;
    heaviest += most;
    for (Item& item : items) item.weight = most - item.weight;
    std::ranges::reverse(items);
  }
  problem.capacity = heaviest - (problem.capacity - problem.spare);
  problem.mirrored = true;
  problem.steps = mckp::sorted_hull_steps(problem.classes);
}

// Candidates above `cost_limit` are dropped, but for the cheapest of its class.
IntegerProblem round_to_integers(const ParetoClasses& pareto, const Room& room, double cost_limit,
                                 int unit_exponent) {
  IntegerProblem problem;
  problem.unit_exponent = unit_exponent;
  problem.classes.reserve(pareto.classes.size());
  for (const std::vector<ParetoPoint>& points : pareto.classes) {
    Items items;
    const auto cheapest = std::ranges::min_element(points, {}, &ParetoPoint::cost) - points.begin();
    for (std::uint32_t i = 0; i < points.size(); ++i) {
      if (points[i].cost > cost_limit && i != cheapest) continue;
      const double units = std::nearbyint(std::ldexp(points[i].cost, -unit_exponent));
      items.push_back({static_cast<std::int64_t>(points[i].bytes - points.front().bytes),
                       static_cast<std::int64_t>(units), i, i});
    }
    if (!room.is_window()) mckp::remove_dominated(items);
    problem.classes.push_back(std::move(items));
  }
  // Weights count from the smallest candidate left; what the limit removed below it is spent already.
  std::int64_t capacity = room.capacity;
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
  if (!room.is_window()) {
    problem.greedy = mckp::greedy_choice(problem.classes, problem.steps, problem.capacity);
    return problem;
  }
  const std::int64_t least = std::max<std::int64_t>(capacity - room.spare, 0);
  const std::int64_t least_steps = least / problem.weight_step + (least % problem.weight_step != 0);
  problem.spare = problem.capacity - least_steps;
  std::int64_t cheapest = 0;
  for (const HullStep& step : problem.steps) cheapest += step.weight;
  if (problem.spare < 0) {
    problem.capacity = -1;
  } else if (cheapest < least_steps) {
    mirror(problem);
  }
  return problem;
}

double cost_of(const ParetoClasses& pareto, const IntegerProblem& problem,
               std::span<const std::uint32_t> choice) {
  double cost = 0;
  for (std::size_t c = 0; c < choice.size(); ++c)
    cost += pareto.classes[c][problem.classes[c][choice[c]].source].cost;
  return cost;
}

// The unit for the candidates that `limit` leaves.
int unit_exponent_below(const ParetoClasses& pareto, double limit) {
  double total = 0;
  for (const auto& points : pareto.classes) {
    double most = std::ranges::min(points, {}, &ParetoPoint::cost).cost;
    for (const ParetoPoint& point : points)
      if (point.cost <= limit) most = std::max(most, point.cost);
    total += most;
  }
  return unit_exponent_for(total);
}

// Chooses the unit: costs above a feasible objective are dropped, so that one ruinous candidate cannot make
// the unit coarse for all others; what is left decides the unit. Repeated while the unit still shrinks.
IntegerProblem scale(const ParetoClasses& pareto, const Room& room) {
  double limit = std::numeric_limits<double>::infinity();
  std::optional<IntegerProblem> problem;
  while (true) {
    const int exponent = unit_exponent_below(pareto, limit);
    if (problem && exponent >= problem->unit_exponent) return *std::move(problem);
    problem = round_to_integers(pareto, room, limit, exponent);
    limit = std::min(limit, cost_of(pareto, *problem, problem->greedy) * kCostFilter);
  }
}

// Large classes at the front, equal shapes side by side: sums over equal weights
// coincide and their states merge.
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

Termination termination_of(mckp::GapStop stop) {
  switch (stop) {
    case mckp::GapStop::Optimal:
      return Termination::Optimal;
    case mckp::GapStop::GapReached:
      return Termination::GapReached;
    case mckp::GapStop::States:
      return Termination::StateLimit;
    case mckp::GapStop::Time:
      return Termination::TimeLimit;
  }
  return Termination::StateLimit;
}

// Solves the integer problem, fills the certificate, and returns the chosen item per class. Nothing is
// returned for a window in which no choice was found; Optimal then means that there is none.
std::vector<std::uint32_t> solve(const IntegerProblem& problem, const AllocatorLimits& limits,
                                 Clock::time_point start, Allocation& answer) {
  if (problem.capacity < 0) return {};
  const Dual dual = mckp::dual_bound(problem.classes, problem.steps, problem.capacity);
  // Of the greedy choice; without one, a cost that no choice reaches.
  Int128 known_cost = 0;
  if (problem.greedy.empty()) {
    known_cost = 1;
    for (const Items& items : problem.classes) known_cost += std::ranges::max(items, {}, &Item::cost).cost;
  }
  for (std::size_t c = 0; c < problem.greedy.size(); ++c)
    known_cost += problem.classes[c][problem.greedy[c]].cost;
  const auto known_gap = static_cast<std::int64_t>((known_cost << mckp::kMultiplierShift) - dual.bound);
  mckp::GapSchedule schedule;
  schedule.first = first_gap(problem.classes, dual, known_gap);
  schedule.growth = kGapGrowth;
  schedule.relative_gap = limits.relative_gap;
  mckp::CoreLimits core_limits;
  core_limits.max_states = limits.max_states;
  core_limits.max_memory_bytes = limits.max_memory_bytes;
  core_limits.cancel = limits.cancel;
  // A deadline further away than a year would only risk overflow.
  if (const std::chrono::duration<double> seconds(std::max(limits.max_seconds, 0.0));
      seconds < std::chrono::hours(24 * 365))
    core_limits.deadline = start + std::chrono::duration_cast<Clock::duration>(seconds);
  mckp::GapResult result = mckp::close_gap(problem.classes, dual, problem.greedy, known_gap, schedule,
                                           search_order(problem.classes), core_limits, problem.spare);
  answer.why = termination_of(result.stop);
  answer.states = result.states;
  answer.peak_states = result.peak_states;
  answer.peak_memory_bytes = result.peak_memory_bytes;
  answer.classes_in_core = result.open_classes;
  answer.objective_units = ceil_units(dual.bound + result.best);
  answer.lower_bound_units = std::min(ceil_units(dual.bound + result.proven), answer.objective_units);
  if (answer.lower_bound_units == answer.objective_units) answer.why = Termination::Optimal;
  answer.cost_unit = std::ldexp(1.0, problem.unit_exponent);
  const double scaled_unit = std::ldexp(1.0, problem.unit_exponent - mckp::kMultiplierShift);
  answer.lp_bound = std::max(0.0, static_cast<double>(dual.bound) * scaled_unit);
  answer.multiplier =
      static_cast<double>(dual.multiplier) * scaled_unit / static_cast<double>(problem.weight_step);
  if (problem.mirrored) answer.multiplier = -answer.multiplier;
  return std::move(result.choice);
}

// Classes that are copies of each other in bytes and costs may swap their choices: the first by name takes
// the lowest format id, and so on.
void order_equal_classes(std::span<const CandidateClass> classes, const ParetoClasses& pareto,
                         std::vector<std::uint32_t>& points) {
  const auto same = [](const ParetoPoint& a, const ParetoPoint& b) {
    return a.bytes == b.bytes && a.cost == b.cost;
  };
  const auto less = [](const ParetoPoint& a, const ParetoPoint& b) {
    return std::tie(a.bytes, a.cost) < std::tie(b.bytes, b.cost);
  };
  std::vector<std::uint32_t> positions(pareto.classes.size());
  std::iota(positions.begin(), positions.end(), 0U);
  std::ranges::stable_sort(positions, [&](std::uint32_t a, std::uint32_t b) {
    return std::ranges::lexicographical_compare(pareto.classes[a], pareto.classes[b], less);
  });
  for (std::size_t first = 0; first < positions.size();) {
    std::size_t end = first + 1;
    while (end < positions.size() &&
           std::ranges::equal(pareto.classes[positions[first]], pareto.classes[positions[end]], same))
      ++end;
    std::vector<std::uint32_t> chosen;
    for (std::size_t i = first; i < end; ++i) chosen.push_back(points[positions[i]]);
    const std::uint32_t leader = positions[first];
    std::ranges::sort(chosen, {}, [&](std::uint32_t point) {
      const Candidate& candidate =
          classes[pareto.order[leader]].candidates[pareto.classes[leader][point].candidate];
      return std::pair(candidate.format, point);
    });
    for (std::size_t i = first; i < end; ++i) points[positions[i]] = chosen[i - first];
    first = end;
  }
}

void set_choice(std::span<const CandidateClass> classes, const ParetoClasses& pareto, std::size_t position,
                const ParetoPoint& point, Allocation& answer) {
  const std::uint32_t c = pareto.order[position];
  answer.index[c] = point.candidate;
  answer.choice[c] = classes[c].candidates[point.candidate].format;
}

// The chosen items as candidates.
void set_choices(std::span<const CandidateClass> classes, const ParetoClasses& pareto,
                 const IntegerProblem& problem, std::span<const std::uint32_t> items, Allocation& answer) {
  answer.index.resize(classes.size());
  answer.choice.resize(classes.size());
  std::vector<std::uint32_t> points(items.size());
  for (std::size_t p = 0; p < points.size(); ++p) points[p] = problem.classes[p][items[p]].source;
  order_equal_classes(classes, pareto, points);
  for (std::size_t p = 0; p < points.size(); ++p)
    set_choice(classes, pareto, p, pareto.classes[p][points[p]], answer);
}

// Bytes, objective and lower bound of the choice, in original units.
void add_up(std::span<const CandidateClass> classes, Allocation& answer) {
  for (std::size_t c = 0; c < classes.size(); ++c) {
    const Candidate& chosen = classes[c].candidates[answer.index[c]];
    answer.bytes += chosen.bytes;
    answer.objective += chosen.cost;
  }
  const bool exact = answer.why == Termination::BudgetTooSmall || answer.why == Termination::Optimal;
  answer.lower_bound =
      exact ? answer.objective
            : std::min(answer.objective, static_cast<double>(answer.lower_bound_units) * answer.cost_unit);
}

// The cheapest choice of a window; an empty one when none was found, Optimal when there is none. What the
// coarse first units yield bounds the costs that count, and so the next units, as in scale().
Allocation solve_window(std::span<const CandidateClass> classes, const ParetoClasses& pareto,
                        const Room& room, const AllocatorLimits& limits, Clock::time_point start) {
  double limit = std::numeric_limits<double>::infinity();
  Allocation best;
  int exponent = unit_exponent_below(pareto, limit);
  while (true) {
    const IntegerProblem problem = round_to_integers(pareto, room, limit, exponent);
    Allocation answer;
    const std::vector<std::uint32_t> items = solve(problem, limits, start, answer);
    answer.states += best.states;
    if (items.empty()) return best.choice.empty() ? answer : best;
    set_choices(classes, pareto, problem, items, answer);
    add_up(classes, answer);
    best = std::move(answer);
    limit = std::min(limit, best.objective * kCostFilter);
    const int finer = unit_exponent_below(pareto, limit);
    const double rounding = std::ldexp(static_cast<double>(classes.size()), exponent);
    if (best.why != Termination::Optimal || finer >= exponent || rounding <= limit * kRoundingShare)
      return best;
    exponent = finer;
  }
}

Result<void> check_cancelled(const AllocatorLimits& limits) {
  if (limits.cancel == nullptr || !limits.cancel->cancelled()) return outcome::success();
  return fail(ErrorCode::Interrupted, "the search for the best recipe was interrupted");
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
  QF_ASSIGN(const ParetoClasses pareto, pareto_classes(classes));
  Allocation answer;
  answer.choice.resize(classes.size());
  answer.index.resize(classes.size());
  std::uint64_t smallest = 0;
  for (const auto& points : pareto.classes) smallest += points.front().bytes;
  if (smallest > budget_bytes) {
    answer.why = Termination::BudgetTooSmall;
    for (std::size_t p = 0; p < pareto.classes.size(); ++p)
      set_choice(classes, pareto, p, pareto.classes[p].front(), answer);
  } else {
    // No sum of bytes reaches 2^62, so a larger budget is the same as none.
    const Room room{.capacity = static_cast<std::int64_t>(std::min(budget_bytes - smallest, kMaxTotalBytes))};
    const IntegerProblem problem = scale(pareto, room);
    const std::vector<std::uint32_t> items = solve(problem, limits, start, answer);
    QF_TRY(check_cancelled(limits));
    set_choices(classes, pareto, problem, items, answer);
  }
  add_up(classes, answer);
  if (answer.why == Termination::BudgetTooSmall) answer.lp_bound = answer.objective;
  answer.seconds = seconds_since(start);
  return answer;
}

Result<FilledAllocation> allocate_filled(std::span<const CandidateClass> classes, std::uint64_t least_bytes,
                                         std::uint64_t budget_bytes, const AllocatorLimits& limits) {
  if (least_bytes > budget_bytes)
    return fail(ErrorCode::InvalidArgument, "at least {} of {} bytes cannot be used", least_bytes,
                budget_bytes);
  FilledAllocation filled;
  QF_ASSIGN(filled.unfilled, allocate(classes, budget_bytes, limits));
  filled.answer = filled.unfilled;
  if (filled.unfilled.bytes >= least_bytes) return filled;

  const Clock::time_point start = Clock::now();
  QF_ASSIGN(const ParetoClasses pareto, pareto_classes(classes, Keep::CheapestOfEachSize));
  std::uint64_t smallest = 0;
  std::uint64_t largest = 0;
  for (const auto& points : pareto.classes) {
    smallest += points.front().bytes;
    largest += points.back().bytes;
  }
  // Bytes that no choice takes are no part of the problem: sums stay below 2^62.
  const std::uint64_t most = std::min(budget_bytes, largest);
  const std::uint64_t beyond = budget_bytes - most;
  std::uint64_t unused = budget_bytes - least_bytes;
  while (true) {
    if (unused >= beyond) {
      const Room room{.capacity = static_cast<std::int64_t>(most - smallest),
                      .spare = static_cast<std::int64_t>(unused - beyond)};
      Allocation found = solve_window(classes, pareto, room, limits, start);
      QF_TRY(check_cancelled(limits));
      if (!found.choice.empty()) {
        filled.answer = std::move(found);
        filled.answer.least_bytes = budget_bytes - unused;
        filled.answer.seconds = seconds_since(start);
        return filled;
      }
      if (filled.in_window) filled.proven_empty = found.why == Termination::Optimal;
    } else if (filled.in_window) {
      filled.proven_empty = true;
    }
    filled.in_window = false;
    unused = unused > budget_bytes / 2 ? budget_bytes : std::max({2 * unused, beyond, std::uint64_t{1}});
    if (unused >= budget_bytes - filled.unfilled.bytes) return filled;
  }
}

}  // namespace quantfit::optimizer

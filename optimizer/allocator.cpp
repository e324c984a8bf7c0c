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
#include "optimizer/pareto_classes.h"

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

// A candidate cost this much above a feasible objective is in no optimal choice, whatever the rounding of the
// sums.
constexpr double kCostFilter = 1.0 + 1e-9;

// The first gap to search holds about this many items besides the base; each further gap is this much wider.
constexpr std::size_t kFirstItems = 48;
constexpr double kGapGrowth = 1.6;

// The knapsack in integers: weights in steps of `weight_step` bytes above each class's smallest candidate,
// costs in units of 2^unit_exponent.
struct IntegerProblem {
  std::vector<Items> classes;  // Item::source indexes ParetoClasses::classes[c]
  std::vector<HullStep> steps;
  std::vector<std::uint32_t> greedy;
  std::int64_t capacity = 0;
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

IntegerProblem round_to_integers(const ParetoClasses& pareto, std::uint64_t spare_bytes, double cost_limit,
                                 int unit_exponent) {
  IntegerProblem problem;
  problem.unit_exponent = unit_exponent;
  problem.classes.reserve(pareto.classes.size());
  for (const std::vector<ParetoPoint>& points : pareto.classes) {
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

double cost_of(const ParetoClasses& pareto, const IntegerProblem& problem,
               std::span<const std::uint32_t> choice) {
  double cost = 0;
  for (std::size_t c = 0; c < choice.size(); ++c)
    cost += pareto.classes[c][problem.classes[c][choice[c]].source].cost;
  return cost;
}

// Chooses the unit: costs above a feasible objective are dropped, so that one ruinous candidate cannot make
// the unit coarse for all others; what is left decides the unit. Repeated while the unit still shrinks.
IntegerProblem scale(const ParetoClasses& pareto, std::uint64_t spare_bytes) {
  double limit = std::numeric_limits<double>::infinity();
  std::optional<IntegerProblem> problem;
  while (true) {
    double total = 0;
    for (const auto& points : pareto.classes) {
      double most = points.back().cost;
      for (const ParetoPoint& point : points)
        if (point.cost <= limit) most = std::max(most, point.cost);
      total += most;
    }
    const int exponent = unit_exponent_for(total);
    if (problem && exponent >= problem->unit_exponent) return *std::move(problem);
    problem = round_to_integers(pareto, spare_bytes, limit, exponent);
    limit = std::min(limit, cost_of(pareto, *problem, problem->greedy) * kCostFilter);
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

// Solves the integer problem, fills the certificate, and returns the chosen item per class.
std::vector<std::uint32_t> solve(const IntegerProblem& problem, const AllocatorLimits& limits,
                                 Clock::time_point start, Allocation& answer) {
  const Dual dual = mckp::dual_bound(problem.classes, problem.steps, problem.capacity);
  Int128 greedy_cost = 0;
  for (std::size_t c = 0; c < problem.greedy.size(); ++c)
    greedy_cost += problem.classes[c][problem.greedy[c]].cost;
  const auto greedy_gap = static_cast<std::int64_t>((greedy_cost << mckp::kMultiplierShift) - dual.bound);
  mckp::GapSchedule schedule;
  schedule.first = first_gap(problem.classes, dual, greedy_gap);
  schedule.growth = kGapGrowth;
  schedule.relative_gap = limits.relative_gap;
  mckp::CoreLimits core_limits;
  core_limits.max_states = limits.max_states;
  core_limits.max_memory_bytes = limits.max_memory_bytes;
  // A deadline further away than a year would only risk overflow.
  if (const std::chrono::duration<double> seconds(std::max(limits.max_seconds, 0.0));
      seconds < std::chrono::hours(24 * 365))
    core_limits.deadline = start + std::chrono::duration_cast<Clock::duration>(seconds);
  mckp::GapResult result = mckp::close_gap(problem.classes, dual, problem.greedy, greedy_gap, schedule,
                                           search_order(problem.classes), core_limits);
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
    const std::uint64_t spare = std::min(budget_bytes - smallest, kMaxTotalBytes);
    const IntegerProblem problem = scale(pareto, spare);
    const std::vector<std::uint32_t> items = solve(problem, limits, start, answer);
    std::vector<std::uint32_t> points(pareto.classes.size());
    for (std::size_t p = 0; p < points.size(); ++p) points[p] = problem.classes[p][items[p]].source;
    order_equal_classes(classes, pareto, points);
    for (std::size_t p = 0; p < points.size(); ++p)
      set_choice(classes, pareto, p, pareto.classes[p][points[p]], answer);
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

#include "optimizer/allocation/frontier.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "optimizer/allocation/pareto_classes.h"

namespace quantfit::optimizer {
namespace {

struct HullPoint {
  std::uint32_t point;  // index into the class's Pareto frontier
  double slope;         // cost saved per byte on the way here from the hull point before
};

// Slopes are compared as the doubles that are kept, so that along a class they descend strictly and sorting
// all steps by them keeps the steps of a class in order.
std::vector<HullPoint> convex_hull(std::span<const ParetoPoint> points) {
  std::vector<HullPoint> hull{{0, 0}};
  for (std::uint32_t i = 1; i < points.size(); ++i) {
    double slope = 0;
    while (true) {
      const ParetoPoint& last = points[hull.back().point];
      slope = (last.cost - points[i].cost) / static_cast<double>(points[i].bytes - last.bytes);
      if (hull.size() == 1 || slope < hull.back().slope) break;
      hull.pop_back();
    }
    hull.push_back({i, slope});
  }
  return hull;
}

}  // namespace

std::vector<std::uint32_t> Frontier::choice_after(std::size_t count) const {
  std::vector<std::uint32_t> choice = smallest;
  for (std::size_t i = 0; i < count; ++i) choice[steps[i].class_index] = steps[i].to;
  return choice;
}

Result<Frontier> frontier(std::span<const CandidateClass> classes) {
  QF_ASSIGN(const ParetoClasses pareto, pareto_classes(classes));
  Frontier result;
  result.smallest.resize(classes.size());
  double least_cost = 0;
  std::vector<std::pair<std::uint32_t, FrontierStep>> steps;  // with the class's canonical position
  for (std::uint32_t position = 0; position < pareto.classes.size(); ++position) {
    const std::vector<ParetoPoint>& points = pareto.classes[position];
    const std::uint32_t class_index = pareto.order[position];
    const std::vector<Candidate>& candidates = classes[class_index].candidates;
    result.smallest[class_index] = points.front().candidate;
    result.smallest_bytes += points.front().bytes;
    least_cost += points.back().cost;
    const std::vector<HullPoint> hull = convex_hull(points);
    for (std::size_t i = 1; i < hull.size(); ++i) {
      const ParetoPoint& from = points[hull[i - 1].point];
      const ParetoPoint& to = points[hull[i].point];
      FrontierStep step;
      step.class_index = class_index;
      step.from = from.candidate;
      step.to = to.candidate;
      step.from_format = candidates[from.candidate].format;
      step.to_format = candidates[to.candidate].format;
      step.bytes = to.bytes - from.bytes;  // differences for now, sums below
      step.cost = from.cost - to.cost;
      step.multiplier = hull[i].slope;
      steps.emplace_back(position, step);
    }
  }
  std::ranges::stable_sort(steps, [](const auto& a, const auto& b) {
    if (a.second.multiplier != b.second.multiplier) return a.second.multiplier > b.second.multiplier;
    return a.first < b.first;
  });
  result.steps.reserve(steps.size());
  std::uint64_t bytes = result.smallest_bytes;
  for (auto& [position, step] : steps) {
    bytes += step.bytes;
    step.bytes = bytes;
    result.steps.push_back(step);
  }
  // Costs are summed from the best end: only additions, so that small costs keep their digits.
  double cost = least_cost;
  for (auto step = result.steps.rbegin(); step != result.steps.rend(); ++step)
    cost += std::exchange(step->cost, cost);
  result.smallest_cost = cost;
  return result;
}

}  // namespace quantfit::optimizer

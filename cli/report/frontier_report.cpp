#include "cli/report/frontier_report.h"

#include <algorithm>

namespace quantfit::cli {

FrontierReport make_frontier_report(std::uint64_t elements, const optimizer::ModelFrontier& frontier,
                                    const optimizer::StaticComparisons& statics,
                                    state::SensitivityUnit unit) {
  const optimizer::Knapsack& knapsack = frontier.knapsack;
  FrontierReport report;
  const auto point = [&](std::uint64_t bytes, double cost) {
    CurvePoint result;
    result.bytes = bytes + knapsack.fixed_bytes;
    result.bpw = bits_per_element(result.bytes, elements);
    result.error = frontier.foresight(cost + knapsack.fixed_cost);
    return result;
  };
  report.curve.push_back(point(frontier.frontier.smallest_bytes, frontier.frontier.smallest_cost));
  for (const optimizer::FrontierStep& step : frontier.frontier.steps) {
    CurvePoint next = point(step.bytes, step.cost);
    const CurvePoint& last = report.curve.back();
    next.multiplier = frontier.foresight.choice_cost > 0 && next.bytes > last.bytes
                          ? (last.error - next.error) / static_cast<double>(next.bytes - last.bytes)
                          : step.multiplier;
    next.changed = knapsack.classes[step.class_index].name;
    next.from = name_of(step.from_format);
    next.to = name_of(step.to_format);
    report.curve.push_back(std::move(next));
  }
  report.statics = make_static_reports(statics);
  report.error_unit = unit == state::SensitivityUnit::Nats ? "nats" : "relative";
  return report;
}

std::vector<std::size_t> thinned(std::size_t count, std::size_t points) {
  const std::size_t stride = points == 0 ? 1 : std::max<std::size_t>((count + points - 1) / points, 1);
  std::vector<std::size_t> kept;
  for (std::size_t i = 0; i < count; ++i)
    if (i % stride == 0 || i + 1 == count) kept.push_back(i);
  return kept;
}

}  // namespace quantfit::cli

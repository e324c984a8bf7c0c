// The curve of size against predicted error, as plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/report/plan_report.h"
#include "optimizer/job/curve.h"

namespace quantfit::cli {

// One optimum, and the step that led to it from the one before.
struct CurvePoint {
  std::uint64_t bytes = 0;  // of tensor data
  double bpw = 0;
  double error = 0;
  double multiplier = 0;          // predicted error bought by one more byte; 0 at the first point
  std::string changed, from, to;  // empty at the first point
};

struct FrontierReport {
  std::vector<CurvePoint> curve;  // ascending bytes
  StaticReports statics;
  std::string error_unit;  // "nats" or "relative"
};

// `elements`: weights of the model.
[[nodiscard]] FrontierReport make_frontier_report(std::uint64_t elements,
                                                  const optimizer::ModelFrontier& frontier,
                                                  const optimizer::StaticComparisons& statics,
                                                  state::SensitivityUnit unit);

// Indices of about `points` of them, first and last included; all for 0.
[[nodiscard]] std::vector<std::size_t> thinned(std::size_t count, std::size_t points);

}  // namespace quantfit::cli

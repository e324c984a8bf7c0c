#include "cli/report/csv.h"

#include <fmt/format.h>

#include "core/text.h"

namespace quantfit::cli {

std::string to_csv(const FrontierReport& report, std::size_t points) {
  std::string text = "kind,name,bpw,bytes,predicted_error,multiplier,from,to\n";
  for (const std::size_t i : thinned(report.curve.size(), points)) {
    const CurvePoint& point = report.curve[i];
    text += fmt::format("curve,{},{:.6f},{},{:.9g},{:.9g},{},{}\n", csv_field(point.changed), point.bpw,
                        point.bytes, point.error, point.multiplier, point.from, point.to);
  }
  for (const StaticReport& recipe : report.statics.compared)
    text += fmt::format("static,{},{:.6f},{},{:.9g},,,\n", csv_field(recipe.name), recipe.bpw,
                        recipe.tensor_bytes, recipe.predicted_error);
  return text;
}

}  // namespace quantfit::cli

#include "cli/report/diff_report.h"

namespace quantfit::cli {

DiffReport make_diff_report(const optimizer::RecipeDiff& diff) {
  DiffReport report;
  report.same = diff.same;
  for (const optimizer::RecipeChange& change : diff.changes) {
    DiffReport::Change row;
    row.tensor = change.tensor;
    if (change.before) row.before = std::string(name_of(*change.before));
    if (change.after) row.after = std::string(name_of(*change.after));
    if (change.before && change.after)
      row.bpw_change = bits_per_weight(*change.after) - bits_per_weight(*change.before);
    report.changes.push_back(std::move(row));
  }
  return report;
}

}  // namespace quantfit::cli

#include "optimizer/planning/foresight.h"

#include <algorithm>
#include <cmath>

namespace quantfit::optimizer {

double Foresight::operator()(double sum) const {
  if (!(choice_cost > 0)) return sum;
  const double rest = std::max(sum, 0.0) / (1 + choice_share);
  return rest + choice_cost * std::sqrt(rest);
}

}  // namespace quantfit::optimizer

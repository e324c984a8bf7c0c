#include "optimizer/tuning/attempt.h"

#include <cmath>
#include <cstddef>

namespace quantfit::tuning {

Gain gain_of(const std::vector<double>& before, const std::vector<double>& after) {
  const auto n = static_cast<double>(before.size());
  Gain out;
  for (std::size_t w = 0; w < before.size(); ++w) {
    out.before += before[w] / n;
    out.after += after[w] / n;
    out.difference += (after[w] - before[w]) / n;
  }
  double squares = 0;
  for (std::size_t w = 0; w < before.size(); ++w) {
    const double off = after[w] - before[w] - out.difference;
    squares += off * off;
  }
  out.difference_error = std::sqrt(squares / (n * (n - 1)));
  return out;
}

}  // namespace quantfit::tuning

#include "optimizer/measurement/interaction.h"

namespace quantfit::optimizer {

double interacting(double relative_error) {
  const double n = relative_error;
  return n < 1 ? n * (1 + kInteraction * n) / (1 + kInteraction * n * n) : n;
}

}  // namespace quantfit::optimizer

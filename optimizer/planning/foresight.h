// The divergence that a sum of s_t N(t, f) foresees.
#pragma once

#include <string_view>

namespace quantfit::optimizer {

// Rows of a measured set (state::SensitivitySet) that are about no tensor.
inline constexpr std::string_view kOtherChoices = "other choices of experts";
inline constexpr std::string_view kChoicesInWeights = "other choices of experts, in the weights";

// A set's weights are slopes: they charge other choices of experts as if errors were as large as those of two
// to four bits (BackwardOptions::choice_error). Their number goes with the size of errors, the divergence of
// everything else with its square. README.md, "Other choices of experts", has the formulas.
struct Foresight {
  double choice_cost = 0;   // nats per root of a nat; 0: no experts, or weights that were not measured
  double choice_share = 0;  // part of the sum that weights charge for other choices, over the rest of it

  // Rises with `sum`; the sum itself where choice_cost is 0.
  [[nodiscard]] double operator()(double sum) const;
};

}  // namespace quantfit::optimizer

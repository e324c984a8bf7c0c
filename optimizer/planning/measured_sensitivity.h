// Which sensitivities choose formats: the prior, or one measured set; never values of both.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor_info.h"
#include "optimizer/planning/candidates.h"
#include "optimizer/planning/foresight.h"
#include "optimizer/planning/sensitivity.h"
#include "state/records.h"

namespace quantfit::optimizer {

struct ChosenSensitivities {
  std::vector<TensorSensitivity> values;  // one per tensor, in file order
  // Relative: sums of s_t N mean something beside other sums of the same prior. Nats: an estimate of the KL
  // divergence.
  state::SensitivityUnit unit = state::SensitivityUnit::Relative;
  Foresight foresight;             // from a sum to what it foresees
  std::vector<std::string> notes;  // measured sets that were passed over, and why
};

// What a set knows of other choices of experts; nothing of it: sums are taken as they are.
[[nodiscard]] Foresight foresight_of(const state::SensitivitySet& set);

// A set counts when it is whole (every tensor that may change its format has a value) and was measured under
// the metric and importance matrix of the errors that it will multiply. Of several: nats before relative,
// then the one from more tokens, then the newest engine, then the first by scope. Without one, and always
// when the user gives weights for roles, which speak the prior's language, `priors` are used.
//
// Tensors that stay as they are get the set's value when it has one and 0 otherwise: they cost nothing.
[[nodiscard]] ChosenSensitivities choose_sensitivities(std::vector<TensorSensitivity> priors,
                                                       bool has_role_weights,
                                                       std::span<const state::SensitivitySet> sets,
                                                       std::span<const TensorCandidates> candidates,
                                                       std::string_view importance_fingerprint,
                                                       std::string_view metric);

}  // namespace quantfit::optimizer

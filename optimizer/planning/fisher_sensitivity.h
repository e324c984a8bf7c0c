// Sensitivities in nats from what a backward pass found out about a model.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/statistics_file.h"
#include "core/tensor_info.h"
#include "optimizer/planning/sensitivity.h"
#include "state/records.h"

namespace quantfit::optimizer {

// The method that sets of this kind carry.
inline constexpr std::string_view kFisherMethod = "fisher";

// How far margins between routers' scores are off, in spreads of the scores, over the root of the divergence
// that errors cost beside other choices, in nats; times the part of ModelStatistics::choice_cost that another
// choice really costs. Measured (README.md, "Other choices of experts").
inline constexpr double kChoicesPerError = 1.0;

// One value per tensor: F_t, nats of KL divergence per token for a relative error of 1
// (core/statistics_file.h); what a tied embedding costs as a table and as output matrix adds up. Tensors that
// the pass did not reach (layers that only draft tokens, encoders beside the model) get their prior times the
// geometric mean of F / prior over the others of their role, or over all where there are none. No value is
// below kFloor of what that rule would give: a text of some thousand tokens proves nothing to be free.
// Of models with experts the set holds kOtherChoices too (foresight.h). `scope` is taken over as given but
// for unit and method. `priors` in the order of `tensors`; empty when nothing was reached.
[[nodiscard]] state::SensitivitySet fisher_set(const ModelStatistics& statistics,
                                               std::span<const TensorInfo> tensors,
                                               std::span<const TensorSensitivity> priors,
                                               state::SensitivityScope scope);

}  // namespace quantfit::optimizer

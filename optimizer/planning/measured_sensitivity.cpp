#include "optimizer/planning/measured_sensitivity.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "core/text.h"

namespace quantfit::optimizer {
namespace {

using state::SensitivitySet;
using state::SensitivityUnit;

// Some format costs an error: the source's own alone does not.
bool may_change(const TensorCandidates& tensor) {
  return std::ranges::any_of(tensor.formats, [&](Format format) { return format != tensor.tensor->format; });
}

// Empty when the set may be used, the reason why not otherwise.
std::string objection_to(const SensitivitySet& set, std::span<const TensorCandidates> candidates,
                         std::string_view importance_fingerprint, std::string_view metric) {
  if (set.scope.importance_fingerprint != importance_fingerprint)
    return "it was measured under another importance matrix";
  if (set.scope.metric != metric) return "it was measured under another error metric";
  if (set.partial) return "it is partial";
  for (const TensorCandidates& tensor : candidates)
    if (may_change(tensor) && set.find(tensor.tensor->name) == nullptr)
      return fmt::format("it has no value for {}", printable(tensor.tensor->name));
  return {};
}

}  // namespace

Foresight foresight_of(const SensitivitySet& set) {
  const auto value_of = [&](std::string_view name) {
    const state::Sensitivity* row = set.find(std::string(name));
    return row == nullptr ? 0.0 : row->value;
  };
  return {value_of(kOtherChoices), value_of(kChoicesInWeights)};
}

ChosenSensitivities choose_sensitivities(std::vector<TensorSensitivity> priors, bool has_role_weights,
                                         std::span<const SensitivitySet> sets,
                                         std::span<const TensorCandidates> candidates,
                                         std::string_view importance_fingerprint, std::string_view metric) {
  ChosenSensitivities chosen;
  const SensitivitySet* best = nullptr;
  const auto rank = [](const SensitivitySet& set) {
    return std::tuple(set.scope.unit == SensitivityUnit::Nats, set.scope.tokens, set.scope.engine_version);
  };
  for (const SensitivitySet& set : sets) {
    std::string objection = objection_to(set, candidates, importance_fingerprint, metric);
    if (objection.empty() && has_role_weights) objection = "weights of roles are relative to the prior";
    if (!objection.empty()) {
      chosen.notes.push_back(fmt::format("measured sensitivities (method {}) are not used: {}",
                                         printable(set.scope.method), objection));
    } else if (best == nullptr || rank(set) > rank(*best)) {
      best = &set;
    }
  }
  if (best == nullptr) {
    chosen.values = std::move(priors);
    return chosen;
  }
  chosen.unit = best->scope.unit;
  chosen.foresight = foresight_of(*best);
  for (const TensorCandidates& tensor : candidates) {
    const state::Sensitivity* row = best->find(tensor.tensor->name);
    chosen.values.push_back(row == nullptr ? TensorSensitivity{0, "not measured"}
                                           : TensorSensitivity{row->value, row->obtained});
  }
  return chosen;
}

}  // namespace quantfit::optimizer

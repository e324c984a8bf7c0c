// What a recipe says about its origin, and its entry in the state file.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/gguf_value.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"
#include "optimizer/job/solve.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

// Of an answer whose sizes and proof are set.
[[nodiscard]] std::map<std::string, std::string> provenance_of(const JobInputs& inputs,
                                                               const JobRequest& request,
                                                               const Solution& solution);

// What a written file says about its origin, under names of our own (README.md, "Keys"), none where
// JobRequest::keep_provenance is off; behind them JobRequest::overrides. `solution`: the answer, whose recipe
// and error are set; null: not known yet, and in their places stand values of the same sizes, so that a
// file's size is known before its recipe.
[[nodiscard]] std::vector<GgufKeyValue> provenance_keys(const JobInputs& inputs, const JobRequest& request,
                                                        const Target& target, state::SensitivityUnit unit,
                                                        const Solution* solution);

// 32 lower-case hexadecimal digits over the names and formats of all tensors, in the order of their names:
// the same for a recipe whoever made it.
[[nodiscard]] std::string recipe_fingerprint(const Recipe& recipe);

[[nodiscard]] Result<void> remember(state::StateStore& store, state::RunId run, const JobRequest& request,
                                    const Solution& solution);

}  // namespace quantfit::optimizer

// What a recipe says about its origin, and its entry in the state file.
#pragma once

#include <map>
#include <string>

#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"
#include "optimizer/job/solve.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

// Of an answer whose sizes and proof are set.
[[nodiscard]] std::map<std::string, std::string> provenance_of(const JobInputs& inputs,
                                                               const JobRequest& request,
                                                               const Solution& solution);

[[nodiscard]] Result<void> remember(state::StateStore& store, state::RunId run, const JobRequest& request,
                                    const Solution& solution);

}  // namespace quantfit::optimizer

// What a tuning did, for people and for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "optimizer/tuning/tune.h"

namespace quantfit::cli {

[[nodiscard]] std::string to_text(const tuning::TuneResult& result);
// The members of docs/schema/tune.schema.json that are the result's. `choice`: of a run that had a time to
// keep.
[[nodiscard]] nlohmann::ordered_json to_json(const tuning::TuneResult& result,
                                             const std::optional<tuning::TimedChoice>& choice);
// `tuning_costs` of docs/schema/plan.schema.json.
[[nodiscard]] nlohmann::ordered_json to_json(std::span<const tuning::TunePlan> plans);

}  // namespace quantfit::cli

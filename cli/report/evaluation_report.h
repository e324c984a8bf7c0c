// What `evaluate` found, for people and for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "optimizer/job/evaluation.h"

namespace quantfit::cli {

// One table of all files, then the files' own figures as the reports of this field list them (`details`),
// then which file is better and whether that is more than noise.
[[nodiscard]] std::string to_text(const optimizer::EvaluatedFiles& evaluated, bool details);
[[nodiscard]] nlohmann::ordered_json to_json(const optimizer::EvaluatedFiles& evaluated);

}  // namespace quantfit::cli

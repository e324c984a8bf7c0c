// What a tuning did, for people and for programs.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "optimizer/tuning/tune.h"

namespace quantfit::cli {

[[nodiscard]] std::string to_text(const tuning::TuneResult& result);
// The members of docs/schema/tune.schema.json that are the result's.
[[nodiscard]] nlohmann::ordered_json to_json(const tuning::TuneResult& result);

// Where the tuning of what becomes `output` goes on after an interruption.
[[nodiscard]] std::filesystem::path tuning_checkpoint(const std::filesystem::path& output);
// What to do after one, for people.
[[nodiscard]] std::string tuning_resume_hint(const std::filesystem::path& checkpoint);

}  // namespace quantfit::cli

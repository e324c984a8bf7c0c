// What a job made: the files of its folder, and the document that its command printed.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/service/http_message.h"
#include "cli/service/job_store.h"
#include "cli/service/roots.h"

namespace quantfit::service {

inline constexpr std::string_view kAnswerName = "answer.json";

struct JobResult {
  std::string name;  // with the folder of files that are in one: "recipes/Q4_K_M.txt"
  std::string kind;  // "model", "recipe", "report", "imatrix", "answer", "other"
  std::uint64_t bytes = 0;
  std::string file;  // ROOT/PATH; empty: in no file
};
// By name.
[[nodiscard]] std::vector<JobResult> results_of(const Roots& roots, const JobRecord& job);
[[nodiscard]] nlohmann::ordered_json to_json(const std::vector<JobResult>& results, const std::string& job);

// A file of a job, whole or the range that the request asks for; 304 where the client has it already.
[[nodiscard]] Response file_response(const Roots& roots, const JobResult& result, const Request& request);

}  // namespace quantfit::service

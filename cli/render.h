// What the commands print on standard output: text for people, JSON for machines, from the same structs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/model.h"
#include "optimizer/job.h"

namespace quantfit::cli {

// Totals per format of a list of tensors: count, weights, bytes.
struct FormatUse {
  Format format;
  std::uint64_t tensors = 0;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
};
[[nodiscard]] std::vector<FormatUse> formats_used(std::span<const TensorInfo> tensors);

// `inspect`: what is in a GGUF file.
[[nodiscard]] std::string describe_model(const Model& model, bool all_tensors, bool metadata);
[[nodiscard]] nlohmann::ordered_json model_to_json(const Model& model, bool metadata);

// `plan` and `quantize`: the answer for one target.
[[nodiscard]] std::string describe_solution(const Model& model, const optimizer::PreparedJob& job,
                                            const optimizer::Solution& solution, bool all_tensors);
[[nodiscard]] nlohmann::ordered_json solution_to_json(const Model& model, const optimizer::PreparedJob& job,
                                                      const optimizer::Solution& solution);

// One sentence on why a target cannot be met, with the range that can.
[[nodiscard]] std::string describe_infeasible(const optimizer::Solution& solution);

}  // namespace quantfit::cli

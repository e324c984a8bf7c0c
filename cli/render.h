// What the commands print on standard output: text for people, JSON for machines, from the same structs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/model.h"
#include "optimizer/job/job.h"
#include "optimizer/output/recipe_io.h"

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

// `plan` and `quantize`: the answer for one target, the static recipes nearest in size beside it.
[[nodiscard]] std::string describe_solution(const Model& model, const optimizer::PreparedJob& job,
                                            const optimizer::Solution& solution,
                                            std::span<const optimizer::StaticComparison> statics,
                                            bool all_tensors);
[[nodiscard]] nlohmann::ordered_json solution_to_json(const Model& model, const optimizer::PreparedJob& job,
                                                      const optimizer::Solution& solution,
                                                      std::span<const optimizer::StaticComparison> statics);

// What a memory budget is spent on, line by line.
[[nodiscard]] std::string describe_memory(const optimizer::Solution& solution);

// One sentence on why a target cannot be met, with the range that can.
[[nodiscard]] std::string describe_infeasible(const optimizer::Solution& solution);

// `frontier`: the curve from the smallest recipe to the best, at most `points` of it (0: all), static recipes
// as points of their own.
[[nodiscard]] std::string describe_frontier(const Model& model, const optimizer::ModelFrontier& frontier,
                                            std::span<const optimizer::StaticComparison> statics,
                                            std::size_t points, bool steps);
[[nodiscard]] nlohmann::ordered_json frontier_to_json(const Model& model,
                                                      const optimizer::ModelFrontier& frontier,
                                                      std::span<const optimizer::StaticComparison> statics);
[[nodiscard]] std::string frontier_to_csv(const Model& model, const optimizer::ModelFrontier& frontier,
                                          std::span<const optimizer::StaticComparison> statics);

// `diff`: which tensors changed their format.
[[nodiscard]] std::string describe_diff(const optimizer::RecipeDiff& diff);
[[nodiscard]] nlohmann::ordered_json diff_to_json(const optimizer::RecipeDiff& diff);

}  // namespace quantfit::cli

// The named mixtures of llama.cpp beside the search: points of comparison, and a floor under its answers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "optimizer/job/job.h"
#include "optimizer/job/solve.h"

namespace quantfit::optimizer {

struct NamedRecipe {
  std::string name;
  Recipe recipe;
};

// Of the static recipes, with the rules that can apply to them, that keep to the job's constraints and to
// every budget of `solution` (and fill them as demanded) the one of lowest objective; nothing when none does.
// `ruinous`: formats beyond max_nmse are allowed.
[[nodiscard]] Result<std::optional<NamedRecipe>> best_static_recipe(const JobInputs& inputs,
                                                                    const PreparedJob& job,
                                                                    const JobRequest& request,
                                                                    const Budget& budget,
                                                                    const Solution& solution, bool ruinous);

// A static recipe beside the optimum of the same size.
struct StaticComparison {
  std::string name;
  std::uint64_t tensor_bytes = 0;
  double bpw = 0;
  double predicted_error = 0;
  // Of the best recipe with at most as many bytes, under the job's constraints; nothing when they forbid so
  // small a recipe.
  std::optional<double> optimized_error;
};
// A static recipe that could not be compared.
struct StaticWithout {
  std::string name;
  std::string why;  // as a phrase: "NVFP4 was not measured"
};
struct StaticComparisons {
  std::vector<StaticComparison> compared;  // in ascending order of bytes
  std::vector<StaticWithout> without;
};
// All presets with quantized formats. Nothing is compared when the formats were given, not searched for.
[[nodiscard]] Result<StaticComparisons> compare_static_recipes(const JobInputs& inputs,
                                                               const PreparedJob& job,
                                                               const JobRequest& request,
                                                               const JobControl& control);

}  // namespace quantfit::optimizer

// What choices were weighed by: what an error of each tensor costs, where that is known from, and what error
// feedback gained.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "optimizer/job/inputs.h"
#include "optimizer/job/job.h"
#include "state/contents.h"

namespace quantfit::cli {

struct ObjectiveReport {
  // What the relative output error of a tensor costs.
  struct Weight {
    std::string tensor, role;
    std::optional<std::uint32_t> layer;
    double value = 0;                      // of a whole error (N = 1), in the report's unit
    std::optional<double> standard_error;  // of measured ones
  };
  // Predicted errors with error feedback over those without it: geometric means over what was measured both
  // ways.
  struct Gain {
    std::string name;  // a tensor or a format
    std::string role;  // of a tensor
    std::optional<std::uint32_t> layer;
    std::uint64_t count = 0;  // formats of a tensor, tensors of a format
    double ratio = 1;
  };

  std::string unit = "relative";  // "nats" of KL divergence, or "relative": only ratios mean something
  std::string source;             // a sentence: gradients of which text, or the built-in weights
  std::string feedback;           // a sentence; empty: encoders without error feedback
  std::vector<Weight> weights;    // none: not known
  std::vector<Gain> gains_by_format, gains_by_tensor;  // empty where only one way was measured
};

[[nodiscard]] ObjectiveReport make_objective_report(const optimizer::JobInputs& inputs,
                                                    const optimizer::PreparedJob& job,
                                                    const state::Contents* contents);

// Of one run of a state file. Without a measured set these are the built-in weights, as far as names and
// shapes tell them.
[[nodiscard]] ObjectiveReport make_objective_report(const state::Contents& contents,
                                                    const state::RunContents& run);

// The set of sensitivities that counts for a run: whole, of its importance data and metric; nats first, then
// the most tokens. Null without one.
[[nodiscard]] const state::SensitivitySet* sensitivities_of(const state::Contents& contents,
                                                            const state::RunParameters& run);

[[nodiscard]] nlohmann::ordered_json to_json(const ObjectiveReport& report);

}  // namespace quantfit::cli

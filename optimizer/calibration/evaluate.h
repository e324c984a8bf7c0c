// Measures models by running them: perplexity of a base model, KL divergence of candidates from it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/calibration/divergence.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

struct EvaluateOptions {
  engine::RunOptions run;
  // Stop as soon as the standard error of every candidate's mean divergence, taken over chunks, is at most
  // this share of it. Nothing: the whole text.
  std::optional<double> precision;
  engine::Arithmetic arithmetic = engine::Arithmetic::Exact;
};

// Scores of all positions that count, in the order of the text; `chunk_positions` of every chunk.
struct EvaluationScores {
  std::vector<BaseScore> base;
  std::vector<std::vector<CandidateScore>> candidates;  // in the order given
  std::uint64_t chunks = 0;                             // scored
  std::size_t chunk_positions = 0;
};

// One pass of the text through the base and each candidate; of the final states only the positions that count
// are kept, and logits are made a few rows at a time, so that memory does not grow with the vocabulary times
// the text. Chunks and positions are those of the field's tool for perplexity (TokenWindows). The models must
// outlive the call.
// Errors of Engine::open and Engine::run with the file named, of check_same_tokens; Malformed when logits are
// not finite; Interrupted.
[[nodiscard]] Result<EvaluationScores> evaluate(const Model& base, std::span<const Model* const> candidates,
                                                const Text& text, const EvaluateOptions& options,
                                                ProgressSink& progress, const CancellationToken& cancel);

// What the run of the largest of the models will need, for people.
[[nodiscard]] Result<engine::RunPlan> plan_evaluation(const Model& model, const Text& text,
                                                      const EvaluateOptions& options);

}  // namespace quantfit::calibration

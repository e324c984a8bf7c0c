// How much every matrix of a model matters, in nats: mean squared gradients of its outputs, and what its
// inputs and outputs are like, from one forward and one backward pass of a text (core/statistics_file.h has
// the formulas).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/progress.h"
#include "core/statistics_file.h"
#include "optimizer/engine/backward.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

struct SensitivityOptions {
  engine::RunOptions run = {};
  std::uint32_t seed = 1;  // of the labels, one per token, drawn from the model's own distribution
  // BackwardOptions::choice_error, for models with experts. The default fits what quantization to two to four
  // bits does (benchmarks/README.md, prediction); 0 leaves choices out.
  float choice_error = 0.08F;
  std::string model_fingerprint = {}, text_fingerprint = {};
  // Where a pass that was interrupted continues; empty: nowhere. The file holds the figures of finished
  // layers and the gradients between two layers; it is gone after a pass that ends well. One that belongs to
  // another model, text, seed or version, or is damaged, is not used: it saves time and decides nothing.
  std::filesystem::path checkpoint = {};
  double checkpoint_seconds = 5;  // between two saves, at least
};

struct SensitivityReport {
  ModelStatistics statistics;
  // Layers 0 .. first_layer - 1 were done by this run, the others by an earlier one.
  std::uint32_t first_layer = 0;
};

// Every position of every window is scored. Sums are in double, in the order of tokens: the same bits for any
// number of threads, any instruction set, any memory limit, and after any interruption.
// Errors of BackwardPass::run and of the checkpoint file; Interrupted.
[[nodiscard]] Result<SensitivityReport> collect_sensitivity(const engine::Engine& engine,
                                                            const engine::TokenWindows& windows,
                                                            const SensitivityOptions& options,
                                                            ProgressSink& progress,
                                                            const CancellationToken& cancel);

// What it will need: the plan of the pass, with the sums in its memory.
[[nodiscard]] Result<engine::BackwardPlan> plan_sensitivity(const engine::Engine& engine,
                                                            const engine::TokenWindows& windows,
                                                            const SensitivityOptions& options);

}  // namespace quantfit::calibration

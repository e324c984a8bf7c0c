// An importance matrix of our own: sums over a text of what enters every matrix of a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "core/importance_writer.h"
#include "core/progress.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

struct ImportanceOptions {
  engine::RunOptions run;
  // Where a run that was interrupted continues; empty: nowhere. The file holds the sums of finished layers
  // and the hidden states of all tokens; it is gone after a run that ends well.
  std::filesystem::path checkpoint;
  std::string model_fingerprint;  // a checkpoint of another model is not used
  double checkpoint_seconds = 5;  // between two saves, at least
};

struct ImportanceReport {
  ImportanceData data;
  std::uint32_t first_layer = 0;  // where this run began: above 0, it continued
  std::uint64_t tokens = 0;
};

// Sums x_j and x_j^2 over all tokens of the text for every matrix that multiplies activations, experts and
// heads apart (imatrix conventions: every position counts; a row of an expert for every token that chose it).
// The output matrix is among them, under the name of the embedding where it is tied. Sums are in double, in
// the order of tokens: the same bits for any number of threads, any memory limit, and after any interruption.
// Errors of Engine::run and of the checkpoint file; Interrupted.
[[nodiscard]] Result<ImportanceReport> collect_importance(const engine::Engine& engine, const Text& text,
                                                          const ImportanceOptions& options,
                                                          ProgressSink& progress,
                                                          const CancellationToken& cancel);

}  // namespace quantfit::calibration

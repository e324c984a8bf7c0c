// One pass of a text through a model for what is to be learnt from it, in one piece or continued: between two
// layers it keeps the hidden states of all tokens and what observers know of finished layers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "core/error.h"
#include "core/progress.h"
#include "optimizer/calibration/checkpoint.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

// Watches a pass and can go on where another one stopped.
class PassObserver : public engine::ForwardObserver {
 public:
  // Whether what it needs of layers 0 .. checkpoint.layer() - 1 is there.
  [[nodiscard]] virtual bool can_continue(const Checkpoint& checkpoint) const = 0;
  // Before the first layer. Null: the pass begins at the first layer, and what an earlier one left is void.
  virtual Result<void> begin_pass(const Checkpoint* checkpoint) = 0;
  // What checkpoints are to hold of finished layers; null: nothing.
  [[nodiscard]] virtual const FinishedSums* sums() const { return nullptr; }
};

struct PassOptions {
  engine::RunOptions run;
  // Where a pass that was interrupted continues; empty: nowhere. The file holds the sums of finished layers
  // and the hidden states of all tokens; whoever has the results in safety removes it.
  std::filesystem::path checkpoint;
  std::string model_fingerprint;  // a checkpoint of another model is not used
  double checkpoint_seconds = 5;  // between two saves, at least
};

// Runs the text through the model, the observers looking on in their order, from the checkpoint on where
// there is one that all of them can continue. Returns the layer where this run began: above 0, it continued.
// At most one observer may have sums. Errors of Engine::run, of observers and of the checkpoint file;
// Interrupted.
[[nodiscard]] Result<std::uint32_t> run_pass(const engine::Engine& engine, const Text& text,
                                             const PassOptions& options,
                                             std::span<PassObserver* const> observers, ProgressSink& progress,
                                             const CancellationToken& cancel);

}  // namespace quantfit::calibration

// Makes a quantized model's predictions closer to the original's without changing its size or formats: the
// numbers in it that can move (parameters.h) are trained by Adam on the KL divergence from the original over
// a text, a part of which is held back to decide what is kept.
#pragma once

#include <cstdint>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"
#include "optimizer/tuning/attempt.h"
#include "optimizer/tuning/parameters.h"
#include "optimizer/tuning/plan.h"

namespace quantfit::tuning {

// What became of one layer, tuned by itself.
struct LayerOutcome {
  std::uint32_t layer = 0;
  Attempt attempt;  // divergences are losses of the layer (layers.h)

  friend bool operator==(const LayerOutcome&, const LayerOutcome&) = default;
};

struct TuneResult {
  Level level = Level::None;  // of what was kept; None: the file is left as it is
  Gain gain;                  // of what was kept
  std::vector<Attempt> attempts;
  std::uint64_t training_tokens = 0, held_back_tokens = 0;
  double seconds = 0;
  std::uint32_t continued_at = 0;  // above 0: began after that step, from a checkpoint
  // One layer at a time: the layers, in order, with the files that their bytes are in; empty else.
  std::vector<LayerOutcome> layers;
  std::vector<Model> layer_files;
  engine::ReplacedTensors layer_bytes;  // of those that were kept, in layer_files
  // Of what was kept, with the bytes of their tensors; empty where nothing was. Refers to the quantized
  // model.
  Parameters parameters;

  // The tuned tensors' bytes, as Engine::open and write_tuned take them; valid as long as the result.
  [[nodiscard]] engine::ReplacedTensors replaced() const;
};

// The same inputs and options give the same bits for any number of threads, instruction set and memory limit.
// InvalidArgument for a text of fewer than eight windows; ShapeMismatch where the models have not the same
// vocabulary; errors of Engine::open and BackwardPass::run; NoSpace when the memory limit has no room for the
// lowest level; Interrupted.
[[nodiscard]] Result<TuneResult> tune(const Model& original, const Model& quantized,
                                      const calibration::Text& text, const TuneOptions& options,
                                      ProgressSink& progress, const CancellationToken& cancel);

}  // namespace quantfit::tuning

// Makes a quantized model's predictions closer to the original's without changing its size or formats: the
// numbers in it that can move (parameters.h) are trained by Adam on the KL divergence from the original over
// a text, a part of which is held back to decide what is kept.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"
#include "optimizer/tuning/level.h"
#include "optimizer/tuning/parameters.h"

namespace quantfit::tuning {

// Windows that a text has to have.
inline constexpr std::uint32_t kFewestWindows = 8;

struct TuneOptions {
  // threads, and the memory of everything together; nothing depends on them but time.
  engine::RunOptions run = {};
  // Nothing: the highest level for which there is memory, and the next lower one where text held back refuses
  // it.
  std::optional<Level> level = {};
  std::uint32_t steps = 0;           // 0: as many as suit the tokens (suitable_steps)
  std::uint32_t step_tokens = 1024;  // of a step; whole windows, at least one
  std::uint32_t seed = 1;            // of the order of windows
  double value_rate = 0.007;         // of the first step, relative to the root mean square of a tensor
  double scale_rate = 0.007;         // relative to each scale
  double code_rate = 0.01;           // in usual distances of levels
  // The pull of offsets back to zero: the mean loss over N training tokens has offset^2 / (2 spread^2 N)
  // beside it for every number, as if offsets had a normal prior of that spread.
  double spread = 0.5;
};

// Steps for so many training tokens: one pass over a long text, up to four over a short one.
[[nodiscard]] std::uint32_t suitable_steps(std::uint64_t tokens, std::uint32_t step_tokens);

// What a run will do and need.
struct TunePlan {
  Level level = Level::None;  // that it begins with
  std::uint64_t values = 0, scales = 0, codes = 0;
  std::uint64_t training_tokens = 0, held_back_tokens = 0;
  std::uint32_t steps = 0;
  std::vector<engine::RunPlan::Item> memory;  // at the peak
  std::uint64_t memory_bytes = 0;
  double multiply_adds = 0;          // of everything
  double forward_multiply_adds = 0;  // of one pass of the original over the whole text
  [[nodiscard]] std::string describe() const;
};

// Errors as those of tune(), as far as they can be known beforehand.
[[nodiscard]] Result<TunePlan> plan_tuning(const Model& original, const Model& quantized,
                                           const calibration::Text& text, const TuneOptions& options);

// Mean divergence of the text held back, nats per token; errors are those of means over windows.
struct Gain {
  double before = 0, after = 0;
  double difference = 0, difference_error = 0;  // after - before, windows paired
  [[nodiscard]] double ratio() const { return before > 0 ? after / before : 1; }
  // By more than two standard errors: what is kept must be better than chance.
  [[nodiscard]] bool decided() const { return difference < -2 * difference_error; }
};

struct Look {  // at the text held back
  std::uint32_t step = 0;
  double divergence = 0;
};

struct Attempt {
  Level level = Level::None;
  std::uint32_t steps = 0, best_step = 0;
  Gain gain;                                 // of the best step
  std::uint64_t codes = 0, codes_moved = 0;  // that could move, and that differ from the file's
  bool kept = false;
  std::vector<Look> looks;
};

struct TuneResult {
  Level level = Level::None;  // of what was kept; None: the file is left as it is
  Gain gain;                  // of what was kept
  std::vector<Attempt> attempts;
  std::uint64_t training_tokens = 0, held_back_tokens = 0;
  double seconds = 0;
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

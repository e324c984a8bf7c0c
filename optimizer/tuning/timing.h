// What a tuning takes on this machine, measured by one step, and as much of one as fits into a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/calibration/text.h"
#include "optimizer/tuning/plan.h"

namespace quantfit::tuning {

// Seconds.
struct PassCost {
  double original = 0;  // a forward pass of the original, per token
  double look = 0;      // a look at the text held back, per token
  double step = 0;      // one step of training
  double start = 0;     // before the first step
};

// Of an attempt on the first `windows` windows of a text.
[[nodiscard]] double foreseen_seconds(const PassCost& cost, std::size_t windows, std::size_t window_tokens,
                                      std::uint32_t steps);

// Steps, and windows of the text's first ones, of one attempt: as many steps as fit into `seconds`, each on
// text of its own as long as there is more. Nothing where not even the fewest sensible do, or options.steps
// where these are given.
struct Portion {
  std::uint32_t steps = 0;
  std::size_t windows = 0;
  double seconds = 0;  // foreseen

  friend bool operator==(const Portion&, const Portion&) = default;
};
[[nodiscard]] std::optional<Portion> portion_for(const PassCost& cost, double seconds, std::size_t windows,
                                                 std::size_t window_tokens, const TuneOptions& options);

// Runs one step of `plan`'s level, which changes nothing. Errors of the passes; Interrupted.
[[nodiscard]] Result<PassCost> measure_cost(const Opened& opened, const LevelPlan& plan,
                                            const TuneOptions& options, ProgressSink& progress,
                                            const CancellationToken& cancel);

// What is tuned in `seconds`: level (options.level if there is one), steps and windows, by measuring on this
// machine, now; or what was chosen for the same question before, where options.checkpoint is of that. The
// highest level that the text and the memory suffice for and that gets all its steps; else scales, or norms,
// with as many as fit. A time limit means one attempt. Errors of plan_tuning; InvalidArgument, saying what
// the least takes, where nothing fits.
[[nodiscard]] Result<TimedChoice> choose_for_time(const Model& original, const Model& quantized,
                                                  const calibration::Text& text, const TuneOptions& options,
                                                  double seconds, ProgressSink& progress,
                                                  const CancellationToken& cancel);

}  // namespace quantfit::tuning

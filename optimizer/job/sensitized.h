// Sensitivities measured on the model itself, in nats, for a job that wants them: kept in and beside the
// state file, so that they are measured once.
#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/backward.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"

namespace quantfit::optimizer {

struct SensitivityRequest {
  // Gradients of so many tokens rank tensors as well as those of ten times as many (benchmarks/README.md,
  // convergence); whole windows, spread evenly over the text. Mixtures of experts take more: see
  // tokens_for().
  static constexpr std::uint64_t kTokens = 8192;

  calibration::TextRequest text;
  std::uint64_t tokens = 0;  // 0: as the model needs
  engine::RunOptions run;
  bool only_known = false;  // nothing is run or kept: `known` says whether they were measured before
};

// Tokens that a pass takes when nobody says how many: SensitivityRequest::kTokens, and with experts enough
// that each sees about a hundred.
[[nodiscard]] std::uint64_t tokens_for(const Model& model, std::uint64_t wanted);

struct MeasuredSensitivities {
  bool known = false;             // measured before
  std::uint32_t first_layer = 0;  // layers below were done by this run; above 0 in a run that went on
  std::uint64_t tokens = 0;
  double seconds = 0;
};

// What the pass will need: to be shown before it starts. Errors of read_text and Engine::open, Unsupported
// for a model that runs forward only.
[[nodiscard]] Result<engine::BackwardPlan> plan_sensitivities(const Model& model,
                                                              const SensitivityRequest& request);

// Adds a whole set in nats to inputs.measured_sets, and to the state file where there is one. Errors of the
// above, of collect_sensitivity and of the files.
[[nodiscard]] Result<MeasuredSensitivities> measure_sensitivities(JobInputs& inputs, const JobRequest& job,
                                                                  const SensitivityRequest& request,
                                                                  const JobControl& control);

}  // namespace quantfit::optimizer

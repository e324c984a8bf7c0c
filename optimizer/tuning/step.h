// One step of a training: forward, back, and the numbers moved.
#pragma once

#include <cstdint>

#include "core/error.h"
#include "core/progress.h"
#include "optimizer/engine/forward.h"
#include "optimizer/tuning/parameters.h"
#include "optimizer/tuning/teacher.h"

namespace quantfit::tuning {

// Of windows `list` of the teacher's text; `student` reads the bytes of `parameters`. `step`: counted from 1.
// Returns the divergence from the teacher as it was before, nats per token. Errors of BackwardPass::run,
// which leave the parameters as they were, but for their gradients.
[[nodiscard]] Result<double> train_step(const engine::Engine& student, const Teacher& teacher,
                                        const WindowList& list, const Parameters::Rates& rates,
                                        std::uint64_t step, const engine::RunOptions& run,
                                        Parameters& parameters, ProgressSink& progress,
                                        const CancellationToken& cancel);

}  // namespace quantfit::tuning

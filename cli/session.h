// What `quantize`, `plan` and `frontier` share: one job from its options to measured errors, ready to be
// solved for any number of targets. Holds no state of the process: a service may run many.
#pragma once

#include <optional>
#include <vector>

#include "cli/console.h"
#include "cli/job_options.h"
#include "core/error.h"
#include "kernels/row_kernels.h"
#include "optimizer/job/job.h"
#include "optimizer/job/yardstick.h"

namespace quantfit::cli {

struct Session {
  optimizer::JobRequest request;
  const kernels::RowKernels* kernels = nullptr;
  optimizer::JobInputs inputs;
  std::vector<optimizer::Target> targets;     // of the options; none for the whole curve
  std::optional<optimizer::PreparedJob> job;  // after check()
  optimizer::StaticComparisons statics;       // after measure()

  // Reads options and opens the files; says what was noticed. `with_targets`: options name targets.
  [[nodiscard]] static Result<Session> open(const JobOptions& options, bool with_targets,
                                            const JobContext& context);

  // Refuses what can be refused before anything is measured. The session may not be moved afterwards.
  [[nodiscard]] Result<void> check(const JobContext& context);

  // Measures what is not known and compares the static recipes.
  [[nodiscard]] Result<void> measure(const JobContext& context);
};

}  // namespace quantfit::cli

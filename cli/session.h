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

namespace quantfit::cli {

struct Session {
  optimizer::JobRequest request;
  const kernels::RowKernels* kernels = nullptr;
  optimizer::JobInputs inputs;
  std::optional<optimizer::PreparedJob> job;  // after prepare()
  std::vector<optimizer::StaticComparison> statics;

  // Reads options and opens the files; says what was noticed. Nothing is measured yet.
  [[nodiscard]] static Result<Session> open(const JobOptions& options, const JobContext& context);

  // Measures what is not known and compares the static recipes. The session may not be moved afterwards.
  [[nodiscard]] Result<void> prepare(const JobContext& context);
};

}  // namespace quantfit::cli

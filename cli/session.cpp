#include "cli/session.h"

#include <fmt/format.h>

#include <utility>

namespace quantfit::cli {

Result<Session> Session::open(const JobOptions& options, bool with_targets, const JobContext& context) {
  QF_ASSIGN(optimizer::JobRequest request, make_request(options));
  QF_ASSIGN(const kernels::RowKernels* kernels, kernels::default_kernels());
  QF_ASSIGN(optimizer::JobInputs inputs, optimizer::open_inputs(request.paths, &context.cancel));
  QF_TRY(check_patterns(options, request, inputs.model.tensors()));
  Session session{std::move(request), kernels, std::move(inputs), {}, {}, {}};
  if (with_targets) {
    QF_ASSIGN(session.targets, make_targets(options, session.request, session.inputs));
  }
  for (const std::string& warning : session.inputs.warnings) context.logger.log(LogLevel::Warning, warning);
  if (!session.inputs.importance)
    context.logger.log(
        LogLevel::Warning,
        "no importance matrix: all columns count the same, which costs quality; see --imatrix");
  return session;
}

Result<void> Session::check(const JobContext& context) {
  QF_ASSIGN(job, optimizer::check_job(inputs, request, targets, *kernels));
  for (const std::string& note : job->notes) context.logger.log(LogLevel::Info, "note: " + note);
  return outcome::success();
}

Result<void> Session::measure(const JobContext& context) {
  const optimizer::JobControl control{context.progress, context.cancel};
  QF_TRY(optimizer::measure_job(inputs, request, *kernels, control, *job));
  const optimizer::MeasureReport& measured = job->measured;
  context.logger.log(LogLevel::Info,
                     measured.tensors_sampled == 0
                         ? fmt::format("all {} tensors were measured before", measured.tensors_known)
                         : fmt::format("measured {} tensors in {}, {} were known", measured.tensors_sampled,
                                       format_duration(measured.seconds), measured.tensors_known));
  QF_ASSIGN(statics, optimizer::compare_static_recipes(inputs, *job, request, control));
  return outcome::success();
}

}  // namespace quantfit::cli

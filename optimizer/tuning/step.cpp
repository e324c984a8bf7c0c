#include "optimizer/tuning/step.h"

#include "kernels/row_kernels.h"
#include "optimizer/engine/backward.h"
#include "optimizer/parallel/workers.h"
#include "optimizer/tuning/gradients.h"

namespace quantfit::tuning {

Result<double> train_step(const engine::Engine& student, const Teacher& teacher, const WindowList& list,
                          const Parameters::Rates& rates, std::uint64_t step, const engine::RunOptions& run,
                          Parameters& parameters, ProgressSink& progress, const CancellationToken& cancel) {
  QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  const engine::TokenWindows windows = windows_of(teacher.windows(), list);
  DivergenceLoss loss(*math, teacher, list);
  GradientCollector collector(*math, *rows, parameters, windows.lengths);
  parameters.clear_gradients();
  const engine::BackwardOptions backward{.run = run, .loss = &loss};
  QF_TRY(engine::BackwardPass(student).run(windows, backward, nullptr, collector, progress, cancel));
  optimizer::Workers workers(run.threads);
  workers.run([&] { parameters.step(rates, step, windows.tokens.size()); });
  return loss.sum() / static_cast<double>(windows.tokens.size());
}

}  // namespace quantfit::tuning

#include "optimizer/job/calibrated.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "core/clock.h"
#include "core/mapped_file.h"
#include "optimizer/calibration/importance.h"
#include "optimizer/calibration/moments.h"
#include "optimizer/job/feedback.h"
#include "optimizer/job/statistics_beside.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kImportanceKind = "importance";

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

std::string now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

}  // namespace

Result<engine::RunPlan> plan_calibration(const Model& model, const CalibrationRequest& request) {
  QF_ASSIGN(const calibration::Text text, calibration::read_text(model, request.text));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  return engine.plan(text.inputs(), request.run);
}

Result<CalibratedImportance> calibrate(JobInputs& inputs, const JobPaths& paths,
                                       const CalibrationRequest& request, const std::string& program_version,
                                       const JobControl& control) {
  const auto started = Clock::now();
  QF_ASSIGN(const calibration::Text text, calibration::read_text(inputs.model, request.text));
  if (!request.save.empty()) QF_TRY(check_target(request.save, request.existing));
  CalibratedImportance out;
  out.tokens = text.tokens();
  state::Calibration pass;
  pass.parameters = {text.fingerprint, text.tokens(),
                     static_cast<std::uint32_t>(text.windows.window_tokens()), engine::kEngineVersion};
  pass.text_name = joined(text.names);
  pass.program_version = program_version;
  const std::string identity = fmt::format("{}-{}", text.fingerprint, engine::kEngineVersion);
  if (inputs.store) {
    out.path = statistics_path(paths.state, text.fingerprint, "imatrix.gguf");
    QF_ASSIGN(const bool known, is_known(*inputs.store, out.path, kImportanceKind, identity, control.cancel));
    // A copy in the other format needs the sums, which are there only after a pass.
    if (known && (request.save.empty() || importance_format(request.save) == ImportanceFormat::Gguf)) {
      out.known = true;
      if (!request.save.empty()) {
        QF_ASSIGN(const std::unique_ptr<MappedFile> file, MappedFile::open(out.path));
        QF_TRY(write_file_atomically(request.save, file->bytes(), request.existing));
      }
      return out;
    }
    if (request.only_known) return out;
    QF_TRY(inputs.store->save_calibration(pass));
  } else {
    const fs::path folder =
        request.run.scratch_folder.empty() ? fs::temp_directory_path() : request.run.scratch_folder;
    out.path = folder / fmt::format("quantfit-{}.imatrix.gguf", ::getpid());
    out.temporary = true;
  }

  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(inputs.model));
  calibration::PassOptions options;
  options.run = request.run;
  options.model_fingerprint = inputs.model_fingerprint;
  if (inputs.store) options.checkpoint = out.path.string() + ".pass";
  calibration::ImportanceCollector importance;
  std::vector<calibration::PassObserver*> observers = {&importance};
  std::optional<calibration::MomentsRecorder> moments;
  MomentsPlace place;
  if (request.with_moments) {
    QF_ASSIGN(place, place_of_moments(inputs, paths, text.fingerprint, request.run, control.cancel));
    if (!place.known) {
      QF_ASSIGN(const kernels::MathKernels* kernels, kernels::default_math_kernels());
      moments.emplace(
          *kernels, calibration::MomentsForm{},
          SecondMomentsIdentity{inputs.model_fingerprint, text.fingerprint, engine::kEngineVersion},
          static_cast<std::uint32_t>(engine.graph().layers.size()), place.path,
          inputs.store && engine.can_resume() ? fs::path(place.path.string() + ".pass") : fs::path());
      observers.push_back(&*moments);
    }
  }
  QF_ASSIGN(out.continued_at,
            calibration::run_pass(engine, text, options, observers, control.progress, control.cancel));
  const ImportanceData data = importance.take(text);
  if (moments) {
    QF_TRY(moments->commit());
    out.moments = place.path;
    if (inputs.store)
      QF_TRY(remember(*inputs.store, place.path, kMomentsKind, place.identity, control.cancel));
  }
  QF_TRY(write_importance(out.path, data, ImportanceFormat::Gguf));
  if (!request.save.empty())
    QF_TRY(write_importance(request.save, data, importance_format(request.save), request.existing));
  if (inputs.store) {
    QF_TRY(remember(*inputs.store, out.path, kImportanceKind, identity, control.cancel));
    pass.layers_finished = static_cast<std::uint32_t>(engine.graph().layers.size());
    pass.finished = now();
    QF_TRY(inputs.store->save_calibration(pass));
  }
  std::error_code ignored;
  if (!options.checkpoint.empty()) fs::remove(options.checkpoint, ignored);
  if (moments) moments->remove_parts();
  out.seconds = seconds_since(started);
  return out;
}

}  // namespace quantfit::optimizer

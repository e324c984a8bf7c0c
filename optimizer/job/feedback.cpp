#include "optimizer/job/feedback.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core/clock.h"
#include "optimizer/calibration/moments.h"
#include "optimizer/job/statistics_beside.h"
#include "optimizer/measurement/file_covariances.h"

namespace quantfit::optimizer {
namespace fs = std::filesystem;

Result<MomentsPlace> place_of_moments(const JobInputs& inputs, const JobPaths& paths,
                                      const std::string& text_fingerprint, const engine::RunOptions& run,
                                      const CancellationToken& cancel) {
  MomentsPlace out;
  out.identity = fmt::format("{}-{}", text_fingerprint, engine::kEngineVersion);
  if (inputs.store) {
    out.path = statistics_path(paths.state, text_fingerprint, "moments.gguf");
    QF_ASSIGN(out.known, is_known(*inputs.store, out.path, kMomentsKind, out.identity, cancel));
  } else {
    const fs::path folder = run.scratch_folder.empty() ? fs::temp_directory_path() : run.scratch_folder;
    out.path = folder / fmt::format("quantfit-{}.moments.gguf", ::getpid());
  }
  return out;
}

Result<bool> enough_for_moments(const Model& model, const MomentsRequest& request) {
  QF_ASSIGN(const calibration::Text text, calibration::read_text(model, request.text));
  QF_TRY(engine::Engine::open(model));
  const calibration::MomentsForm form;
  std::uint64_t widest = 0;
  for (const TensorInfo& tensor : model.tensors())
    if (tensor.significant_dims() > 1)
      widest = std::max<std::uint64_t>(
          widest, tensor.row_length() <= form.full_columns ? tensor.row_length() : form.block);
  return text.tokens() >= MomentsRequest::kRowsPerColumn * widest;
}

Result<engine::RunPlan> plan_moments(const Model& model, const MomentsRequest& request) {
  QF_ASSIGN(const calibration::Text text, calibration::read_text(model, request.text));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  QF_ASSIGN(engine::RunPlan plan, engine.plan(text.inputs(), request.run));
  // As if every tensor had an input of its own: tensors that share one are not told apart here.
  const calibration::MomentsForm form;
  std::uint64_t most = 0;
  for (const engine::LayerGraph& layer : engine.graph().layers) {
    std::uint64_t bytes = 0;
    for (const TensorInfo* tensor : layer.tensors) {
      if (tensor->significant_dims() < 2) continue;
      const std::uint64_t columns = tensor->row_length();
      const std::uint64_t numbers = columns * (columns <= form.full_columns ? columns : form.block);
      const std::uint64_t all = numbers * sizeof(float) * tensor->matrices();
      bytes += all > form.expert_bytes ? numbers * sizeof(float) : all;
      plan.multiply_adds += static_cast<double>(plan.tokens) * static_cast<double>(numbers) / 2;
    }
    most = std::max(most, bytes);
  }
  plan.memory.push_back({"second moments of a layer's inputs", most});
  plan.memory_bytes += most;
  return plan;
}

Result<MeasuredMoments> measure_moments(JobInputs& inputs, const JobPaths& paths,
                                        const MomentsRequest& request, const JobControl& control) {
  const auto started = Clock::now();
  QF_ASSIGN(const calibration::Text text, calibration::read_text(inputs.model, request.text));
  QF_ASSIGN(const MomentsPlace place,
            place_of_moments(inputs, paths, text.fingerprint, request.run, control.cancel));
  MeasuredMoments out;
  out.tokens = text.tokens();
  out.path = request.made.empty() ? place.path : request.made;
  out.temporary = !inputs.store;
  out.known = place.known || !request.made.empty();
  if (!out.known && request.only_known) return out;
  if (!out.known) {
    QF_ASSIGN(const engine::Engine engine, engine::Engine::open(inputs.model));
    calibration::MomentsOptions options;
    options.run = request.run;
    options.model_fingerprint = inputs.model_fingerprint;
    if (inputs.store) options.checkpoint = out.path.string() + ".pass";
    QF_ASSIGN(out.continued_at, calibration::collect_moments(engine, text, out.path, options,
                                                             control.progress, control.cancel));
    if (inputs.store) QF_TRY(remember(*inputs.store, out.path, kMomentsKind, place.identity, control.cancel));
  }
  QF_ASSIGN(SecondMomentsFile file, SecondMomentsFile::open(out.path));
  out.covariances = std::make_shared<FileCovariances>(std::move(file));
  std::error_code ignored;
  out.file_bytes = fs::file_size(out.path, ignored);
  out.seconds = seconds_since(started);
  return out;
}

}  // namespace quantfit::optimizer

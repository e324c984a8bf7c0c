#include "optimizer/job/feedback.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "optimizer/calibration/moments.h"
#include "optimizer/job/statistics_beside.h"
#include "optimizer/measurement/file_covariances.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kKind = "moments";

}  // namespace

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

Result<MeasuredMoments> measure_moments(JobInputs& inputs, const JobPaths& paths,
                                        const MomentsRequest& request, const JobControl& control) {
  const auto started = std::chrono::steady_clock::now();
  QF_ASSIGN(const calibration::Text text, calibration::read_text(inputs.model, request.text));
  const std::string identity = fmt::format("{}-{}", text.fingerprint, engine::kEngineVersion);
  MeasuredMoments out;
  out.tokens = text.tokens();
  if (inputs.store) {
    out.path = statistics_path(paths.state, text.fingerprint, "moments.gguf");
    QF_ASSIGN(out.known, is_known(*inputs.store, out.path, kKind, identity, control.cancel));
  } else {
    const fs::path folder =
        request.run.scratch_folder.empty() ? fs::temp_directory_path() : request.run.scratch_folder;
    out.path = folder / fmt::format("quantfit-{}.moments.gguf", ::getpid());
    out.temporary = true;
  }
  if (!out.known && request.only_known) return out;
  if (!out.known) {
    QF_ASSIGN(const engine::Engine engine, engine::Engine::open(inputs.model));
    calibration::MomentsOptions options;
    options.run = request.run;
    options.model_fingerprint = inputs.model_fingerprint;
    QF_TRY(calibration::collect_moments(engine, text, out.path, options, control.progress, control.cancel));
    if (inputs.store) QF_TRY(remember(*inputs.store, out.path, kKind, identity, control.cancel));
  }
  QF_ASSIGN(SecondMomentsFile file, SecondMomentsFile::open(out.path));
  out.covariances = std::make_shared<FileCovariances>(std::move(file));
  std::error_code ignored;
  out.file_bytes = fs::file_size(out.path, ignored);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return out;
}

}  // namespace quantfit::optimizer

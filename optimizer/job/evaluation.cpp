#include "optimizer/job/evaluation.h"

#include <algorithm>
#include <utility>

#include "core/clock.h"
#include "core/fingerprint.h"

namespace quantfit::optimizer {
namespace {

std::optional<double> predicted_of(const GgufMetadata& metadata) {
  if (metadata.string("quantfit.error_unit") != "nats" || metadata.string("quantfit.tuned.level"))
    return std::nullopt;
  return metadata.number("quantfit.predicted_error");
}

}  // namespace

Result<EvaluatedFiles> evaluate_files(const Model& base, std::span<const std::filesystem::path> candidates,
                                      const EvaluationRequest& request, const JobControl& control) {
  const auto started = Clock::now();
  QF_ASSIGN(const calibration::Text text, calibration::read_text(base, request.text));
  EvaluatedFiles out;
  out.base = base.shards()[0].path;
  out.base_fingerprint = fingerprint(base);
  for (const std::string& name : text.names) out.text += (out.text.empty() ? "" : ", ") + name;
  out.text_fingerprint = text.fingerprint;
  out.arithmetic = request.options.arithmetic;
  out.context = static_cast<std::uint32_t>(text.windows.window_tokens());

  std::vector<Model> models;
  models.reserve(candidates.size());
  for (const std::filesystem::path& path : candidates) {
    QF_ASSIGN(Model model, Model::open(path));
    models.push_back(std::move(model));
    EvaluatedFile file;
    file.path = path;
    file.fingerprint = fingerprint(models.back());
    for (const GgufShard& shard : models.back().shards()) file.file_bytes += shard.file_bytes;
    file.bpw = 8.0 * static_cast<double>(models.back().total_tensor_bytes()) /
               static_cast<double>(std::max<std::uint64_t>(models.back().total_elements(), 1));
    file.predicted = predicted_of(models.back().metadata());
    out.files.push_back(std::move(file));
  }
  std::vector<const Model*> pointers;
  pointers.reserve(models.size());
  for (const Model& model : models) pointers.push_back(&model);
  QF_ASSIGN(const calibration::EvaluationScores scores,
            calibration::evaluate(base, pointers, text, request.options, control.progress, control.cancel));

  out.chunks = scores.chunks;
  out.positions = scores.base.size();
  out.stopped_early = scores.chunks < text.windows.count();
  out.base_perplexity = calibration::perplexity(scores.base);
  for (std::size_t i = 0; i < out.files.size(); ++i)
    out.files[i].figures =
        calibration::divergence_figures(scores.base, scores.candidates[i], scores.chunk_positions);
  const auto best = std::ranges::min_element(
      out.files, {}, [](const EvaluatedFile& file) { return file.figures.divergence.value; });
  for (std::size_t i = 0; i < out.files.size(); ++i) {
    if (&out.files[i] == &*best) continue;
    out.files[i].against_best = calibration::compare(
        scores.candidates[i], scores.candidates[static_cast<std::size_t>(best - out.files.begin())],
        scores.chunk_positions);
  }
  out.seconds = seconds_since(started);
  return out;
}

Result<void> save_evaluations(const EvaluatedFiles& evaluated, const std::string& program_version,
                              state::StateStore& store) {
  const auto save = [&](const std::string& fingerprint, const std::string& name,
                        std::vector<state::Estimate> estimates) {
    state::Evaluation record;
    record.identity = {evaluated.base_fingerprint, fingerprint,      evaluated.text_fingerprint,
                       evaluated.context,          evaluated.chunks, engine::kEngineVersion};
    record.candidate_name = name;
    record.text_name = evaluated.text;
    record.program_version = program_version;
    std::ranges::sort(estimates);
    record.estimates = std::move(estimates);
    return store.save_evaluation(record);
  };
  const auto estimate = [](std::string quantity, const calibration::Estimate& value) {
    return state::Estimate{std::move(quantity), value.value, value.error};
  };
  QF_TRY(save(evaluated.base_fingerprint, evaluated.base.filename().string(),
              {estimate("perplexity", evaluated.base_perplexity)}));
  for (const EvaluatedFile& file : evaluated.files) {
    if (file.fingerprint == evaluated.base_fingerprint) continue;
    const calibration::DivergenceFigures& f = file.figures;
    std::vector<state::Estimate> estimates = {
        estimate("perplexity", f.perplexity),
        {"mean kl divergence", f.divergence.value, f.divergence_chunk_error},
        {"maximum kl divergence", f.divergence_max, std::nullopt},
        {"99 % quantile of kl divergence", f.divergence_quantiles[1], std::nullopt},
        {"median kl divergence", f.divergence_quantiles[4], std::nullopt},
        estimate("rms probability difference", f.probability_rms),
        estimate("same top token", f.same_top)};
    if (file.predicted) estimates.push_back({std::string(kPredictedQuantity), *file.predicted, std::nullopt});
    QF_TRY(save(file.fingerprint, file.path.filename().string(), std::move(estimates)));
  }
  return outcome::success();
}

}  // namespace quantfit::optimizer

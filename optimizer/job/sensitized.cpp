#include "optimizer/job/sensitized.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/clock.h"
#include "optimizer/calibration/sensitivity.h"
#include "optimizer/job/statistics_beside.h"
#include "optimizer/planning/fisher_sensitivity.h"

namespace quantfit::optimizer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kRowWeightsKind = "row weights";
constexpr std::uint64_t kTokensPerExpert = 100;

struct SpreadText {
  engine::TokenWindows windows;
  std::string fingerprint;  // of the text they were taken from
};

Result<SpreadText> spread_text(const Model& model, const SensitivityRequest& request) {
  QF_ASSIGN(const calibration::Text text, calibration::read_text(model, request.text));
  const std::uint64_t length = text.windows.window_tokens();
  const std::uint64_t tokens = tokens_for(model, request.tokens);
  const std::uint64_t count =
      std::min(std::max<std::uint64_t>((tokens + length - 1) / length, 2), text.windows.count());
  return SpreadText{text.spread(count), text.fingerprint};
}

state::SensitivityScope scope_of(const JobInputs& inputs, const JobRequest& job, const SpreadText& text) {
  state::SensitivityScope scope;
  scope.unit = state::SensitivityUnit::Nats;
  scope.method = kFisherMethod;
  scope.text_fingerprint = text.fingerprint;
  scope.importance_fingerprint = inputs.importance_fingerprint;
  scope.metric = metric_identity(job.sampler.error_model.to_text(), job.sampler.covariances);
  scope.program_version = job.program_version;
  scope.engine_version = engine::kEngineVersion;
  scope.tokens = text.windows.tokens.size();
  return scope;
}

}  // namespace

std::uint64_t tokens_for(const Model& model, std::uint64_t wanted) {
  if (wanted != 0) return wanted;
  const auto number = [&](std::string_view key) {
    const GgufKeyValue* value = model.arch_key(key);
    return value == nullptr ? 0 : value->as_uint().value_or(0);
  };
  const std::uint64_t experts = number("expert_count"), used = number("expert_used_count");
  if (experts == 0 || used == 0) return SensitivityRequest::kTokens;
  constexpr std::uint64_t kMost = 16 * SensitivityRequest::kTokens;
  return std::clamp(kTokensPerExpert * experts / used, SensitivityRequest::kTokens, kMost);
}

Result<engine::BackwardPlan> plan_sensitivities(const Model& model, const SensitivityRequest& request) {
  QF_ASSIGN(const SpreadText text, spread_text(model, request));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  calibration::SensitivityOptions options;
  options.run = request.run;
  return calibration::plan_sensitivity(engine, text.windows, options);
}

Result<MeasuredSensitivities> measure_sensitivities(JobInputs& inputs, const JobRequest& job,
                                                    const SensitivityRequest& request,
                                                    const JobControl& control) {
  const auto started = Clock::now();
  QF_ASSIGN(const SpreadText text, spread_text(inputs.model, request));
  const state::SensitivityScope scope = scope_of(inputs, job, text);
  MeasuredSensitivities out;
  out.tokens = text.windows.tokens.size();
  // The file depends on text and model alone; sets under another metric or importance matrix come from it.
  const std::string identity = fmt::format("{}-{}-{}", text.fingerprint, out.tokens, engine::kEngineVersion);
  std::optional<ModelStatistics> statistics;
  fs::path path;
  if (inputs.store) {
    path = statistics_path(job.paths.state, text.fingerprint, fmt::format("{}.gradients.gguf", out.tokens));
    QF_ASSIGN(const bool known, is_known(*inputs.store, path, kRowWeightsKind, identity, control.cancel));
    if (known) {
      QF_ASSIGN(statistics, read_statistics(path));
      out.known = statistics->engine_version == engine::kEngineVersion;
    }
  }
  if (!out.known && request.only_known) return out;
  if (!out.known) {
    QF_ASSIGN(const engine::Engine engine, engine::Engine::open(inputs.model));
    calibration::SensitivityOptions options;
    options.run = request.run;
    options.model_fingerprint = inputs.model_fingerprint;
    options.text_fingerprint = text.fingerprint;
    if (inputs.store) options.checkpoint = path.string() + ".pass";
    QF_ASSIGN(
        calibration::SensitivityReport report,
        calibration::collect_sensitivity(engine, text.windows, options, control.progress, control.cancel));
    out.first_layer = report.first_layer;
    statistics = std::move(report.statistics);
    if (inputs.store) {
      QF_TRY(write_statistics(path, *statistics));
      QF_TRY(remember(*inputs.store, path, kRowWeightsKind, identity, control.cancel));
    }
  }
  const std::vector<TensorSensitivity> priors = default_sensitivities(inputs.traits, inputs.model.tensors());
  state::SensitivitySet set = fisher_set(*statistics, inputs.model.tensors(), priors, scope);
  if (set.rows.empty())
    return fail(ErrorCode::Malformed,
                "{}: no gradient reached any matrix; its weights are damaged, or it predicts nothing",
                job.paths.model.string());
  if (inputs.store && !request.only_known) QF_TRY(inputs.store->save_sensitivity_set(set));
  inputs.measured_sets.push_back(std::move(set));
  out.seconds = seconds_since(started);
  return out;
}

}  // namespace quantfit::optimizer

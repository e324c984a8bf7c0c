#include "optimizer/measurement/measure.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <set>

#include "core/clock.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {

namespace {

// The formats of `wanted` that `known` does not hold.
std::vector<Format> missing_formats(std::span<const Format> wanted, const state::TensorMeasurement* known) {
  std::vector<Format> missing;
  for (const Format format : wanted) {
    const auto has = [&](const FormatMeasurement& error) { return error.format == format; };
    if (known == nullptr || std::ranges::none_of(known->errors, has)) missing.push_back(format);
  }
  return missing;
}

// What tells runs apart.
state::RunParameters run_parameters(const SamplerOptions& options,
                                    const std::string& importance_fingerprint) {
  state::RunParameters parameters;
  parameters.importance_fingerprint = importance_fingerprint;
  parameters.effort = kernels::to_string(options.effort);
  parameters.encoder_version = kernels::kEncoderVersion;
  parameters.sampling = options.sampling.to_text();
  parameters.metric = metric_identity(options.error_model.to_text(), options.covariances);
  return parameters;
}

// A run that several shards measured ends when the first program finds all of it.
Result<void> finish_if_open(state::StateStore& store, state::RunId id) {
  QF_ASSIGN(const auto runs, store.runs());
  for (const state::RunSummary& run : runs)
    if (run.id == id && run.finished.empty()) return store.finish_run(id);
  return outcome::success();
}

}  // namespace

Result<MeasureReport> measure_tensors(const Model& model, const ImportanceMatrix* importance,
                                      std::span<const SamplingTask> wanted, const SamplerOptions& options,
                                      const kernels::RowKernels& kernels, state::StateStore* store,
                                      const std::string& importance_fingerprint,
                                      const std::string& program_version, ProgressSink& progress,
                                      const CancellationToken& cancel, Shard shard) {
  const auto started = Clock::now();
  MeasureReport report;
  if (store != nullptr) {
    QF_ASSIGN(report.run, store->begin_run(run_parameters(options, importance_fingerprint), program_version));
    QF_ASSIGN(report.measurements, store->load_run(report.run));
  }

  std::set<const TensorInfo*> of_this_shard;
  for (const SamplingTask& task : tasks_of_shard({wanted.begin(), wanted.end()}, shard))
    of_this_shard.insert(task.tensor);
  std::vector<SamplingTask> tasks;
  for (const SamplingTask& all : wanted) {
    for (const Format format : all.formats)
      if (kernels.encode[static_cast<std::size_t>(format)] == nullptr)
        return fail(ErrorCode::Unsupported, "{} cannot be encoded", name_of(format));
    const auto known = report.measurements.find(all.tensor->name);
    SamplingTask task;
    task.tensor = all.tensor;
    task.formats =
        missing_formats(all.formats, known == report.measurements.end() ? nullptr : &known->second);
    if (task.formats.empty())
      ++report.tensors_known;
    else if (!of_this_shard.contains(all.tensor))
      ++report.tensors_of_others;
    else
      tasks.push_back(std::move(task));
  }
  if (tasks.empty()) {
    if (store != nullptr && report.tensors_of_others == 0) QF_TRY(finish_if_open(*store, report.run));
    return report;
  }

  // The largest first: what is left at the end is small, and no core waits for one huge tensor.
  std::ranges::stable_sort(tasks, std::greater<>(), [&](const SamplingTask& task) {
    return expected_weights(task, options.sampling);
  });

  const auto finished = [&](const SamplingTask& task, const SampledTensor& sampled) -> Result<void> {
    state::TensorMeasurement fresh;
    fresh.tensor = task.tensor->name;
    fresh.role = std::string(tensor_role(task.tensor->name));
    fresh.layer = layer_of(task.tensor->name);
    fresh.shape = *task.tensor;
    fresh.rows_sampled = sampled.rows_sampled;
    fresh.errors = sampled.errors;
    std::ranges::sort(fresh.errors, {}, &FormatMeasurement::format);
    if (store != nullptr) {
      QF_TRY(store->save_tensor(report.run, fresh));
      progress.saved(fresh.tensor);
    }
    ++report.tensors_sampled;
    state::TensorMeasurement& merged = report.measurements[fresh.tensor];
    if (merged.tensor.empty()) {
      merged = std::move(fresh);
    } else {
      merged.rows_sampled = std::max(merged.rows_sampled, fresh.rows_sampled);
      std::ranges::copy(fresh.errors, std::back_inserter(merged.errors));
      std::ranges::sort(merged.errors, {}, &FormatMeasurement::format);
    }
    return outcome::success();
  };
  QF_TRY(sample_tensors(model, importance, tasks, options, kernels, progress, cancel, finished));
  if (store != nullptr && report.tensors_of_others == 0) QF_TRY(store->finish_run(report.run));
  report.seconds = seconds_since(started);
  return report;
}

Result<MeasureReport> recall_tensors(std::span<const SamplingTask> wanted, const SamplerOptions& options,
                                     const state::StateStore& store,
                                     const std::string& importance_fingerprint) {
  MeasureReport report;
  QF_ASSIGN(const auto runs, store.runs());
  const auto run = std::ranges::find(runs, run_parameters(options, importance_fingerprint),
                                     &state::RunSummary::parameters);
  if (run != runs.end()) {
    report.run = run->id;
    QF_ASSIGN(report.measurements, store.load_run(run->id));
  }
  for (const SamplingTask& task : wanted) {
    const auto known = report.measurements.find(task.tensor->name);
    const bool whole =
        missing_formats(task.formats, known == report.measurements.end() ? nullptr : &known->second).empty();
    ++(whole ? report.tensors_known : report.tensors_missing);
  }
  return report;
}

}  // namespace quantfit::optimizer

// What is known about each tensor: from the state file where it was measured before,
// from the sampler otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "core/error.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/progress.h"
#include "optimizer/measurement/sampler.h"
#include "optimizer/measurement/shard.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

// What is known about each tensor, by name.
using Measurements = std::map<std::string, state::TensorMeasurement>;

struct MeasureReport {
  Measurements measurements;
  state::RunId run = 0;
  std::uint64_t tensors_sampled = 0;  // now; the others were known
  std::uint64_t tensors_known = 0;
  std::uint64_t tensors_of_others = 0;  // left to the other shards, and not known
  std::uint64_t tensors_missing = 0;    // not known, where nothing may be measured
  double seconds = 0;
};

// Measures what `store` does not know yet of `wanted` and stores each tensor as it is finished. Interrupted
// when cancelled: the store then holds what was finished. `store` may be null: nothing is remembered.
// Measures only the part `shard` of `wanted`; the report has what is known of all of it.
[[nodiscard]] Result<MeasureReport> measure_tensors(
    const Model& model, const ImportanceMatrix* importance, std::span<const SamplingTask> wanted,
    const SamplerOptions& options, const kernels::RowKernels& kernels, state::StateStore* store,
    const std::string& importance_fingerprint, const std::string& program_version, ProgressSink& progress,
    const CancellationToken& cancel, Shard shard = {});

// What `store` knows of `wanted`; it is only read. `run` is 0 where nothing was measured with these options.
[[nodiscard]] Result<MeasureReport> recall_tensors(std::span<const SamplingTask> wanted,
                                                   const SamplerOptions& options,
                                                   const state::StateStore& store,
                                                   const std::string& importance_fingerprint);

}  // namespace quantfit::optimizer

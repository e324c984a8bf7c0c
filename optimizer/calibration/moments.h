// Second moments of our own: E[x x^T] over a text of what enters every matrix of a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "core/second_moments_file.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/calibration/pass.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

struct MomentsForm {
  // Inputs of up to so many columns get a full matrix, wider ones diagonal blocks of `block` columns.
  std::uint32_t full_columns = 4096;
  std::uint32_t block = 256;
  // Experts (and heads) get a matrix each where those of a layer's input take up to so many bytes; else one
  // for all of them and diagonals of their own.
  std::uint64_t expert_bytes = std::uint64_t{256} << 20;
};

// Watches a forward pass and sums; hands out every input when its layer is finished. Inputs that several
// tensors read are summed once. Sums of products are in float, in blocks of 256 rows (kProductBlock) counted
// from the first row of the text, so they do not depend on threads nor, but for experts that share a matrix,
// on how the run cuts its batches.
class MomentsCollector final : public engine::ForwardObserver {
 public:
  // Means over the rows: sizes as SecondMomentsWriter::append takes them.
  using Sink = std::function<Result<void>(const SecondMomentsInput& input, std::span<const float> moments,
                                          std::span<const float> diagonals, std::span<const double> rows)>;

  MomentsCollector(const kernels::MathKernels& kernels, const MomentsForm& form, Sink sink);
  ~MomentsCollector() override;

  Result<void> begin_layer(std::uint32_t layer) override;
  Result<void> product(const engine::MatrixProduct& product) override;
  Result<void> end_layer(std::uint32_t layer) override;

 private:
  class Sums;
  struct Group;
  const kernels::MathKernels* kernels_;
  MomentsForm form_;
  Sink sink_;
  std::map<std::uint32_t, std::unique_ptr<Group>> groups_;  // of the layer at hand, by input group
};

// Writes what a MomentsCollector finds to one file. With `parts`, finished layers go to files of their own
// (PARTS.0, PARTS.1, ...) on the way, so that a pass can be continued to the same bytes.
class MomentsRecorder final : public PassObserver {
 public:
  // `layers`: of the model; the output matrix is one more. `parts` empty: no continuing.
  MomentsRecorder(const kernels::MathKernels& kernels, const MomentsForm& form,
                  SecondMomentsIdentity identity, std::uint32_t layers, std::filesystem::path path,
                  std::filesystem::path parts);

  [[nodiscard]] bool can_continue(const Checkpoint& checkpoint) const override;
  Result<void> begin_pass(const Checkpoint* checkpoint) override;
  Result<void> begin_layer(std::uint32_t layer) override;
  Result<void> product(const engine::MatrixProduct& product) override;
  Result<void> end_layer(std::uint32_t layer) override;

  // After the pass: the file appears, complete.
  [[nodiscard]] Result<void> commit();
  // Once the results are in safety: parts of layers `from` and above.
  void remove_parts(std::uint32_t from = 0) const;

 private:
  SecondMomentsIdentity identity_;
  std::uint32_t layers_;
  std::filesystem::path path_, parts_;
  std::uint32_t layer_ = 0;                    // at hand
  std::optional<SecondMomentsWriter> writer_;  // of the layer at hand, or of everything
  MomentsCollector collector_;
};

struct MomentsOptions : PassOptions {
  MomentsForm form = {};
};

// A pass for second moments alone, to `path`. At a time one layer's matrices are in memory, beside what the
// run plans for: columns^2 floats for each of its inputs. Parts lie beside the checkpoint; all are gone after
// a pass that ends well. Returns the layer at which this run began: above 0, it continued, to the same bytes.
// Errors of run_pass and of the file; Interrupted, which leaves no file but the checkpoint's.
[[nodiscard]] Result<std::uint32_t> collect_moments(const engine::Engine& engine, const Text& text,
                                                    const std::filesystem::path& path,
                                                    const MomentsOptions& options, ProgressSink& progress,
                                                    const CancellationToken& cancel);

}  // namespace quantfit::calibration

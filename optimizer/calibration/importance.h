// An importance matrix of our own: sums over a text of what enters every matrix of a model.
#pragma once

#include <cstdint>
#include <memory>

#include "core/error.h"
#include "core/importance_writer.h"
#include "core/progress.h"
#include "optimizer/calibration/pass.h"
#include "optimizer/calibration/text.h"
#include "optimizer/engine/forward.h"

namespace quantfit::calibration {

struct ImportanceReport {
  ImportanceData data;
  std::uint32_t first_layer = 0;  // where this run began: above 0, it continued
  std::uint64_t tokens = 0;
};

// Sums x_j and x_j^2 over all tokens of the text for every matrix that multiplies activations, experts and
// heads apart (imatrix conventions: every position counts; a row of an expert for every token that chose it).
// The output matrix is among them, under the name of the embedding where it is tied. Sums are in double, in
// the order of tokens: the same bits for any number of threads, any memory limit, and after any interruption.
class ImportanceCollector final : public PassObserver {
 public:
  ImportanceCollector();
  ~ImportanceCollector() override;

  [[nodiscard]] bool can_continue(const Checkpoint& checkpoint) const override;
  Result<void> begin_pass(const Checkpoint* checkpoint) override;
  [[nodiscard]] const FinishedSums* sums() const override { return &finished_; }
  Result<void> begin_layer(std::uint32_t layer) override;
  Result<void> product(const engine::MatrixProduct& product) override;
  Result<void> end_layer(std::uint32_t layer) override;

  // After the pass; leaves nothing behind.
  [[nodiscard]] ImportanceData take(const Text& text);

 private:
  struct Layer;
  FinishedSums finished_;
  std::unique_ptr<Layer> layer_;  // the one at hand
};

using ImportanceOptions = PassOptions;

// A pass for an importance matrix alone; the checkpoint is gone after one that ends well. Errors of run_pass.
[[nodiscard]] Result<ImportanceReport> collect_importance(const engine::Engine& engine, const Text& text,
                                                          const ImportanceOptions& options,
                                                          ProgressSink& progress,
                                                          const CancellationToken& cancel);

}  // namespace quantfit::calibration

#include "optimizer/calibration/importance.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "optimizer/calibration/checkpoint.h"

namespace quantfit::calibration {
namespace {

// Columns that one task sums: whole cache lines of doubles.
constexpr std::size_t kPieceColumns = 256;

// Sums over the rows that entered the matrices of one input group.
struct InputSums {
  std::vector<double> squares, sums;
  std::uint64_t rows = 0;

  // One addition per row and column, in the order of rows: batches may be cut anywhere.
  void add(kernels::MatrixView<const float> x) {
    squares.resize(x.columns);
    sums.resize(x.columns);
    rows += x.rows;
    tbb::parallel_for(std::size_t{0}, (x.columns + kPieceColumns - 1) / kPieceColumns, [&](std::size_t i) {
      const std::size_t first = i * kPieceColumns;
      const std::size_t end = std::min(first + kPieceColumns, x.columns);
      for (std::size_t t = 0; t < x.rows; ++t) {
        const float* row = x.row(t);
        for (std::size_t j = first; j < end; ++j) {
          const double value = row[j];
          sums[j] += value;
          squares[j] += value * value;
        }
      }
    });
  }
};

class Collector final : public engine::ForwardObserver {
 public:
  Collector(const ImportanceOptions& options, CheckpointIdentity identity,
            std::map<std::string, ImportanceSums, std::less<>> finished)
      : options_(&options),
        identity_(std::move(identity)),
        finished_(std::move(finished)),
        saved_(Clock::now()) {}

  Result<void> begin_layer(std::uint32_t layer) override {
    inputs_.clear();
    users_.clear();
    writer_.reset();
    const double waited = std::chrono::duration<double>(Clock::now() - saved_).count();
    if (options_->checkpoint.empty() || layer == 0 || waited < options_->checkpoint_seconds)
      return outcome::success();
    QF_ASSIGN(writer_, CheckpointWriter::create(options_->checkpoint, identity_, layer, finished_));
    return outcome::success();
  }

  Result<void> layer_input(std::uint32_t, std::uint64_t, kernels::MatrixView<const float> rows) override {
    if (!writer_) return outcome::success();
    QF_TRY(writer_->append(rows));
    if (writer_->complete()) {
      writer_.reset();
      saved_ = Clock::now();
    }
    return outcome::success();
  }

  Result<void> product(const engine::MatrixProduct& product) override {
    const Key key{product.input_group, product.index};
    const auto [user, is_new] = users_.try_emplace(product.matrix->tensor->name, User{product.matrix, {}});
    // Products of equal inputs are summed once, for the matrix that comes first.
    const auto [input, first_of_group] = inputs_.try_emplace(key, Input{product.matrix, {}});
    if (input->second.summed_for == product.matrix) input->second.sums.add(product.input);
    user->second.group = product.input_group;
    return outcome::success();
  }

  Result<void> end_layer(std::uint32_t) override {
    for (const auto& [name, user] : users_) {
      const std::size_t matrices = user.matrix->count;
      const std::size_t columns = user.matrix->columns;
      ImportanceSums& out = finished_[name];
      out.sum_squares.assign(matrices * columns, 0.0);
      out.sums.assign(matrices * columns, 0.0);
      out.counts.assign(matrices, 0);
      for (std::size_t e = 0; e < matrices; ++e) {
        const auto input = inputs_.find({user.group, static_cast<std::uint32_t>(e)});
        if (input == inputs_.end()) continue;
        const InputSums& sums = input->second.sums;
        std::ranges::copy(sums.squares, out.sum_squares.begin() + static_cast<std::ptrdiff_t>(e * columns));
        std::ranges::copy(sums.sums, out.sums.begin() + static_cast<std::ptrdiff_t>(e * columns));
        out.counts[e] = sums.rows;
      }
    }
    return outcome::success();
  }

  [[nodiscard]] std::map<std::string, ImportanceSums, std::less<>> take() { return std::move(finished_); }

 private:
  using Clock = std::chrono::steady_clock;
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // input group, expert or head
  struct Input {
    const engine::Matrix* summed_for;
    InputSums sums;
  };
  struct User {
    const engine::Matrix* matrix;
    std::uint32_t group = 0;
  };

  const ImportanceOptions* options_;
  CheckpointIdentity identity_;
  std::map<std::string, ImportanceSums, std::less<>> finished_;
  std::map<Key, Input> inputs_;                     // of the layer at hand
  std::map<std::string, User, std::less<>> users_;  // its tensors
  std::optional<CheckpointWriter> writer_;
  Clock::time_point saved_;
};

}  // namespace

Result<ImportanceReport> collect_importance(const engine::Engine& engine, const Text& text,
                                            const ImportanceOptions& options, ProgressSink& progress,
                                            const CancellationToken& cancel) {
  const CheckpointIdentity identity{options.model_fingerprint, text.fingerprint, text.tokens(),
                                    engine.graph().width, engine::kEngineVersion};
  std::optional<Checkpoint> checkpoint;
  if (!options.checkpoint.empty() && engine.can_resume())
    checkpoint = Checkpoint::open(options.checkpoint, identity);
  if (checkpoint && checkpoint->layer() > engine.graph().layers.size()) checkpoint.reset();

  ImportanceReport report;
  engine::Resume resume;
  if (checkpoint) {
    report.first_layer = resume.layer = checkpoint->layer();
    resume.layer_input = [&](std::uint64_t first, kernels::MatrixView<float> rows) {
      return checkpoint->layer_input(first, rows);
    };
  }
  ImportanceOptions own = options;
  if (!engine.can_resume()) own.checkpoint.clear();
  Collector collector(own, identity,
                      checkpoint ? checkpoint->sums() : std::map<std::string, ImportanceSums, std::less<>>{});
  QF_TRY(
      engine.run(text.inputs(), options.run, &collector, progress, cancel, checkpoint ? &resume : nullptr));
  report.data.tensors = collector.take();
  report.data.datasets = text.names;
  report.data.chunk_count = static_cast<std::uint32_t>(text.windows.count());
  report.data.chunk_size = static_cast<std::uint32_t>(text.windows.window_tokens());
  report.tokens = text.tokens();
  checkpoint.reset();
  std::error_code ignored;
  if (!options.checkpoint.empty()) std::filesystem::remove(options.checkpoint, ignored);
  return report;
}

}  // namespace quantfit::calibration

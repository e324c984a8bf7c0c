#include "optimizer/calibration/importance.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "optimizer/calibration/pieces.h"

namespace quantfit::calibration {
namespace {

// Sums over the rows that entered the matrices of one input group.
struct InputSums {
  std::vector<double> squares, sums;
  std::uint64_t rows = 0;

  // One addition per row and column, in the order of rows: batches may be cut anywhere.
  void add(kernels::MatrixView<const float> x) {
    squares.resize(x.columns);
    sums.resize(x.columns);
    rows += x.rows;
    for_pieces(x.columns, [&](std::size_t first, std::size_t end) {
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

}  // namespace

struct ImportanceCollector::Layer {
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // input group, expert or head
  struct Input {
    const engine::Matrix* summed_for;
    InputSums sums;
  };
  struct User {
    const engine::Matrix* matrix;
    std::uint32_t group = 0;
  };
  std::map<Key, Input> inputs;
  std::map<std::string, User, std::less<>> users;  // its tensors
};

ImportanceCollector::ImportanceCollector() : layer_(std::make_unique<Layer>()) {}
ImportanceCollector::~ImportanceCollector() = default;

bool ImportanceCollector::can_continue(const Checkpoint& checkpoint) const {
  return checkpoint.layer() == 0 || !checkpoint.sums().empty();
}

Result<void> ImportanceCollector::begin_pass(const Checkpoint* checkpoint) {
  finished_ = checkpoint == nullptr ? FinishedSums() : checkpoint->sums();
  return outcome::success();
}

Result<void> ImportanceCollector::begin_layer(std::uint32_t) {
  *layer_ = {};
  return outcome::success();
}

Result<void> ImportanceCollector::product(const engine::MatrixProduct& product) {
  const Layer::Key key{product.input_group, product.index};
  const auto [user, is_new] =
      layer_->users.try_emplace(product.matrix->tensor->name, Layer::User{product.matrix, 0});
  // Products of equal inputs are summed once, for the matrix that comes first.
  const auto [input, first_of_group] = layer_->inputs.try_emplace(key, Layer::Input{product.matrix, {}});
  if (input->second.summed_for == product.matrix) input->second.sums.add(product.input);
  user->second.group = product.input_group;
  return outcome::success();
}

Result<void> ImportanceCollector::end_layer(std::uint32_t) {
  for (const auto& [name, user] : layer_->users) {
    const std::size_t matrices = user.matrix->count;
    const std::size_t columns = user.matrix->columns;
    ImportanceSums& out = finished_[name];
    out.sum_squares.assign(matrices * columns, 0.0);
    out.sums.assign(matrices * columns, 0.0);
    out.counts.assign(matrices, 0);
    for (std::size_t e = 0; e < matrices; ++e) {
      const auto input = layer_->inputs.find({user.group, static_cast<std::uint32_t>(e)});
      if (input == layer_->inputs.end()) continue;
      const InputSums& sums = input->second.sums;
      std::ranges::copy(sums.squares, out.sum_squares.begin() + static_cast<std::ptrdiff_t>(e * columns));
      std::ranges::copy(sums.sums, out.sums.begin() + static_cast<std::ptrdiff_t>(e * columns));
      out.counts[e] = sums.rows;
    }
  }
  return outcome::success();
}

ImportanceData ImportanceCollector::take(const Text& text) {
  ImportanceData data;
  data.tensors = std::exchange(finished_, {});
  data.datasets = text.names;
  data.chunk_count = static_cast<std::uint32_t>(text.windows.count());
  data.chunk_size = static_cast<std::uint32_t>(text.windows.window_tokens());
  return data;
}

Result<ImportanceReport> collect_importance(const engine::Engine& engine, const Text& text,
                                            const ImportanceOptions& options, ProgressSink& progress,
                                            const CancellationToken& cancel) {
  ImportanceCollector collector;
  const std::array<PassObserver*, 1> observers = {&collector};
  ImportanceReport report;
  QF_ASSIGN(report.first_layer, run_pass(engine, text, options, observers, progress, cancel));
  report.data = collector.take(text);
  report.tokens = text.tokens();
  std::error_code ignored;
  if (!options.checkpoint.empty()) std::filesystem::remove(options.checkpoint, ignored);
  return report;
}

}  // namespace quantfit::calibration

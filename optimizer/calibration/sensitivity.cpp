#include "optimizer/calibration/sensitivity.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "kernels/row_kernels.h"
#include "optimizer/calibration/pieces.h"

namespace quantfit::calibration {
namespace {

using kernels::MatrixView;

constexpr std::string_view kCarried = "carried.";

// sums[j] += x_j^2, row by row in the order of tokens: batches may be cut anywhere.
void add_squares(MatrixView<const float> x, std::vector<double>& sums) {
  sums.resize(x.columns, 0.0);
  for_pieces(x.columns, [&](std::size_t first, std::size_t end) {
    for (std::size_t t = 0; t < x.rows; ++t) {
      const float* row = x.row(t);
      for (std::size_t j = first; j < end; ++j) {
        const double value = row[j];
        sums[j] += value * value;
      }
    }
  });
}

// Sums of squares per column and window, and over windows what mean and standard error need: S = sum_w S_w,
// sum_w S_w^2 and sum_w S_w n_w.
struct WindowedSquares {
  std::size_t window = 0;  // that is being added to
  std::vector<double> open, total, squares, cross;
  std::vector<double> by_window;  // 1/2 sum_j S_wj weight_j

  explicit WindowedSquares(std::size_t columns, std::size_t windows)
      : open(columns, 0.0), total(open), squares(open), cross(open), by_window(windows, 0.0) {}

  void close(double tokens, std::span<const float> weights) {
    double sum = 0;
    for (std::size_t j = 0; j < open.size(); ++j) {
      const double s = open[j];
      total[j] += s;
      squares[j] += s * s;
      cross[j] += s * tokens;
      if (!weights.empty()) sum += s * static_cast<double>(weights[j]);
      open[j] = 0;
    }
    by_window[window] += 0.5 * sum;
  }
};

// Where windows begin, in tokens of the text.
class Windows {
 public:
  explicit Windows(const engine::TokenWindows& windows) {
    for (const std::uint32_t length : windows.lengths) {
      begins_.push_back(tokens_);
      tokens_ += length;
      squares_ += static_cast<double>(length) * length;
    }
    begins_.push_back(tokens_);
  }
  [[nodiscard]] std::size_t count() const { return begins_.size() - 1; }
  [[nodiscard]] std::uint64_t end(std::size_t window) const { return begins_[window + 1]; }
  [[nodiscard]] double length(std::size_t window) const {
    return static_cast<double>(begins_[window + 1] - begins_[window]);
  }
  [[nodiscard]] std::size_t of(std::uint64_t token) const {
    return static_cast<std::size_t>(std::upper_bound(begins_.begin(), begins_.end(), token) -
                                    begins_.begin()) -
           1;
  }
  [[nodiscard]] double tokens() const { return static_cast<double>(tokens_); }

  // Standard error of S / N as a ratio of sums, windows as units.
  [[nodiscard]] double error_of(double total, double squares, double cross) const {
    const auto windows = static_cast<double>(count());
    if (count() < 2) return 0;
    const double mean = total / tokens();
    const double spread = squares - 2 * mean * cross + mean * mean * squares_;
    return std::sqrt(std::max(0.0, spread) * windows / (windows - 1)) / tokens();
  }

 private:
  std::vector<std::uint64_t> begins_;
  std::uint64_t tokens_ = 0;
  double squares_ = 0;  // sum of n_w^2
};

// What the forward pass tells of every matrix: E[y^2] and energies, for the tokens that each saw.
class ForwardCollector final : public engine::ForwardObserver {
 public:
  ForwardCollector(const engine::Engine& engine, const kernels::RowKernels& kernels,
                   std::map<std::string, MatrixStatistics, std::less<>>& out)
      : engine_(&engine), kernels_(&kernels), out_(&out) {}

  Result<void> begin_layer(std::uint32_t) override {
    inputs_.clear();
    users_.clear();
    return outcome::success();
  }
  Result<void> product(const engine::MatrixProduct& p) override {
    const Key key{p.input_group, p.index};
    const auto input = inputs_.try_emplace(key, Input{p.matrix, {}, 0}).first;
    // Inputs that several products share are summed once.
    if (input->second.summed_for == p.matrix) {
      add_squares(p.input, input->second.squares);
      input->second.rows += p.input.rows;
    }
    User& user = users_.try_emplace(p.matrix->tensor->name, User{p.matrix, p.input_group, {}}).first->second;
    if (p.output.rows != 0) {
      user.outputs.resize(p.matrix->count);
      add_squares(p.output, user.outputs[p.index]);
    }
    return outcome::success();
  }
  Result<void> end_layer(std::uint32_t) override {
    for (const auto& [name, of_tensor] : users_) {
      const User& user = of_tensor;
      const engine::Matrix& matrix = *user.matrix;
      MatrixStatistics& one = (*out_)[name];
      const std::size_t rows = matrix.rows, all = rows * matrix.count;
      one.rows = matrix.rows;
      one.matrices = matrix.count;
      one.gradient.assign(all, 0.0F);
      one.gradient_error.assign(all, 0.0F);
      one.energy.assign(all, 0.0F);
      one.tokens.assign(matrix.count, 0.0);
      if (!user.outputs.empty()) one.output.assign(all, 0.0F);
      for (std::uint32_t index = 0; index < matrix.count; ++index) {
        const auto input = inputs_.find({user.group, index});
        if (input == inputs_.end()) continue;
        const auto seen = static_cast<double>(input->second.rows);
        one.tokens[index] = seen;
        std::vector<double> mean(input->second.squares);
        for (double& value : mean) value /= seen;
        tbb::parallel_for(std::size_t{0}, rows, [&](std::size_t row) {
          std::vector<float> weights(matrix.columns);
          const TensorInfo& tensor = *matrix.tensor;
          kernels_->decode[static_cast<std::size_t>(tensor.format)](
              engine_->model().row(tensor, index * rows + row).data(), matrix.columns, weights.data());
          double energy = 0;
          for (std::size_t j = 0; j < weights.size(); ++j)
            energy += mean[j] * (static_cast<double>(weights[j]) * static_cast<double>(weights[j]));
          one.energy[index * rows + row] = static_cast<float>(energy);
          if (!user.outputs.empty() && !user.outputs[index].empty())
            one.output[index * rows + row] = static_cast<float>(user.outputs[index][row] / seen);
        });
      }
    }
    return outcome::success();
  }

 private:
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // input group, expert or head
  struct Input {
    const engine::Matrix* summed_for;
    std::vector<double> squares;
    std::uint64_t rows;
  };
  struct User {
    const engine::Matrix* matrix;
    std::uint32_t group;
    std::vector<std::vector<double>> outputs;  // sums of squares, per matrix of the tensor
  };
  const engine::Engine* engine_;
  const kernels::RowKernels* kernels_;
  std::map<std::string, MatrixStatistics, std::less<>>* out_;
  std::map<Key, Input> inputs_;
  std::map<std::string, User, std::less<>> users_;
};

class BackwardCollector final : public engine::BackwardObserver {
 public:
  BackwardCollector(const engine::Engine& engine, const kernels::RowKernels& kernels,
                    const engine::TokenWindows& windows, const SensitivityOptions& options,
                    std::map<std::string, MatrixStatistics, std::less<>>& forward, ModelStatistics& done)
      : engine_(&engine),
        kernels_(&kernels),
        windows_(windows),
        options_(&options),
        forward_(&forward),
        done_(&done),
        planes_(engine::carried_planes(engine.graph())),
        saved_(Clock::now()) {}

  Result<void> gradient(const engine::MatrixGradient& g) override {
    const Key key{g.matrix->tensor->name, g.index, g.first_row};
    const std::size_t columns = g.output_gradient.columns;
    auto& sums = sums_.try_emplace(key, columns, windows_.count()).first->second;
    const std::span<const float> energies = energies_of(key, columns, g.matrix->rows);
    add(sums, energies, g.first_token, g.tokens, g.output_gradient);
    return outcome::success();
  }

  Result<void> output_product(std::uint64_t, const engine::MatrixProduct& product) override {
    add_squares(product.output, logit_squares_);
    return outcome::success();
  }

  Result<void> lookup(const engine::LookupGradient& g) override {
    TableStatistics& table = done_->tables[g.tensor->name];
    if (table.columns == 0) {
      table.columns = static_cast<std::uint32_t>(g.tensor->ne[0]);
      table.rows = static_cast<std::uint32_t>(g.tensor->rows());
      table.gradient.assign(table.columns, 0.0F);
      table.gradient_error.assign(table.columns, 0.0F);
      table.row_gradient.assign(table.rows, 0.0);
      table.row_tokens.assign(table.rows, 0.0);
      table.nats_by_window.assign(windows_.count(), 0.0);
    }
    const std::size_t columns = g.gradient.columns;
    const Key key{g.tensor->name, 0, g.first_column};
    auto& sums = lookups_.try_emplace(key, columns, windows_.count()).first->second;
    add(sums, {}, g.first_token, {}, g.gradient);
    // Rows of the table one token at a time: what a change of a row does depends on its weights.
    std::vector<double> squared(g.tokens.size()), weights(g.tokens.size());
    tbb::parallel_for(std::size_t{0}, g.tokens.size(), [&](std::size_t t) {
      std::vector<float> row(table.columns);
      kernels_->decode[static_cast<std::size_t>(g.tensor->format)](
          engine_->model().row(*g.tensor, static_cast<std::uint64_t>(g.tokens[t])).data(), row.size(),
          row.data());
      for (std::size_t j = 0; j < columns; ++j) {
        const double gradient = g.gradient.row(t)[j], weight = row[g.first_column + j];
        squared[t] += gradient * gradient;
        weights[t] += weight * weight / static_cast<double>(columns);
      }
    });
    for (std::size_t t = 0; t < g.tokens.size(); ++t) {
      const auto token = static_cast<std::size_t>(g.tokens[t]);
      table.row_gradient[token] += squared[t] / windows_.tokens();
      if (g.first_column == 0) table.row_tokens[token] += 1;
      const std::size_t window = windows_.of(g.first_token + t);
      table.nats_by_window[window] += 0.5 * squared[t] * weights[t] / windows_.length(window);
    }
    return outcome::success();
  }

  Result<void> choices(std::uint32_t, std::uint64_t, std::span<const double> costs) override {
    for (const double cost : costs) choices_ += cost;
    return outcome::success();
  }

  Result<void> end_layer(std::uint32_t layer) override {
    constexpr double kNormal = 0.3989422804014327;  // 1 / sqrt(2 pi)
    done_->choice_cost += kNormal * choices_ / windows_.tokens();
    choices_ = 0;
    for (auto& [key, sums] : sums_) {
      const auto& [name, index, first_row] = key;
      MatrixStatistics& one = statistics_of(name);
      const std::size_t at = std::size_t{index} * one.rows + first_row;
      close_all(sums, std::span(one.energy).subspan(at, sums.open.size()));
      for (std::size_t j = 0; j < sums.open.size(); ++j) {
        one.gradient[at + j] = static_cast<float>(sums.total[j] / windows_.tokens());
        one.gradient_error[at + j] =
            static_cast<float>(windows_.error_of(sums.total[j], sums.squares[j], sums.cross[j]));
      }
      for (std::size_t w = 0; w < windows_.count(); ++w)
        one.nats_by_window[w] += sums.by_window[w] / windows_.length(w);
    }
    sums_.clear();
    for (auto& [key, sums] : lookups_) {
      const auto& [name, index, first_column] = key;
      TableStatistics& table = done_->tables[name];
      close_all(sums, {});
      for (std::size_t j = 0; j < sums.open.size(); ++j) {
        table.gradient[first_column + j] = static_cast<float>(sums.total[j] / windows_.tokens());
        table.gradient_error[first_column + j] =
            static_cast<float>(windows_.error_of(sums.total[j], sums.squares[j], sums.cross[j]));
      }
    }
    lookups_.clear();
    if (layer == engine_->graph().layers.size()) {
      MatrixStatistics& output = statistics_of(engine_->graph().output.tensor->name);
      output.output.resize(logit_squares_.size());
      for (std::size_t j = 0; j < logit_squares_.size(); ++j)
        output.output[j] = static_cast<float>(logit_squares_[j] / windows_.tokens());
      logit_squares_.clear();
    }
    return outcome::success();
  }

  [[nodiscard]] bool wants_carried(std::uint32_t layer) const override {
    return !options_->checkpoint.empty() && layer != 0 &&
           seconds_since(saved_) >= options_->checkpoint_seconds;
  }
  Result<void> carried(std::uint32_t layer, std::uint32_t plane, std::uint64_t first_token,
                       MatrixView<const float> rows) override {
    if (plane == 0 && first_token == 0) {
      std::vector<TensorInfo> extra;
      for (std::size_t i = 0; i < planes_.size(); ++i) {
        TensorInfo info;
        info.name = fmt::format("{}{}", kCarried, i);
        info.n_dims = 2;
        info.ne = {planes_[i], static_cast<std::uint64_t>(windows_.tokens()), 1, 1};
        extra.push_back(std::move(info));
      }
      const GgufKeyValue key = GgufKeyValue::of_uint32("checkpoint.layer", layer);
      QF_ASSIGN(StatisticsWriter writer,
                StatisticsWriter::create(options_->checkpoint, *done_, std::span(&key, 1), extra));
      writer_.emplace(std::move(writer));
    }
    for (std::size_t t = 0; t < rows.rows; ++t)
      QF_TRY(writer_->append(std::as_bytes(std::span(rows.row(t), rows.columns))));
    if (plane + 1 == planes_.size() &&
        first_token + rows.rows == static_cast<std::uint64_t>(windows_.tokens())) {
      QF_TRY(writer_->commit());
      writer_.reset();
      saved_ = Clock::now();
    }
    return outcome::success();
  }

 private:
  using Key =
      std::tuple<std::string, std::uint32_t, std::uint32_t>;  // tensor, matrix of it, first row or column

  // The finished figures of a tensor; what the forward pass found is taken over when its first gradient
  // comes.
  MatrixStatistics& statistics_of(const std::string& name) {
    const auto [one, is_new] = done_->matrices.try_emplace(name);
    if (is_new) {
      if (const auto forward = forward_->find(name); forward != forward_->end()) {
        one->second = std::move(forward->second);
        forward_->erase(forward);
      }
      one->second.nats_by_window.assign(windows_.count(), 0.0);
    }
    return one->second;
  }
  std::span<const float> energies_of(const Key& key, std::size_t columns, std::size_t rows) {
    const auto& [name, index, first_row] = key;
    return std::span(statistics_of(name).energy).subspan(std::size_t{index} * rows + first_row, columns);
  }

  // Adds rows to the windows that their tokens are in.
  void add(WindowedSquares& sums, std::span<const float> energies, std::uint64_t first_token,
           std::span<const std::uint32_t> tokens, MatrixView<const float> rows) {
    const auto token_of = [&](std::size_t r) { return first_token + (tokens.empty() ? r : tokens[r]); };
    for (std::size_t r = 0; r < rows.rows;) {
      const std::size_t window = windows_.of(token_of(r));
      while (sums.window < window) {
        sums.close(windows_.length(sums.window), energies);
        ++sums.window;
      }
      std::size_t end = r + 1;
      while (end < rows.rows && token_of(end) < windows_.end(window)) ++end;
      add_squares({rows.row(r), end - r, rows.columns, rows.stride}, sums.open);
      r = end;
    }
  }
  void close_all(WindowedSquares& sums, std::span<const float> energies) {
    for (; sums.window < windows_.count(); ++sums.window) sums.close(windows_.length(sums.window), energies);
  }

  const engine::Engine* engine_;
  const kernels::RowKernels* kernels_;
  Windows windows_;
  const SensitivityOptions* options_;
  std::map<std::string, MatrixStatistics, std::less<>>* forward_;
  ModelStatistics* done_;
  std::vector<std::size_t> planes_;
  std::map<Key, WindowedSquares> sums_, lookups_;  // of the layer at hand
  std::vector<double> logit_squares_;
  double choices_ = 0;  // of the layer at hand
  std::optional<StatisticsWriter> writer_;
  Clock::time_point saved_;
};

// Memory of the sums: four floats for every row of every matrix, six doubles for those of one layer.
std::uint64_t sums_bytes(const engine::ModelGraph& graph) {
  std::uint64_t kept = 0, open = 0;
  for (const engine::LayerGraph& layer : graph.layers) {
    std::uint64_t rows = 0;
    for (const TensorInfo* tensor : layer.tensors)
      if (tensor->significant_dims() > 1) rows += tensor->rows();
    kept += rows * 4 * sizeof(float);
    open = std::max(open, rows * 6 * sizeof(double));
  }
  kept += std::uint64_t{graph.vocabulary} * (4 * sizeof(float) + 2 * sizeof(double));
  open = std::max<std::uint64_t>(open, std::uint64_t{graph.vocabulary} * 6 * sizeof(double));
  return kept + open;
}

// What of the limit is left for the pass; 0: no limit.
std::uint64_t limit_of_pass(const SensitivityOptions& options, std::uint64_t sums) {
  const std::uint64_t limit = options.run.memory_limit;
  return limit == 0 ? 0 : limit - std::min(limit - 1, sums);
}

// Models without experts have no choices: their figures do not depend on the option.
float choice_error_of(const engine::Engine& engine, const SensitivityOptions& options) {
  const bool experts = std::ranges::any_of(engine.graph().layers, [](const engine::LayerGraph& layer) {
    return static_cast<bool>(layer.experts);
  });
  return experts ? options.choice_error : 0.0F;
}

// A checkpoint of the same work, or nothing.
struct BackwardCheckpoint {
  Model file;
  ModelStatistics statistics;
  std::uint32_t layer = 0;
  std::vector<const TensorInfo*> planes = {};
};
std::optional<BackwardCheckpoint> open_checkpoint(const std::filesystem::path& path,
                                                  const engine::Engine& engine,
                                                  const ModelStatistics& identity) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  auto file = Model::open(path);
  if (!file) return std::nullopt;
  auto statistics = read_statistics(file.value());
  const auto layer = file.value().metadata().uint("checkpoint.layer");
  if (!statistics || !layer || *layer > engine.graph().layers.size()) return std::nullopt;
  ModelStatistics found = statistics.value();
  found.matrices.clear();
  found.tables.clear();
  found.choice_cost = 0;
  if (!(found == identity)) return std::nullopt;
  BackwardCheckpoint out{std::move(file).value(), std::move(statistics).value(),
                         static_cast<std::uint32_t>(*layer)};
  const std::vector<std::size_t> widths = engine::carried_planes(engine.graph());
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const TensorInfo* plane = out.file.find(fmt::format("{}{}", kCarried, i));
    if (plane == nullptr || plane->format != Format::F32 || plane->ne[0] != widths[i] ||
        plane->rows() != identity.tokens())
      return std::nullopt;
    out.planes.push_back(plane);
  }
  // Tensors must have the shapes that the model gives them; a checkpoint of the same fingerprint has.
  for (const auto& [name, one] : out.statistics.matrices) {
    const TensorInfo* tensor = engine.model().find(name);
    if (tensor == nullptr || tensor->rows() != std::uint64_t{one.rows} * one.matrices) return std::nullopt;
  }
  for (const auto& [name, one] : out.statistics.tables) {
    const TensorInfo* tensor = engine.model().find(name);
    if (tensor == nullptr || tensor->rows() != one.rows || tensor->ne[0] != one.columns) return std::nullopt;
  }
  return out;
}

}  // namespace

Result<SensitivityReport> collect_sensitivity(const engine::Engine& engine,
                                              const engine::TokenWindows& windows,
                                              const SensitivityOptions& options, ProgressSink& progress,
                                              const CancellationToken& cancel) {
  QF_ASSIGN(const kernels::RowKernels* kernels, kernels::default_kernels());
  SensitivityReport report;
  ModelStatistics& statistics = report.statistics;
  statistics.model_fingerprint = options.model_fingerprint;
  statistics.text_fingerprint = options.text_fingerprint;
  statistics.seed = options.seed;
  statistics.choice_error = choice_error_of(engine, options);
  statistics.engine_version = engine::kEngineVersion;
  statistics.window_tokens = windows.lengths;
  std::optional<BackwardCheckpoint> checkpoint = open_checkpoint(options.checkpoint, engine, statistics);
  engine::BackwardResume resume;
  report.first_layer = static_cast<std::uint32_t>(engine.graph().layers.size()) + 1;
  if (checkpoint) {
    report.first_layer = resume.layer = checkpoint->layer;
    statistics = std::move(checkpoint->statistics);
    resume.carried = [&](std::uint32_t plane, std::uint64_t first, MatrixView<float> rows) -> Result<void> {
      for (std::size_t t = 0; t < rows.rows; ++t) {
        const auto row = checkpoint->file.row(*checkpoint->planes[plane], first + t);
        std::memcpy(rows.row(t), row.data(), row.size());
      }
      return outcome::success();
    };
  }
  std::map<std::string, MatrixStatistics, std::less<>> forward;
  ForwardCollector forward_collector(engine, *kernels, forward);
  BackwardCollector collector(engine, *kernels, windows, options, forward, statistics);
  engine::RunOptions run = options.run;
  run.memory_limit = limit_of_pass(options, sums_bytes(engine.graph()));
  QF_TRY(engine::BackwardPass(engine).run(
      windows, {.run = run, .seed = options.seed, .choice_error = statistics.choice_error},
      &forward_collector, collector, progress, cancel, checkpoint ? &resume : nullptr));
  checkpoint.reset();
  std::error_code ignored;
  if (!options.checkpoint.empty()) std::filesystem::remove(options.checkpoint, ignored);
  return report;
}

Result<engine::BackwardPlan> plan_sensitivity(const engine::Engine& engine,
                                              const engine::TokenWindows& windows,
                                              const SensitivityOptions& options) {
  engine::BackwardOptions pass{.run = options.run, .seed = options.seed};
  const std::uint64_t sums = sums_bytes(engine.graph());
  pass.run.memory_limit = limit_of_pass(options, sums);
  QF_ASSIGN(engine::BackwardPlan plan, engine::BackwardPass(engine).plan(windows, pass));
  plan.memory.push_back({"sums over tokens of every row", sums});
  plan.memory_bytes += sums;
  return plan;
}

}  // namespace quantfit::calibration

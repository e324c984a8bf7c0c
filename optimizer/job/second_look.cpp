#include "optimizer/job/second_look.h"

#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "core/out_of_memory.h"
#include "kernels/math/math_kernels.h"
#include "optimizer/engine/backward.h"
#include "optimizer/job/solve.h"
#include "optimizer/job/temporary_files.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/tuning/teacher.h"

namespace quantfit::optimizer {
namespace {

// A tile of a matrix of gradients.
constexpr std::size_t kTileRows = 128;
constexpr std::size_t kTileColumns = kernels::kProductBlock;
// Of what the first gradients say, so that a share that is small by chance does not take all bits away.
constexpr double kLeastShare = 0.1;

class ShareCollector final : public engine::BackwardObserver {
 public:
  ShareCollector(const Model& original, const Model& quantized, const kernels::MathKernels& math,
                 const kernels::RowKernels& rows, std::uint64_t window_tokens)
      : original_(original), quantized_(quantized), math_(math), rows_(rows), window_tokens_(window_tokens) {}

  Result<void> gradient(const engine::MatrixGradient& g) override {
    const TensorInfo* original = original_.find(g.matrix->tensor->name);
    if (original == nullptr || original->format == g.matrix->tensor->format) return outcome::success();
    const std::size_t outputs = g.output_gradient.columns, columns = g.matrix->columns;
    const std::size_t first_row = std::size_t{g.index} * g.matrix->rows + g.first_row;
    const std::size_t tiles = (outputs + kTileRows - 1) / kTileRows;
    std::vector<double> shares(tiles);
    tbb::parallel_for(std::size_t{0}, tiles, [&](std::size_t tile) {
      const std::size_t row = tile * kTileRows, rows = std::min(kTileRows, outputs - row);
      Scratch& scratch = scratch_.local();
      scratch.products.resize(kernels::product_scratch(0, kernels::kProductColumns));
      scratch.outer.resize(kTileRows * kTileColumns);
      scratch.errors.resize(kTileRows * columns);
      for (std::size_t r = 0; r < rows; ++r)
        error_of(*original, *g.matrix->tensor, first_row + row + r, scratch.decoded,
                 scratch.errors.data() + r * columns);
      for (std::size_t column = 0; column < columns; column += kTileColumns) {
        const std::size_t width = std::min(kTileColumns, columns - column);
        for (std::size_t begin = 0; begin < g.input.rows;) {
          const std::size_t count = rows_of_window(g, begin);
          std::fill_n(scratch.outer.data(), rows * width, 0.0F);
          math_.add_outer_products(
              {g.output_gradient.row(begin) + row, count, rows, g.output_gradient.stride},
              {g.input.row(begin) + column, count, width, g.input.stride},
              {scratch.outer.data(), rows, width, width}, scratch.products.data());
          for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t i = 0; i < width; ++i)
              shares[tile] +=
                  double{scratch.outer[r * width + i]} * double{scratch.errors[r * columns + column + i]};
          begin += count;
        }
      }
    });
    sums_[original->name] += std::accumulate(shares.begin(), shares.end(), 0.0);
    return outcome::success();
  }

  Result<void> lookup(const engine::LookupGradient& g) override {
    const TensorInfo* original = original_.find(g.tensor->name);
    if (original == nullptr || original->format == g.tensor->format) return outcome::success();
    std::vector<double> shares(g.tokens.size());
    tbb::parallel_for(std::size_t{0}, g.tokens.size(), [&](std::size_t t) {
      Scratch& scratch = scratch_.local();
      scratch.errors.resize(std::max<std::size_t>(scratch.errors.size(), g.tensor->ne[0]));
      error_of(*original, *g.tensor, static_cast<std::uint64_t>(g.tokens[t]), scratch.decoded,
               scratch.errors.data());
      for (std::size_t i = 0; i < g.gradient.columns; ++i)
        shares[t] += double{g.gradient.row(t)[i]} * double{scratch.errors[g.first_column + i]};
    });
    sums_[original->name] += std::accumulate(shares.begin(), shares.end(), 0.0);
    return outcome::success();
  }

  // Over all tokens.
  [[nodiscard]] const std::map<std::string, double>& sums() const { return sums_; }

 private:
  struct Scratch {
    std::vector<float> products, outer, errors, decoded;
  };

  // Rows from `begin` on that are of the same window.
  [[nodiscard]] std::size_t rows_of_window(const engine::MatrixGradient& g, std::size_t begin) const {
    const auto window = [&](std::size_t row) {
      return (g.first_token + (g.tokens.empty() ? row : g.tokens[row])) / window_tokens_;
    };
    std::size_t end = begin + 1;
    while (end < g.input.rows && window(end) == window(begin)) ++end;
    return end - begin;
  }

  void error_of(const TensorInfo& original, const TensorInfo& quantized, std::uint64_t row,
                std::vector<float>& decoded, float* out) const {
    const std::size_t columns = original.ne[0];
    decoded.resize(columns);
    rows_.decode[static_cast<std::size_t>(original.format)](original_.row(original, row).data(), columns,
                                                            decoded.data());
    rows_.decode[static_cast<std::size_t>(quantized.format)](quantized_.row(quantized, row).data(), columns,
                                                             out);
    for (std::size_t j = 0; j < columns; ++j) out[j] -= decoded[j];
  }

  const Model& original_;
  const Model& quantized_;
  const kernels::MathKernels& math_;
  const kernels::RowKernels& rows_;
  std::uint64_t window_tokens_;
  std::map<std::string, double> sums_;
  tbb::enumerable_thread_specific<Scratch> scratch_;
};

}  // namespace

Result<std::map<std::string, double>> shares_of_divergence(const Model& original, const Model& quantized,
                                                           const engine::TokenWindows& windows,
                                                           const engine::RunOptions& run,
                                                           const kernels::RowKernels& kernels,
                                                           const JobControl& control) {
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  QF_ASSIGN(const engine::Engine base, engine::Engine::open(original));
  QF_ASSIGN(const engine::Engine student, engine::Engine::open(quantized));
  QF_ASSIGN(const tuning::Teacher teacher,
            tuning::Teacher::run(base, windows, run, false, control.progress, control.cancel));
  tuning::WindowList list(windows.lengths.size());
  std::iota(list.begin(), list.end(), 0U);
  tuning::DivergenceLoss loss(*math, teacher, list);
  ShareCollector collector(original, quantized, *math, kernels, teacher.window_tokens());
  const engine::BackwardOptions backward{.run = run, .loss = &loss};
  QF_TRY(engine::BackwardPass(student).run(windows, backward, nullptr, collector, control.progress,
                                           control.cancel));
  std::map<std::string, double> shares = collector.sums();
  for (auto& [name, share] : shares) share *= 0.5 / static_cast<double>(windows.tokens.size());
  return shares;
}

Result<std::vector<double>> look_again(const JobInputs& inputs, const PreparedJob& job,
                                       const JobRequest& request, const Recipe& recipe,
                                       const SecondLookRequest& look, const kernels::RowKernels& kernels,
                                       const JobControl& control) {
  return or_out_of_memory("looking at a recipe again", [&]() -> Result<std::vector<double>> {
    QF_ASSIGN(const calibration::Text text, calibration::read_text(inputs.model, look.text));
    const std::uint64_t length = text.windows.window_tokens();
    const std::uint64_t count = std::clamp<std::uint64_t>((SecondLookRequest::kTokens + length - 1) / length,
                                                          1, text.windows.count());
    TemporaryFiles files(look.folder, "second-look");
    WriterOptions writer = writer_options(inputs, request);
    writer.existing = Existing::Replace;
    writer.split = {};
    QF_TRY(write_model(inputs.model, inputs.importance_or_null(), recipe, files.add(), writer, kernels,
                       control.progress, control.cancel));
    QF_ASSIGN(const Model quantized, Model::open(files.paths().back()));
    QF_ASSIGN(const auto shares,
              shares_of_divergence(inputs.model, quantized, text.spread(count), look.run, kernels, control));
    std::vector<double> sensitivity = job.sensitivity;
    for (std::size_t i = 0; i < sensitivity.size(); ++i) {
      const auto share = shares.find(job.candidates[i].tensor->name);
      const auto error = nmse_of(job.candidates[i], recipe.entries[i].format, job.measured.measurements);
      if (share == shares.end() || !error || !(*error > 0)) continue;
      sensitivity[i] = std::max(share->second / *error, kLeastShare * sensitivity[i]);
    }
    return sensitivity;
  });
}

}  // namespace quantfit::optimizer

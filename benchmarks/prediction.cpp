// prediction: how well divergences are foreseen. `prediction MODEL TEXT --importance FILE --format IQ2_S`
// encodes every matrix of a small model alone, measures the KL divergence of the whole model from the
// original on the text, and prints it beside what gradients of the same text foresee:
//
//   scalar    N F: the tensor's error relative to its weighted energy, times 1/2 sum_i G_i E_i
//   rows      1/2 sum_i G_i D_i: the rows' true errors at their outputs
//   energy    N 1/2 sum_ij H_ij w_ij^2, H the mean over windows of the squared gradient of each weight: what
//             adds up between tokens is seen, what adds up between columns and rows is not
//   coherent  1/2 sum_ij H_ij e_ij^2
//   windows   1/2 mean over windows of (sum_t g_t . d_t)^2: all that is of second order, one sample a window
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/gguf_writer.h"
#include "core/importance_matrix.h"
#include "core/model.h"
#include "core/tokenizer/token_windows.h"
#include "core/tokenizer/tokenizer.h"
#include "kernels/row_quantizer.h"
#include "optimizer/engine/backward.h"

namespace {

using namespace quantfit;
using kernels::MatrixView;

struct Settings {
  std::string model, text, importance, folder = "build/prediction";
  std::string format = "IQ2_S";
  std::uint32_t window = 256;
  std::size_t windows = 16;
  unsigned threads = 2;
  float kappa = 5;
  float choice_error = 0;
  bool only_together = false;
  std::uint64_t seed = 1;
};

// One matrix encoded alone.
struct Encoded {
  const TensorInfo* tensor = nullptr;
  std::vector<float> error;    // decoded - original
  std::vector<float> weights;  // original
  // Sums over tokens, or windows.
  std::vector<double> gradients, errors;  // per row
  std::vector<double> inputs, seen;       // per matrix of the tensor and column; tokens per matrix
  double coherent = 0, coherent_energy = 0, whole = 0;
  double measured = 0;
};

Result<Encoded> encode(const Model& model, const TensorInfo& tensor, Format format,
                       const ImportanceMatrix& importance, float kappa) {
  QF_ASSIGN(const kernels::RowKernels* kernels, kernels::default_kernels());
  QF_ASSIGN(const auto statistics, importance.statistics(tensor));
  Encoded out;
  out.tensor = &tensor;
  const std::size_t columns = tensor.ne[0];
  QF_ASSIGN(const std::uint64_t bytes, row_bytes(format, columns));
  std::vector<std::byte> row(bytes);
  kernels::RowQuantizer quantizer(*kernels, columns);
  for (std::uint64_t matrix = 0; matrix < tensor.matrices(); ++matrix) {
    const ColumnStatistics none;
    const ColumnStatistics& one = statistics ? (*statistics)[matrix] : none;
    const kernels::ColumnMetric metric(columns, one.mean_square, one.mean, kappa);
    for (std::uint64_t i = matrix * tensor.ne[1]; i < (matrix + 1) * tensor.ne[1]; ++i) {
      QF_TRY(quantizer.load(tensor.format, model.row(tensor, i), metric));
      quantizer.encode(format, kernels::Effort::Default, row.data());
      std::vector<float> original(columns), decoded(columns);
      kernels->decode[static_cast<std::size_t>(tensor.format)](model.row(tensor, i).data(), columns,
                                                               original.data());
      kernels->decode[static_cast<std::size_t>(format)](row.data(), columns, decoded.data());
      for (std::size_t j = 0; j < columns; ++j) out.error.push_back(decoded[j] - original[j]);
      out.weights.insert(out.weights.end(), original.begin(), original.end());
    }
  }
  return out;
}

class Foresee final : public engine::BackwardObserver {
 public:
  Foresee(const kernels::MathKernels& kernels, const kernels::RowKernels& rows, std::uint32_t window,
          std::map<std::string, Encoded>& all)
      : kernels_(&kernels), rows_(&rows), window_(window), all_(&all) {}

  Result<void> gradient(const engine::MatrixGradient& g) override {
    const auto found = all_->find(g.matrix->tensor->name);
    if (found == all_->end()) return outcome::success();
    Encoded& one = found->second;
    const std::size_t outputs = g.output_gradient.columns, columns = g.matrix->columns;
    const std::size_t first = std::size_t{g.index} * g.matrix->rows + g.first_row;
    one.gradients.resize(one.tensor->rows());
    one.errors.resize(one.tensor->rows());
    one.inputs.resize(columns * one.tensor->matrices());
    one.seen.resize(one.tensor->matrices());
    one.seen[g.index] += static_cast<double>(g.input.rows);
    const auto token_of = [&](std::size_t r) { return g.first_token + (g.tokens.empty() ? r : g.tokens[r]); };
    for (std::size_t begin = 0; begin < g.input.rows;) {
      std::size_t end = begin;
      while (end < g.input.rows && token_of(end) / window_ == token_of(begin) / window_) ++end;
      const std::size_t n = end - begin;
      const MatrixView<const float> x{g.input.row(begin), n, columns, g.input.stride};
      const MatrixView<const float> dy{g.output_gradient.row(begin), n, outputs, g.output_gradient.stride};
      // Errors at the outputs.
      kernels::WeightRows e;
      e.data = reinterpret_cast<const std::byte*>(one.error.data() + first * columns);
      e.rows = outputs;
      e.columns = columns;
      e.row_bytes = columns * sizeof(float);
      e.decode = rows_->decode[static_cast<std::size_t>(Format::F32)];
      std::vector<float> at_outputs(n * outputs);
      scratch_.resize(kernels::product_scratch(n, outputs) + 16);
      float* scratch = scratch_.data();
      while (reinterpret_cast<std::uintptr_t>(scratch) % 64 != 0) ++scratch;
      kernels_->product(x, e, {at_outputs.data(), n, outputs, outputs}, false, scratch);
      double along = 0;
      for (std::size_t t = 0; t < n; ++t) {
        for (std::size_t i = 0; i < outputs; ++i) {
          const double gradient = dy.row(t)[i], error = at_outputs[t * outputs + i];
          one.gradients[first + i] += gradient * gradient;
          one.errors[first + i] += error * error;
          along += gradient * error;
        }
        for (std::size_t j = 0; j < columns; ++j)
          one.inputs[g.index * columns + j] += static_cast<double>(x.row(t)[j]) * x.row(t)[j];
      }
      // What experts share of one window comes in several calls: their sums are of windows all the same.
      whole_[{found->first, token_of(begin) / window_}] += along;
      std::vector<float> weights(outputs * columns, 0.0F);
      kernels_->add_outer_products(dy, x, {weights.data(), outputs, columns, columns}, scratch);
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const double w = static_cast<double>(weights[i]) * one.error[first * columns + i];
        one.coherent += w * w;
        const double own = static_cast<double>(weights[i]) * one.weights[first * columns + i];
        one.coherent_energy += own * own;
      }
      begin = end;
    }
    return outcome::success();
  }
  Result<void> end_layer(std::uint32_t) override {
    for (const auto& [key, along] : whole_) (*all_)[key.first].whole += along * along;
    whole_.clear();
    return outcome::success();
  }

 private:
  const kernels::MathKernels* kernels_;
  const kernels::RowKernels* rows_;
  std::uint32_t window_;
  std::map<std::string, Encoded>* all_;
  std::map<std::pair<std::string, std::uint64_t>, double> whole_;
  std::vector<float> scratch_;
};

Result<std::vector<float>> logits_of(const std::filesystem::path& path, const engine::TokenWindows& windows,
                                     unsigned threads) {
  QF_ASSIGN(const Model model, Model::open(path));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  NoProgress progress;
  const CancellationToken cancel;
  QF_ASSIGN(const engine::HiddenStates states,
            engine.run(windows, {.threads = threads}, nullptr, progress, cancel));
  const std::size_t vocabulary = engine.graph().vocabulary;
  std::vector<float> out(states.rows() * vocabulary), buffer;
  QF_ASSIGN(const auto rows, states.read(0, states.rows(), buffer));
  QF_TRY(engine.logits(rows, {out.data(), states.rows(), vocabulary, vocabulary}, threads));
  return out;
}

// The model with the errors of the matrices in `changed`.
Result<void> write_with_errors(const Model& model, const std::vector<const Encoded*>& changed,
                               const std::filesystem::path& path) {
  std::map<std::string, const Encoded*> by_name;
  for (const Encoded* one : changed) by_name[one->tensor->name] = one;
  std::vector<TensorInfo> infos(model.tensors().begin(), model.tensors().end());
  for (TensorInfo& info : infos)
    if (by_name.contains(info.name)) info.format = Format::F32;
  std::filesystem::remove(path);
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, model.metadata(), infos));
  for (const TensorInfo& tensor : model.tensors()) {
    const auto found = by_name.find(tensor.name);
    if (found == by_name.end()) {
      QF_TRY(writer.append(model.data(tensor)));
      continue;
    }
    std::vector<float> values(found->second->weights);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += found->second->error[i];
    QF_TRY(writer.append(std::as_bytes(std::span(values))));
  }
  return writer.commit();
}

Result<void> run(const Settings& settings) {
  QF_ASSIGN(const Model model, Model::open(settings.model));
  QF_ASSIGN(const engine::Engine engine, engine::Engine::open(model));
  QF_ASSIGN(const ImportanceMatrix importance, ImportanceMatrix::read(settings.importance));
  QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  const std::optional<Format> chosen = parse_format(settings.format);
  if (!chosen) return fail(ErrorCode::InvalidArgument, "'{}' is no format", settings.format);
  const Format format = *chosen;
  QF_ASSIGN(const Tokenizer tokenizer, Tokenizer::from_metadata(model.metadata(), settings.model));
  std::ifstream in(settings.text, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  QF_ASSIGN(const auto ids, tokens_of_text(tokenizer, text));
  const std::vector<std::int32_t> tokens(ids.begin(), ids.end());
  const std::size_t count = std::min(settings.windows, tokens.size() / settings.window);
  const auto windows =
      engine::TokenWindows::of_length(std::span(tokens).first(count * settings.window), settings.window);

  std::map<std::string, Encoded> all;
  for (const engine::LayerGraph& layer : engine.graph().layers) {
    for (const TensorInfo* tensor : layer.tensors) {
      if (tensor->significant_dims() < 2 || tensor->ne[0] % traits(format).block_len != 0) continue;
      if (importance.find(tensor->name) == nullptr) continue;
      QF_ASSIGN(all[tensor->name], encode(model, *tensor, format, importance, settings.kappa));
    }
  }
  Foresee observer(*math, *rows, settings.window, all);
  NoProgress progress;
  const CancellationToken cancel;
  const engine::BackwardOptions options{
      .run = {.threads = settings.threads}, .seed = settings.seed, .choice_error = settings.choice_error};
  QF_TRY(engine::BackwardPass(engine).run(windows, options, nullptr, observer, progress, cancel));

  std::filesystem::create_directories(settings.folder);
  const std::filesystem::path file = std::filesystem::path(settings.folder) / "one.gguf";
  QF_ASSIGN(const std::vector<float> base, logits_of(settings.model, windows, settings.threads));
  const std::size_t vocabulary = engine.graph().vocabulary;
  const auto total = static_cast<double>(windows.tokens.size());
  struct Kind {
    const char* name;
    std::vector<double> log_ratio, log_predicted, log_measured;
  };
  std::vector<Kind> kinds{{"scalar", {}, {}, {}},
                          {"rows", {}, {}, {}},
                          {"energy", {}, {}, {}},
                          {"coherent", {}, {}, {}},
                          {"windows", {}, {}, {}}};
  fmt::print("{:28} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "tensor", "measured", "scalar", "rows", "energy",
             "coherent", "windows");
  const auto measure = [&](const std::vector<const Encoded*>& changed) -> Result<double> {
    QF_TRY(write_with_errors(model, changed, file));
    QF_ASSIGN(const std::vector<float> logits, logits_of(file, windows, settings.threads));
    double sum = 0;
    for (std::size_t t = 0; t < windows.tokens.size(); ++t) {
      const float* p = base.data() + t * vocabulary;
      const float* q = logits.data() + t * vocabulary;
      kernels::LogSum p_sum, q_sum;
      math->add_to_log_sum(p, vocabulary, p_sum);
      math->add_to_log_sum(q, vocabulary, q_sum);
      sum += math->divergence(p, math->log_sum(p_sum), q, math->log_sum(q_sum), vocabulary) / total;
    }
    return sum;
  };
  std::vector<const Encoded*> together;
  std::vector<double> sums(kinds.size(), 0.0);
  for (auto& [name, one] : all) {
    together.push_back(&one);
    if (!settings.only_together) {
      QF_ASSIGN(one.measured, measure({&one}));
    }
    const std::size_t columns = one.tensor->ne[0];
    double scalar = 0, of_rows = 0, lost = 0, energy = 0;
    for (std::size_t i = 0; i < one.gradients.size(); ++i) {
      double row_energy = 0, row_lost = 0;
      const std::size_t matrix = i / one.tensor->ne[1];
      const double seen = one.seen[matrix];
      if (seen == 0) continue;
      for (std::size_t j = 0; j < columns; ++j) {
        const double a = one.inputs[matrix * columns + j] / seen, w = one.weights[i * columns + j],
                     e = one.error[i * columns + j];
        row_energy += a * w * w, row_lost += a * e * e;
      }
      scalar += 0.5 * one.gradients[i] / total * row_energy;
      of_rows += 0.5 * one.gradients[i] / total * one.errors[i] / seen;
      lost += seen * row_lost, energy += seen * row_energy;
    }
    const double share = lost / energy;  // N
    const double predicted[] = {scalar * share, of_rows, 0.5 * one.coherent_energy / total * share,
                                0.5 * one.coherent / total, 0.5 * one.whole / total};
    for (std::size_t k = 0; k < kinds.size(); ++k) sums[k] += predicted[k];
    if (settings.only_together) continue;
    fmt::print("{:28} {:10.3g}", name, one.measured);
    for (std::size_t k = 0; k < kinds.size(); ++k) {
      fmt::print(" {:9.3f}", one.measured / predicted[k]);
      kinds[k].log_ratio.push_back(std::log(one.measured / predicted[k]));
      kinds[k].log_predicted.push_back(std::log(predicted[k]));
      kinds[k].log_measured.push_back(std::log(one.measured));
    }
    fmt::print("\n");
  }
  QF_ASSIGN(const double whole, measure(together));
  fmt::print("{:28} {:10.3g}", "all of them", whole);
  for (const double sum : sums) fmt::print(" {:9.3f}", whole / sum);
  fmt::print("\n");
  if (settings.only_together) return outcome::success();
  for (Kind& kind : kinds) {
    std::vector<double> ratios(kind.log_ratio);
    std::ranges::sort(ratios);
    const auto n = static_cast<double>(ratios.size());
    double mp = 0, mm = 0;
    for (std::size_t i = 0; i < ratios.size(); ++i)
      mp += kind.log_predicted[i] / n, mm += kind.log_measured[i] / n;
    double pp = 0, mmv = 0, pm = 0;
    for (std::size_t i = 0; i < ratios.size(); ++i) {
      const double p = kind.log_predicted[i] - mp, m = kind.log_measured[i] - mm;
      pp += p * p, mmv += m * m, pm += p * m;
    }
    fmt::print(
        "{:9} median of measured over predicted {:.3f}, tenth {:.3f}, nine tenths {:.3f}; correlation of "
        "logs {:.3f}\n",
        kind.name, std::exp(ratios[ratios.size() / 2]), std::exp(ratios[ratios.size() / 10]),
        std::exp(ratios[ratios.size() * 9 / 10]), pm / std::sqrt(pp * mmv));
  }
  return outcome::success();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Foreseen and measured divergences of single matrices"};
  Settings settings;
  app.add_option("model", settings.model)->required();
  app.add_option("text", settings.text)->required();
  app.add_option("--importance", settings.importance)->required();
  app.add_option("--format", settings.format);
  app.add_option("--window", settings.window);
  app.add_option("--windows", settings.windows);
  app.add_option("--threads", settings.threads);
  app.add_option("--kappa", settings.kappa);
  app.add_option("--seed", settings.seed);
  app.add_flag("--together", settings.only_together, "not every matrix alone, only all of them");
  app.add_option("--choice-error", settings.choice_error, "of routers' scores, share of their spread");
  app.add_option("--folder", settings.folder, "where changed models go, one after the other");
  CLI11_PARSE(app, argc, argv);
  const Result<void> done = run(settings);
  if (!done) fmt::print(stderr, "{}\n", done.error().message);
  return done ? 0 : 1;
}

#include "tests/client/expert_trace.h"

#include <algorithm>
#include <charconv>
#include <numeric>

namespace quantfit::test {
namespace {

using kernels::MatrixView;

constexpr std::string_view kRouter = "ffn_gate_inp.weight", kDown = "ffn_down_exps.weight";

// N of "blk.N." or "l_out-N"; nothing for other names.
std::optional<std::size_t> layer_of(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  std::size_t layer = 0;
  const char* first = name.data() + prefix.size();
  if (std::from_chars(first, name.data() + name.size(), layer).ec != std::errc{}) return std::nullopt;
  return layer;
}

// The `used` most probable, rising. Scores that differ in their last bits may be equally probable; the lower
// index is chosen then, as the engine does.
std::vector<std::uint32_t> best(const kernels::MathKernels& math, std::span<const float> scores,
                                std::size_t used) {
  std::vector<float> probability(scores.size());
  math.softmax(scores.data(), scores.size(), probability.data());
  std::vector<std::uint32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::stable_sort(order, std::ranges::greater{}, [&](std::uint32_t e) { return probability[e]; });
  order.resize(used);
  std::ranges::sort(order);
  return order;
}

void append(std::span<const float> row, std::vector<float>& to) {
  to.insert(to.end(), row.begin(), row.end());
}

void add_squares(std::span<const float> row, std::vector<double>& sums) {
  sums.resize(row.size());
  for (std::size_t j = 0; j < row.size(); ++j) sums[j] += static_cast<double>(row[j]) * row[j];
}

class ClientTracer final : public ClientObserver {
 public:
  explicit ClientTracer(ExpertTrace& trace) : trace_(&trace) {}

  bool wants(const ClientNode& node) override {
    if (layer_of(node.result.name, "l_out-")) return true;
    return node.operation.starts_with("MUL_MAT") && node.sources[0].name.ends_with(".weight");
  }

  void computed(const ClientNode& node) override {
    if (const auto layer = layer_of(node.result.name, "l_out-")) {
      ExpertLayer& out = at(*layer);
      for (std::size_t t = 0; t < node.result.rows(); ++t) append(node.result.row<float>(t), out.output);
      return;
    }
    const std::string_view name = node.sources[0].name;
    const ClientTensor& input = node.sources[1];
    const auto layer = layer_of(name, "blk.");
    if (layer && name.ends_with(kRouter)) {
      ExpertLayer& out = at(*layer);
      for (std::size_t t = 0; t < input.rows(); ++t) {
        append(input.row<float>(t), out.expert_input);
        append(node.result.row<float>(t), out.scores);
      }
    }
    if (layer && name.ends_with(kDown) && node.sources.size() >= 3) {
      ExpertLayer& out = at(*layer);
      const ClientTensor& choice = node.sources[2];
      for (std::size_t t = 0; t < choice.rows(); ++t) {
        const auto slots = choice.row<std::int32_t>(t);
        std::vector<std::size_t> order(slots.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::ranges::sort(order, {}, [&](std::size_t s) { return slots[s]; });
        for (const std::size_t s : order) {
          out.chosen.push_back(static_cast<std::uint32_t>(slots[s]));
          append(input.row<float>(t * slots.size() + s), out.hidden);
        }
        trace_->used = slots.size();
      }
    }
    if (name.find("_exps.") != std::string_view::npos) return;
    for (std::size_t t = 0; t < input.rows(); ++t)
      add_squares(input.row<float>(t), trace_->squares[std::string(name)]);
  }

 private:
  ExpertLayer& at(std::size_t layer) {
    if (trace_->layers.size() <= layer) trace_->layers.resize(layer + 1);
    return trace_->layers[layer];
  }

  ExpertTrace* trace_;
};

class EngineTracer final : public engine::ForwardObserver {
 public:
  // Of one layer alone, or of all.
  EngineTracer(const kernels::MathKernels& math, ExpertTrace& trace, std::optional<std::uint32_t> only)
      : math_(&math), trace_(&trace), only_(only) {}

  Result<void> layer_input(std::uint32_t layer, std::uint64_t first_token,
                           MatrixView<const float> rows) override {
    first_token_ = first_token;
    tokens_ = rows.rows;
    if (layer == 0 || (only_ && layer == *only_)) return outcome::success();
    for (std::size_t t = 0; t < rows.rows; ++t)
      append({rows.row(t), rows.columns}, trace_->layers[layer - 1].output);
    if (only_ && first_token + rows.rows == trace_->tokens)
      return fail(ErrorCode::Interrupted, "the layer has been seen");
    return outcome::success();
  }
  Result<void> product(const engine::MatrixProduct& product) override {
    if (only_ && product.layer != *only_) return outcome::success();
    const std::string& name = product.matrix->tensor->name;
    const MatrixView<const float>& x = product.input;
    if (name.ends_with(kRouter)) {
      ExpertLayer& out = trace_->layers[product.layer];
      for (std::size_t t = 0; t < x.rows; ++t) {
        append({x.row(t), x.columns}, out.expert_input);
        const std::span scores(product.output.row(t), product.output.columns);
        append(scores, out.scores);
        const auto chosen = best(*math_, scores, trace_->used);
        out.chosen.insert(out.chosen.end(), chosen.begin(), chosen.end());
      }
      out.hidden.resize(out.chosen.size() * trace_->hidden_width);
    }
    if (name.ends_with(kDown)) {
      ExpertLayer& out = trace_->layers[product.layer];
      std::size_t row = 0;
      for (std::size_t i = first_token_ * trace_->used; i < (first_token_ + tokens_) * trace_->used; ++i) {
        if (out.chosen[i] != product.index) continue;
        if (row == x.rows) break;
        std::copy_n(x.row(row++), x.columns, out.hidden.begin() + static_cast<std::ptrdiff_t>(i * x.columns));
      }
      if (row != x.rows) return fail(ErrorCode::Internal, "tokens of an expert are not those of its scores");
    }
    if (name.find("_exps.") != std::string::npos) return outcome::success();
    for (std::size_t t = 0; t < x.rows; ++t) add_squares({x.row(t), x.columns}, trace_->squares[name]);
    return outcome::success();
  }

 private:
  const kernels::MathKernels* math_;
  ExpertTrace* trace_;
  std::optional<std::uint32_t> only_;
  std::size_t first_token_ = 0, tokens_ = 0;
};

}  // namespace

float ExpertTrace::gap(std::size_t layer, std::size_t token) const {
  std::vector<float> row(layers[layer].scores.begin() + static_cast<std::ptrdiff_t>(token * experts),
                         layers[layer].scores.begin() + static_cast<std::ptrdiff_t>((token + 1) * experts));
  std::ranges::sort(row, std::ranges::greater{});
  return row[used - 1] - row[used];
}

Result<ExpertTrace> trace_client(const std::filesystem::path& model, const engine::TokenWindows& windows,
                                 int threads) {
  ExpertTrace trace;
  ClientTracer tracer(trace);
  QF_ASSIGN(LlamaModel client,
            LlamaModel::open(model, windows.longest(), threads, ClientPrecision::Default, &tracer));
  std::size_t first = 0;
  for (const std::uint32_t length : windows.lengths) {
    QF_TRY(client.decode(std::span(windows.tokens).subspan(first, length), 0));
    first += length;
  }
  trace.tokens = windows.tokens.size();
  for (const ExpertLayer& layer : trace.layers) {
    if (layer.scores.empty() || layer.hidden.empty() || layer.output.empty())
      return fail(ErrorCode::Malformed, "{}: a layer without router or experts", model.string());
  }
  if (trace.layers.empty()) return fail(ErrorCode::Malformed, "{}: no layer was seen", model.string());
  trace.width = trace.layers[0].expert_input.size() / trace.tokens;
  trace.experts = trace.layers[0].scores.size() / trace.tokens;
  trace.hidden_width = trace.layers[0].hidden.size() / trace.layers[0].chosen.size();
  return trace;
}

namespace {

Result<ExpertTrace> empty_trace(const engine::Engine& engine, const engine::TokenWindows& windows) {
  const engine::ModelGraph& graph = engine.graph();
  ExpertTrace trace;
  trace.tokens = windows.tokens.size();
  trace.width = graph.width;
  trace.layers.resize(graph.layers.size());
  for (const engine::LayerGraph& layer : graph.layers) {
    if (layer.experts.count == 0) return fail(ErrorCode::Malformed, "a layer without experts");
    trace.experts = layer.experts.count;
    trace.used = layer.experts.used;
    trace.hidden_width = layer.experts.experts.down.columns;
  }
  return trace;
}

}  // namespace

Result<ExpertTrace> trace_layer(const engine::Engine& engine, const engine::TokenWindows& windows,
                                std::uint32_t layer, std::span<const float> input) {
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  QF_ASSIGN(ExpertTrace trace, empty_trace(engine, windows));
  EngineTracer tracer(*math, trace, layer);
  engine::Resume resume;
  resume.layer = layer;
  resume.layer_input = [&](std::uint64_t first_token, MatrixView<float> rows) -> Result<void> {
    for (std::size_t t = 0; t < rows.rows; ++t)
      std::ranges::copy(input.subspan((first_token + t) * rows.columns, rows.columns), rows.row(t));
    return outcome::success();
  };
  NoProgress progress;
  const CancellationToken cancel;
  const auto ran = engine.run(windows, {}, &tracer, progress, cancel, layer == 0 ? nullptr : &resume);
  if (!ran && ran.error().code != ErrorCode::Interrupted) return ran.error();
  return trace;
}

Result<ExpertTrace> trace_engine(const engine::Engine& engine, const engine::TokenWindows& windows,
                                 const ExpertTrace* inputs) {
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  QF_ASSIGN(ExpertTrace trace, empty_trace(engine, windows));
  if (inputs == nullptr) {
    EngineTracer tracer(*math, trace, std::nullopt);
    NoProgress progress;
    const CancellationToken cancel;
    QF_TRY(engine.run(windows, {}, &tracer, progress, cancel));
    return trace;
  }
  for (std::uint32_t layer = 0; layer < trace.layers.size(); ++layer) {
    QF_ASSIGN(ExpertTrace one,
              trace_layer(engine, windows, layer,
                          layer == 0 ? std::span<const float>{} : inputs->layers[layer - 1].output));
    trace.layers[layer] = std::move(one.layers[layer]);
    trace.squares.merge(one.squares);
  }
  return trace;
}

}  // namespace quantfit::test

#include "optimizer/engine/forward.h"

#include <algorithm>
#include <limits>
#include <new>
#include <numeric>

#include "optimizer/engine/buffers.h"
#include "optimizer/engine/engine_state.h"
#include "optimizer/engine/workers.h"

namespace quantfit::engine {
namespace {

// Tokens of a batch where memory allows: enough that decoding a row of weights costs little beside using it.
// Experts see only a part of the tokens each.
constexpr std::uint64_t kBatchTokens = 2048;
constexpr std::uint64_t kBatchTokensWithExperts = 8192;
// A batch smaller than this is a reason to put the hidden states on disk instead.
constexpr std::uint64_t kComfortableTokens = 512;

}  // namespace

std::vector<Batch> cut_batches(const TokenWindows& windows, std::uint64_t most) {
  std::vector<Batch> out;
  std::size_t at = 0;
  for (const std::uint32_t length : windows.lengths) {
    if (out.empty() || out.back().tokens.size() + length > most) {
      out.emplace_back();
      out.back().first_token = at;
      out.back().tokens = {windows.tokens.data() + at, 0};
    }
    Batch& batch = out.back();
    batch.windows.push_back({batch.tokens.size(), length});
    batch.tokens = {batch.tokens.data(), batch.tokens.size() + length};
    at += length;
  }
  return out;
}

std::vector<bool> kept_layers(const ModelGraph& graph) {
  std::vector<bool> out(graph.layers.size(), false);
  for (const LayerGraph& layer : graph.layers)
    if (layer.attention.kv_layer) out[*layer.attention.kv_layer] = true;
  return out;
}

std::uint64_t kept_bytes(const ModelGraph& graph, std::uint64_t tokens) {
  std::uint64_t floats = 0;
  const std::vector<bool> kept = kept_layers(graph);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const AttentionGraph& a = graph.layers[i].attention;
    if (kept[i]) floats += tokens * a.kv_heads * (std::uint64_t{a.key_dim} + a.value_dim);
  }
  return floats * sizeof(float);
}

double work_of(const ModelGraph& graph, const TokenWindows& windows) {
  double per_token = 0, per_pair = 0;
  const auto add = [&](const Matrix& m) {
    if (m) per_token += static_cast<double>(m.columns) * m.rows;
  };
  const auto add_ffn = [&](const FfnGraph& f, double times) {
    for (const Projection& p : f.gate_up) per_token += times * p.matrix.columns * p.matrix.rows;
    if (f.down) per_token += times * f.down.columns * f.down.rows;
  };
  double windowed_pairs = 0;
  double pairs = 0;
  for (const std::uint32_t length : windows.lengths) pairs += 0.5 * length * (length + 1.0);
  for (const LayerGraph& layer : graph.layers) {
    const AttentionGraph& a = layer.attention;
    for (const Projection& p : a.qkv) add(p.matrix);
    add(a.gate_matrix), add(a.output);
    const double per_score = static_cast<double>(a.heads) * (a.key_dim + a.value_dim);
    if (a.window == 0) {
      per_pair += per_score;
    } else {
      for (const std::uint32_t length : windows.lengths) {
        const double seen = std::min<double>(length, a.window);
        windowed_pairs += per_score * (0.5 * seen * (seen + 1) + (length - seen) * seen);
      }
    }
    const LatentGraph& l = layer.latent;
    add(l.q), add(l.q_a), add(l.q_b), add(l.kv_a), add(l.kv_b), add(l.output);
    if (l.k_b) per_token += static_cast<double>(l.heads) * l.latent * (l.nope_dims + l.value_dim);
    if (l.heads != 0) {
      per_pair += static_cast<double>(l.heads) *
                  (l.kv_b ? l.nope_dims + l.rope_dims + l.value_dim : 2 * l.latent + l.rope_dims);
    }
    const GatedDeltaGraph& d = layer.gated_delta;
    add(d.qkv), add(d.z), add(d.beta), add(d.alpha), add(d.beta_alpha), add(d.output);
    per_token += 4.0 * d.value_heads * d.head_dim * d.head_dim;
    const KeyDeltaGraph& k = layer.key_delta;
    add(k.q), add(k.k), add(k.v), add(k.f_a), add(k.f_b), add(k.g_a), add(k.g_b), add(k.beta), add(k.output);
    per_token += 4.0 * k.heads * k.head_dim * k.head_dim;
    const Mamba2Graph& m = layer.mamba2;
    add(m.input), add(m.output);
    per_token += 3.0 * m.heads * m.head_dim * m.state;
    add(layer.short_convolution.input), add(layer.short_convolution.output);
    add_ffn(layer.ffn, 1);
    add(layer.experts.router), add(layer.experts.latent_down), add(layer.experts.latent_up);
    add_ffn(layer.experts.experts, layer.experts.used), add_ffn(layer.experts.shared, 1);
    add(layer.layer_embedding.gate), add(layer.layer_embedding.projection);
  }
  return per_token * static_cast<double>(windows.tokens.size()) + per_pair * pairs + windowed_pairs;
}

std::string size_text(std::uint64_t bytes) {
  if (bytes >= (std::uint64_t{1} << 30))
    return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
  if (bytes >= (1U << 20)) return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
  return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
}

std::uint64_t sum_of(const std::vector<RunPlan::Item>& items) {
  return std::accumulate(items.begin(), items.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const RunPlan::Item& item) { return sum + item.bytes; });
}

std::uint64_t comfortable_batch(const ModelGraph& graph) {
  const bool experts =
      std::ranges::any_of(graph.layers, [](const LayerGraph& l) { return l.experts.count != 0; });
  return experts ? kBatchTokensWithExperts : kBatchTokens;
}

namespace {

// Memory of a run whose batches have up to `batch` tokens.
std::vector<RunPlan::Item> memory_of(const ModelGraph& graph, std::uint64_t tokens, std::uint64_t longest,
                                     std::uint64_t batch, std::size_t threads, bool resident) {
  std::vector<RunPlan::Item> out;
  const auto item = [&](std::string name, std::uint64_t bytes) {
    if (bytes != 0) out.push_back({std::move(name), bytes});
  };
  const std::uint64_t state_row = std::uint64_t{graph.width} * sizeof(float);
  item(resident ? "hidden states of all tokens" : "hidden states of a batch",
       state_row * (resident ? tokens : batch));
  std::uint64_t buffers = 0, routing = 0, parameters = 0;
  for (const LayerGraph& layer : graph.layers) {
    buffers = std::max(buffers, buffer_bytes(buffers_of(graph, layer), batch));
    routing = std::max<std::uint64_t>(routing, 4 * sizeof(std::uint32_t) * batch * layer.experts.used);
    std::uint64_t small = 0;
    for (const TensorInfo* tensor : layer.tensors)
      if (tensor->significant_dims() == 1) small += tensor->elements() * sizeof(float);
    parameters = std::max(parameters, small);
  }
  item(fmt::format("activations of a batch of {} tokens", batch), buffers);
  item("routing of experts", routing);
  item("small tensors of a layer", parameters);
  std::uint64_t ropes = 0;
  for (const RopeSpec& rope : graph.ropes) ropes += longest * rope.dims * sizeof(float);
  item("tables of positions", ropes);
  item("keys and values of shared layers",
       resident ? kept_bytes(graph, tokens) : 2 * kept_bytes(graph, batch));
  item("scratch of threads", threads * LayerRunner::scratch_floats(graph, longest) * sizeof(float));
  return out;
}

}  // namespace

TokenWindows TokenWindows::of_length(std::span<const std::int32_t> tokens, std::uint32_t length) {
  TokenWindows out;
  if (length == 0) return out;
  const std::size_t count = tokens.size() / length;
  out.tokens.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(count * length));
  out.lengths.assign(count, length);
  return out;
}

std::uint32_t TokenWindows::longest() const {
  return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
}

std::string RunPlan::describe() const {
  std::string out = fmt::format("{} tokens, {:.3g} multiply-adds, {} of weights to read\n", tokens,
                                multiply_adds, size_text(weight_bytes));
  for (const Item& item : memory) out += fmt::format("  {:>10}  {}\n", size_text(item.bytes), item.name);
  out += fmt::format("  {:>10}  memory in all\n", size_text(memory_bytes));
  if (scratch_bytes != 0) out += fmt::format("  {:>10}  in a scratch file\n", size_text(scratch_bytes));
  return out;
}

Result<void> ForwardObserver::begin_layer(std::uint32_t) {
  return outcome::success();
}
Result<void> ForwardObserver::layer_input(std::uint32_t, std::uint64_t, kernels::MatrixView<const float>) {
  return outcome::success();
}
Result<void> ForwardObserver::product(const MatrixProduct&) {
  return outcome::success();
}
Result<void> ForwardObserver::end_layer(std::uint32_t) {
  return outcome::success();
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Result<Engine> Engine::open(const Model& model, Arithmetic arithmetic, ReplacedTensors replaced) {
  for (const auto& [tensor, bytes] : replaced)
    if (bytes.size() != tensor->bytes)
      return fail(ErrorCode::InvalidArgument, "{} bytes in the place of tensor '{}' of {}", bytes.size(),
                  tensor->name, tensor->bytes);
  QF_ASSIGN(ModelGraph graph, resolve(model));
  QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
  QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
  return Engine(std::unique_ptr<State>(
      new State{&model, std::move(graph), math, Weights(model, *rows, arithmetic, std::move(replaced))}));
}

const Model& Engine::model() const {
  return *state_->model;
}
const ModelGraph& Engine::graph() const {
  return state_->graph;
}

bool Engine::can_resume() const {
  return std::ranges::none_of(kept_layers(state_->graph), [](bool kept) { return kept; });
}

Result<RunPlan> Engine::plan(const TokenWindows& windows, const RunOptions& options) const {
  const ModelGraph& graph = state_->graph;
  std::uint64_t counted = 0;
  for (const std::uint32_t length : windows.lengths) {
    counted += length;
    if (length == 0) return fail(ErrorCode::InvalidArgument, "a window without tokens");
  }
  if (windows.tokens.empty()) return fail(ErrorCode::InvalidArgument, "there are no tokens to run");
  if (counted != windows.tokens.size()) {
    return fail(ErrorCode::InvalidArgument, "windows of {} tokens together for {} tokens", counted,
                windows.tokens.size());
  }
  if (windows.tokens.size() > std::numeric_limits<std::uint32_t>::max())
    return fail(ErrorCode::InvalidArgument, "{} tokens are more than a run can hold", windows.tokens.size());
  for (std::size_t i = 0; i < windows.tokens.size(); ++i) {
    const std::int32_t token = windows.tokens[i];
    if (token < 0 || static_cast<std::uint32_t>(token) >= graph.vocabulary) {
      return fail(ErrorCode::InvalidArgument,
                  "token {} at position {} is not in the model's vocabulary of {}", token, i,
                  graph.vocabulary);
    }
  }
  const std::uint64_t longest = windows.longest();
  if (graph.position_embedding != nullptr && longest > graph.positions) {
    return fail(ErrorCode::InvalidArgument, "windows of {} tokens, but the model knows only {} positions",
                longest, graph.positions);
  }

  RunPlan plan;
  plan.tokens = windows.tokens.size();
  for (const LayerGraph& layer : graph.layers) plan.weight_bytes += layer.bytes;
  plan.multiply_adds = work_of(graph, windows);
  const std::size_t threads = Workers(options.threads).threads();
  std::uint64_t target = options.batch_tokens != 0 ? options.batch_tokens : comfortable_batch(graph);
  target = std::min(std::max(target, longest), plan.tokens);
  const auto bytes = [&](std::uint64_t batch, bool resident) {
    return sum_of(memory_of(graph, plan.tokens, longest, batch, threads, resident));
  };
  bool resident = true;
  if (options.memory_limit != 0) {
    // The largest batch that fits, by halves; hidden states go to disk when they would leave only a small
    // one.
    const auto fitting = [&](bool in_memory) {
      std::uint64_t batch = target;
      while (batch > longest && bytes(batch, in_memory) > options.memory_limit)
        batch = std::max(longest, batch - std::max<std::uint64_t>(1, batch / 8));
      return bytes(batch, in_memory) <= options.memory_limit ? batch : 0;
    };
    const std::uint64_t in_memory = fitting(true);
    if (in_memory < std::min(target, std::max(longest, kComfortableTokens))) {
      const std::uint64_t on_disk = fitting(false);
      if (on_disk == 0 && in_memory == 0) {
        return fail(ErrorCode::NoSpace, "windows of {} tokens need {} of memory at least, the limit is {}",
                    longest, size_text(bytes(longest, false)), size_text(options.memory_limit));
      }
      resident = on_disk == 0;
      target = resident ? in_memory : on_disk;
    } else {
      target = in_memory;
    }
  }
  // Batches are whole windows, so the largest is often smaller than allowed.
  std::uint64_t largest = 0;
  for (const Batch& batch : cut_batches(windows, target))
    largest = std::max<std::uint64_t>(largest, batch.rows());
  target = largest;
  plan.batch_tokens = static_cast<std::uint32_t>(target);
  plan.memory = memory_of(graph, plan.tokens, longest, target, threads, resident);
  plan.memory_bytes = sum_of(plan.memory);
  if (!resident)
    plan.scratch_bytes = plan.tokens * graph.width * sizeof(float) + kept_bytes(graph, plan.tokens);
  return plan;
}

Result<HiddenStates> Engine::run(const TokenWindows& windows, const RunOptions& options,
                                 ForwardObserver* observer, ProgressSink& progress,
                                 const CancellationToken& cancel, const Resume* resume) const {
  return run_to(std::numeric_limits<std::uint32_t>::max(), windows, options, observer, progress, cancel,
                resume);
}

Result<HiddenStates> Engine::run_to(std::uint32_t end_layer, const TokenWindows& windows,
                                    const RunOptions& options, ForwardObserver* observer,
                                    ProgressSink& progress, const CancellationToken& cancel,
                                    const Resume* resume) const {
  QF_ASSIGN(const RunPlan run_plan, plan(windows, options));
  const ModelGraph& graph = state_->graph;
  const std::uint32_t layers = static_cast<std::uint32_t>(graph.layers.size());
  const std::uint32_t first_layer = resume == nullptr ? 0 : resume->layer;
  const std::vector<bool> kept = kept_layers(graph);
  if (first_layer > layers || (first_layer != 0 && std::ranges::find(kept, true) != kept.end())) {
    return fail(ErrorCode::InvalidArgument, "this model cannot be resumed at layer {}", first_layer);
  }
  const std::filesystem::path folder =
      options.scratch_folder.empty() ? std::filesystem::temp_directory_path() : options.scratch_folder;
  const std::size_t tokens = windows.tokens.size();
  const auto states_of = [&](std::size_t width) {
    return run_plan.scratch_bytes == 0 ? HiddenStates::in_memory(tokens, width)
                                       : HiddenStates::in_file(folder, tokens, width);
  };
  QF_ASSIGN(HiddenStates states, states_of(graph.width));
  std::vector<KeptKeys> keys(graph.layers.size());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (!kept[i]) continue;
    const AttentionGraph& a = graph.layers[i].attention;
    QF_ASSIGN(keys[i].keys, states_of(std::size_t{a.kv_heads} * a.key_dim));
    QF_ASSIGN(keys[i].values, states_of(std::size_t{a.kv_heads} * a.value_dim));
  }

  try {
    Workers workers(options.threads);
    const std::size_t longest = windows.longest();
    workers.reserve_scratch(LayerRunner::scratch_floats(graph, longest));
    const std::vector<Batch> batches = cut_batches(windows, run_plan.batch_tokens);
    std::vector<float> buffer;
    const auto work = [&]() -> Result<void> {
      LayerRunner runner(graph, state_->weights, *state_->math, workers, cancel);
      runner.prepare(longest);
      if (std::ranges::find(kept, true) != kept.end()) runner.keep_keys(&keys);
      if (first_layer < layers) state_->weights.will_need(graph.layers[first_layer].tensors);
      // Embeddings, or what an earlier run left.
      for (const Batch& batch : batches) {
        QF_ASSIGN(const MatrixView<float> x, states.read_mutable(batch.first_token, batch.rows(), buffer));
        if (first_layer == 0)
          QF_TRY(runner.embed(batch, x));
        else
          QF_TRY(resume->layer_input(batch.first_token, x));
        QF_TRY(states.write(batch.first_token, {x.data, x.rows, x.columns, x.stride}));
      }
      for (std::uint32_t il = first_layer; il < std::min(layers, end_layer); ++il) {
        const LayerGraph& layer = graph.layers[il];
        if (il + 1 < layers) state_->weights.will_need(graph.layers[il + 1].tensors);
        QF_TRY(state_->weights.validate(layer.tensors, workers, cancel));
        if (observer != nullptr) QF_TRY(observer->begin_layer(il));
        runner.begin(layer, observer);
        for (const Batch& batch : batches) {
          QF_ASSIGN(const MatrixView<float> x, states.read_mutable(batch.first_token, batch.rows(), buffer));
          const MatrixView<const float> input{x.data, x.rows, x.columns, x.stride};
          if (observer != nullptr) QF_TRY(observer->layer_input(il, batch.first_token, input));
          QF_TRY(runner.forward(batch, x));
          QF_TRY(states.write(batch.first_token, input));
          progress.advance(batch.rows(), fmt::format("block {}", il));
        }
        if (observer != nullptr) QF_TRY(observer->end_layer(il));
        state_->weights.done_with(layer.tensors);
      }
      if (end_layer <= layers) return outcome::success();
      if (observer != nullptr) QF_TRY(observer->begin_layer(layers));
      for (const Batch& batch : batches) {
        QF_ASSIGN(const MatrixView<float> x, states.read_mutable(batch.first_token, batch.rows(), buffer));
        const MatrixView<const float> input{x.data, x.rows, x.columns, x.stride};
        if (observer != nullptr) QF_TRY(observer->layer_input(layers, batch.first_token, input));
        runner.norm_rows(graph.output_norm, input, x);
        if (observer != nullptr) {
          QF_TRY(observer->product(
              {layers, &graph.output, 0, static_cast<std::uint32_t>(InputGroup::Output), input, {}}));
        }
        QF_TRY(states.write(batch.first_token, input));
      }
      if (observer != nullptr) QF_TRY(observer->end_layer(layers));
      return outcome::success();
    };
    progress.begin(
        "running the model",
        std::uint64_t{tokens} * (std::max(first_layer, std::min(layers, end_layer)) - first_layer));
    const Result<void> done = workers.run(work);
    progress.end();
    if (!done) return done.error();
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "out of memory; the run needs {}", size_text(run_plan.memory_bytes));
  }
  return states;
}

Result<void> Engine::logits(kernels::MatrixView<const float> states, kernels::MatrixView<float> out,
                            unsigned threads) const {
  if (out.columns != state_->graph.vocabulary) {
    return fail(ErrorCode::InvalidArgument, "room for {} logits, the vocabulary has {}", out.columns,
                state_->graph.vocabulary);
  }
  return logits_of(states, 0, out, threads);
}

Result<void> Engine::logits_of(kernels::MatrixView<const float> states, std::uint32_t first_token,
                               kernels::MatrixView<float> out, unsigned threads) const {
  const ModelGraph& graph = state_->graph;
  if (states.columns != graph.width || states.rows != out.rows || first_token > graph.vocabulary ||
      out.columns > graph.vocabulary - first_token) {
    return fail(ErrorCode::InvalidArgument, "{} states of {} numbers for {} rows of {} logits from {} on",
                states.rows, states.columns, out.rows, out.columns, first_token);
  }
  try {
    Workers workers(threads);
    workers.reserve_scratch(kernels::product_scratch(kernels::kProductTokens, kernels::kProductOutputs));
    const CancellationToken never;
    LayerRunner runner(graph, state_->weights, *state_->math, workers, never);
    workers.run([&] {
      runner.product(graph.output, 0, first_token, states, out);
      runner.add_bias(graph.output, 0, first_token, out);
      if (graph.logit_factor == 1 && graph.final_softcap == 0) return;
      workers.for_rows(out.rows, 4, [&](std::size_t first, std::size_t count, float*) {
        for (std::size_t t = first; t < first + count; ++t) {
          if (graph.logit_factor != 1)
            state_->math->scale(out.row(t), graph.logit_factor, out.columns, out.row(t));
          if (graph.final_softcap != 0)
            state_->math->softcap(out.row(t), graph.final_softcap, out.columns, out.row(t));
        }
      });
    });
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "out of memory for {} rows of logits", out.rows);
  }
  return outcome::success();
}

}  // namespace quantfit::engine

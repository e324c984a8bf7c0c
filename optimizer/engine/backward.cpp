#include "optimizer/engine/backward.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>

#include "optimizer/engine/engine_state.h"
#include "optimizer/engine/layer_backward.h"
#include "optimizer/engine/workers.h"

namespace quantfit::engine {
namespace {

// Bytes of logits and their gradients of one block of tokens, and least tokens of a block.
constexpr std::uint64_t kLogitBytes = std::uint64_t{128} << 20;
constexpr std::uint64_t kLeastLogitRows = 16;
constexpr std::uint64_t kMostLogitRows = kernels::kProductTokens;

// The inputs of all layers and of the final norm, one after the other.
class LayerInputs final : public ForwardObserver {
 public:
  LayerInputs(HiddenStates& store, std::uint64_t tokens, ForwardObserver* other)
      : store_(&store), tokens_(tokens), other_(other) {}
  Result<void> begin_layer(std::uint32_t layer) override {
    return other_ == nullptr ? outcome::success() : other_->begin_layer(layer);
  }
  Result<void> layer_input(std::uint32_t layer, std::uint64_t first_token,
                           MatrixView<const float> rows) override {
    const std::size_t at = layer * tokens_ + first_token;
    QF_ASSIGN(const MatrixView<float> to, store_->read_mutable(at, rows.rows, buffer_));
    for (std::size_t t = 0; t < rows.rows; ++t) std::copy_n(rows.row(t), rows.columns, to.row(t));
    QF_TRY(store_->write(at, constant(to)));
    return other_ == nullptr ? outcome::success() : other_->layer_input(layer, first_token, rows);
  }
  Result<void> product(const MatrixProduct& product) override {
    return other_ == nullptr ? outcome::success() : other_->product(product);
  }
  Result<void> end_layer(std::uint32_t layer) override {
    return other_ == nullptr ? outcome::success() : other_->end_layer(layer);
  }

 private:
  HiddenStates* store_;
  std::uint64_t tokens_;
  ForwardObserver* other_;
  std::vector<float> buffer_;
};

bool has_layer_embeddings(const ModelGraph& graph) {
  return std::ranges::any_of(graph.layers,
                             [](const LayerGraph& l) { return static_cast<bool>(l.layer_embedding.gate); });
}

std::uint64_t logit_rows(const ModelGraph& graph, std::uint64_t memory_limit) {
  std::uint64_t bytes = kLogitBytes;
  if (memory_limit != 0) bytes = std::min(bytes, memory_limit / 8);
  const std::uint64_t row = 2 * std::uint64_t{graph.vocabulary} * sizeof(float);
  return std::clamp(bytes / row, kLeastLogitRows, kMostLogitRows);
}

// What is allocated after the forward pass.
std::vector<RunPlan::Item> memory_of(const ModelGraph& graph, std::uint64_t tokens, std::uint64_t longest,
                                     std::uint64_t batch, std::uint64_t logits, std::size_t threads,
                                     bool resident) {
  std::vector<RunPlan::Item> out;
  const auto item = [&](std::string name, std::uint64_t bytes) {
    if (bytes != 0) out.push_back({std::move(name), bytes});
  };
  const std::uint64_t state_row = std::uint64_t{graph.width} * sizeof(float);
  const std::uint64_t held = resident ? tokens : batch;
  item("inputs of all layers", resident ? state_row * tokens * (graph.layers.size() + 1) : state_row * batch);
  item("gradients between layers", state_row * held * (has_layer_embeddings(graph) ? 2 : 1));
  item("states of a batch", 2 * state_row * batch);
  std::uint64_t buffers = 0, gradients = 0, routing = 0, parameters = 0;
  for (const LayerGraph& layer : graph.layers) {
    buffers = std::max(buffers, buffer_bytes(buffers_of(graph, layer), batch));
    gradients = std::max(gradients, buffer_bytes(LayerBackward::gradient_buffers_of(graph, layer), batch));
    routing = std::max<std::uint64_t>(routing, 4 * sizeof(std::uint32_t) * batch * layer.experts.used);
    std::uint64_t small = 0;
    for (const TensorInfo* tensor : layer.tensors)
      if (tensor->significant_dims() == 1) small += tensor->elements() * sizeof(float);
    parameters = std::max(parameters, small);
  }
  item(fmt::format("activations of a batch of {} tokens", batch), buffers);
  item("their gradients", gradients);
  item("routing of experts", routing);
  item("small tensors of a layer", parameters);
  std::uint64_t ropes = 0;
  for (const RopeSpec& rope : graph.ropes) ropes += longest * rope.dims * sizeof(float);
  item("tables of positions", ropes);
  item("keys and values of shared layers, and their gradients",
       2 * kept_bytes(graph, resident ? tokens : 2 * batch));
  item(fmt::format("logits of {} tokens and their gradients", logits),
       2 * logits * graph.vocabulary * sizeof(float));
  item("scratch of threads", threads * LayerBackward::scratch_floats(graph, longest) * sizeof(float));
  return out;
}

// The loss when the caller has none: labels drawn from the model's own distribution.
class DrawnLabels final : public LogitLoss {
 public:
  DrawnLabels(const kernels::MathKernels& kernels, Workers& workers, std::uint64_t seed)
      : kernels_(&kernels), workers_(&workers), seed_(seed) {}
  Result<void> gradient(std::uint64_t first_token, MatrixView<const float> logits,
                        MatrixView<float> gradient) override {
    std::atomic<std::size_t> bad{logits.rows};
    workers_->for_each(logits.rows, [&](std::size_t t, float*) {
      const float* z = logits.row(t);
      const std::size_t n = logits.columns;
      kernels::LogSum sum;
      kernels_->add_to_log_sum(z, n, sum);
      const double log_sum = kernels_->log_sum(sum);
      if (!std::isfinite(log_sum)) {
        std::size_t seen = bad.load();
        while (t < seen && !bad.compare_exchange_weak(seen, t)) {
        }
        return;
      }
      double cumulative = 0;
      std::size_t label = kernels_->sample(z, n, log_sum, label_draw(seed_, first_token + t), cumulative);
      // Probabilities that add up to less than the draw, by rounding.
      if (label >= n) label = kernels_->argmax(z, n);
      kernels_->softmax_gradient(z, n, log_sum, label, 1.0F, gradient.row(t));
    });
    if (bad.load() < logits.rows) {
      return fail(ErrorCode::Malformed,
                  "the logits of token {} are not finite: a weight of the output is no number",
                  first_token + bad.load());
    }
    return outcome::success();
  }

 private:
  const kernels::MathKernels* kernels_;
  Workers* workers_;
  std::uint64_t seed_;
};

}  // namespace

Result<void> BackwardObserver::begin_layer(std::uint32_t) {
  return outcome::success();
}
Result<void> BackwardObserver::gradient(const MatrixGradient&) {
  return outcome::success();
}
Result<void> BackwardObserver::output_product(std::uint64_t, const MatrixProduct&) {
  return outcome::success();
}
Result<void> BackwardObserver::lookup(const LookupGradient&) {
  return outcome::success();
}
Result<void> BackwardObserver::choices(std::uint32_t, std::uint64_t, std::span<const double>) {
  return outcome::success();
}
Result<void> BackwardObserver::parameter(std::uint32_t, const TensorInfo&, std::span<const double>) {
  return outcome::success();
}
Result<void> BackwardObserver::carried(std::uint32_t, std::uint32_t, std::uint64_t, MatrixView<const float>) {
  return outcome::success();
}
Result<void> BackwardObserver::end_layer(std::uint32_t) {
  return outcome::success();
}

std::vector<std::size_t> carried_planes(const ModelGraph& graph) {
  std::vector<std::size_t> out{graph.width};
  if (has_layer_embeddings(graph)) out.push_back(graph.width);
  const std::vector<bool> kept = kept_layers(graph);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const AttentionGraph& a = graph.layers[i].attention;
    if (!kept[i]) continue;
    out.push_back(std::size_t{a.kv_heads} * a.key_dim);
    out.push_back(std::size_t{a.kv_heads} * a.value_dim);
  }
  return out;
}

double label_draw(std::uint64_t seed, std::uint64_t token) {
  // The finalizer of SplitMix64 (Steele, Lea, Flood 2014), over both numbers in turn.
  const auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  };
  constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15ULL;
  const std::uint64_t bits = mix(mix(seed + kStep) + (token + 1) * kStep);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

std::string BackwardPlan::describe() const {
  std::string out =
      fmt::format("{} tokens, {:.3g} multiply-adds ({:.1f} forward passes), {} of weights to read\n", tokens,
                  multiply_adds, multiply_adds / forward_multiply_adds, size_text(weight_bytes));
  for (const RunPlan::Item& item : memory)
    out += fmt::format("  {:>10}  {}\n", size_text(item.bytes), item.name);
  out += fmt::format("  {:>10}  memory in all\n", size_text(memory_bytes));
  if (scratch_bytes != 0) out += fmt::format("  {:>10}  in scratch files\n", size_text(scratch_bytes));
  return out;
}

Result<BackwardPlan> BackwardPass::plan(const TokenWindows& windows, const BackwardOptions& options) const {
  const ModelGraph& graph = engine_->graph();
  // Checks the windows, too.
  RunOptions forward = options.run;
  forward.memory_limit = 0;
  QF_ASSIGN(const RunPlan forward_plan, engine_->plan(windows, forward));
  BackwardPlan plan;
  plan.tokens = forward_plan.tokens;
  const std::uint64_t longest = windows.longest();
  const std::size_t threads = Workers(options.run.threads).threads();
  const std::uint64_t limit = options.run.memory_limit;
  const std::uint64_t logits = std::min(logit_rows(graph, limit), plan.tokens);
  std::uint64_t target = options.run.batch_tokens != 0 ? options.run.batch_tokens : comfortable_batch(graph);
  target = std::min(std::max(target, longest), plan.tokens);
  const auto items = [&](std::uint64_t batch, bool resident) {
    return memory_of(graph, plan.tokens, longest, batch, logits, threads, resident);
  };
  const auto largest = [&](std::uint64_t batch) {
    std::uint64_t most = 0;
    for (const Batch& one : cut_batches(windows, batch)) most = std::max<std::uint64_t>(most, one.rows());
    return most;
  };
  bool resident = true;
  target = largest(target);
  if (limit != 0) {
    const auto fitting = [&](bool in_memory) -> std::uint64_t {
      std::uint64_t batch = target;
      while (batch > longest && sum_of(items(batch, in_memory)) > limit)
        batch = std::max(longest, batch - std::max<std::uint64_t>(1, batch / 8));
      return sum_of(items(batch, in_memory)) <= limit ? batch : 0;
    };
    const std::uint64_t in_memory = fitting(true);
    const std::uint64_t on_disk = in_memory == target ? 0 : fitting(false);
    if (in_memory == 0 && on_disk == 0) {
      return fail(ErrorCode::NoSpace,
                  "gradients for windows of {} tokens need {} of memory at least, the limit is {}", longest,
                  size_text(sum_of(items(longest, false))), size_text(limit));
    }
    // A small batch reads every weight more often: layer inputs go to disk when that makes it larger.
    resident = in_memory >= on_disk;
    target = largest(resident ? in_memory : on_disk);
  }
  plan.batch_tokens = static_cast<std::uint32_t>(target);
  plan.memory = items(target, resident);
  // While the forward pass runs there are its own buffers and the inputs of all layers.
  plan.memory_bytes = sum_of(plan.memory);
  if (!resident) {
    plan.scratch_bytes = plan.tokens * graph.width * sizeof(float) *
                             (graph.layers.size() + 2 + (has_layer_embeddings(graph) ? 1 : 0)) +
                         2 * kept_bytes(graph, plan.tokens);
  }
  const double head = static_cast<double>(plan.tokens) * graph.width * graph.vocabulary;
  plan.forward_multiply_adds = forward_plan.multiply_adds + head;
  plan.multiply_adds = 3 * forward_plan.multiply_adds + 2 * head;
  plan.weight_bytes = 3 * forward_plan.weight_bytes + 2 * graph.output.tensor->bytes;
  return plan;
}

Result<void> BackwardPass::run(const TokenWindows& windows, const BackwardOptions& options,
                               ForwardObserver* forward, BackwardObserver& observer, ProgressSink& progress,
                               const CancellationToken& cancel, const BackwardResume* resume) const {
  QF_ASSIGN(const BackwardPlan pass_plan, plan(windows, options));
  const Engine::State& state = *engine_->state_;
  const ModelGraph& graph = state.graph;
  const auto layers = static_cast<std::uint32_t>(graph.layers.size());
  const std::uint32_t end_layer = resume == nullptr ? layers + 1 : resume->layer;
  if (end_layer > layers && resume != nullptr)
    return fail(ErrorCode::InvalidArgument, "a pass over {} layers cannot go on at layer {}", layers,
                end_layer);
  if (end_layer == 0) return outcome::success();
  const std::uint64_t tokens = windows.tokens.size();
  const std::filesystem::path folder = options.run.scratch_folder.empty()
                                           ? std::filesystem::temp_directory_path()
                                           : options.run.scratch_folder;
  const auto states_of = [&](std::size_t rows, std::size_t width) {
    return pass_plan.scratch_bytes == 0 ? HiddenStates::in_memory(rows, width)
                                        : HiddenStates::in_file(folder, rows, width);
  };
  try {
    QF_ASSIGN(HiddenStates inputs, states_of(tokens * std::min(layers + 1, end_layer), graph.width));
    {
      LayerInputs keeper(inputs, tokens, forward);
      RunOptions run = options.run;
      if (run.memory_limit != 0 && pass_plan.scratch_bytes == 0)
        run.memory_limit -=
            std::min(run.memory_limit - 1, tokens * graph.width * sizeof(float) * (layers + 1));
      QF_ASSIGN(const HiddenStates last,
                engine_->run_to(end_layer, windows, run, &keeper, progress, cancel, nullptr));
      (void)last;
    }

    CarriedGradients carried;
    QF_ASSIGN(carried.stream, states_of(tokens, graph.width));
    if (has_layer_embeddings(graph)) {
      QF_ASSIGN(carried.embedding, states_of(tokens, graph.width));
    }
    const std::vector<bool> kept = kept_layers(graph);
    std::vector<KeptKeys> keys(layers);
    carried.kept.resize(layers);
    // Planes of what is carried: the stream, the embedding, keys and values of every shared layer.
    std::vector<HiddenStates*> planes{&carried.stream};
    if (carried.embedding.rows() != 0) planes.push_back(&carried.embedding);
    for (std::uint32_t i = 0; i < layers; ++i) {
      if (!kept[i]) continue;
      const AttentionGraph& a = graph.layers[i].attention;
      const std::size_t k_width = std::size_t{a.kv_heads} * a.key_dim,
                        v_width = std::size_t{a.kv_heads} * a.value_dim;
      QF_ASSIGN(keys[i].keys, states_of(tokens, k_width));
      QF_ASSIGN(keys[i].values, states_of(tokens, v_width));
      QF_ASSIGN(carried.kept[i].keys, states_of(tokens, k_width));
      QF_ASSIGN(carried.kept[i].values, states_of(tokens, v_width));
      planes.push_back(&carried.kept[i].keys);
      planes.push_back(&carried.kept[i].values);
    }

    Workers workers(options.run.threads);
    const std::size_t longest = windows.longest();
    workers.reserve_scratch(LayerBackward::scratch_floats(graph, longest));
    const std::vector<Batch> batches = cut_batches(windows, pass_plan.batch_tokens);
    std::vector<float> input_buffer, gradient_buffer;
    AlignedFloats output_memory(std::size_t{pass_plan.batch_tokens} * graph.width);
    const auto output_of = [&](const Batch& batch) {
      return MatrixView<float>{output_memory.data(), batch.rows(), graph.width, graph.width};
    };

    const auto work = [&]() -> Result<void> {
      LayerBackward runner(graph, state.weights, *state.math, workers, cancel);
      runner.prepare(longest);
      runner.expect_choice_errors(options.choice_error, options.seed);
      if (std::ranges::find(kept, true) != kept.end()) runner.keep_keys(&keys);
      const auto input_of = [&](std::uint32_t layer, const Batch& batch) {
        return std::as_const(inputs).read(layer * tokens + batch.first_token, batch.rows(), input_buffer);
      };
      const auto forward_again = [&](const Batch& batch, MatrixView<const float> input) {
        const MatrixView<float> x = output_of(batch);
        for (std::size_t t = 0; t < x.rows; ++t) std::copy_n(input.row(t), x.columns, x.row(t));
        return runner.forward(batch, x);
      };
      const auto hand_out = [&](std::uint32_t layer) -> Result<void> {
        if (!observer.wants_carried(layer)) return outcome::success();
        for (std::uint32_t plane = 0; plane < planes.size(); ++plane) {
          for (const Batch& batch : batches) {
            QF_ASSIGN(const auto rows,
                      std::as_const(*planes[plane]).read(batch.first_token, batch.rows(), gradient_buffer));
            QF_TRY(observer.carried(layer, plane, batch.first_token, rows));
          }
        }
        return outcome::success();
      };

      if (resume == nullptr) {
        // Loss, output matrix, final norm.
        QF_TRY(observer.begin_layer(layers));
        runner.begin_backward(nullptr, &observer);
        DrawnLabels drawn(*state.math, workers, options.seed);
        LogitLoss& loss = options.loss == nullptr ? drawn : *options.loss;
        const std::uint64_t block = std::min(logit_rows(graph, options.run.memory_limit), tokens);
        AlignedFloats logit_memory(block * graph.vocabulary), dlogit_memory(block * graph.vocabulary);
        AlignedFloats normed_memory(std::size_t{pass_plan.batch_tokens} * graph.width);
        for (const Batch& batch : batches) {
          QF_ASSIGN(const MatrixView<const float> x, input_of(layers, batch));
          QF_ASSIGN(const MatrixView<float> gradient,
                    carried.stream.read_mutable(batch.first_token, batch.rows(), gradient_buffer));
          const MatrixView<float> normed = output_of(batch);
          const MatrixView<float> dnormed{normed_memory.data(), batch.rows(), graph.width, graph.width};
          runner.norm_rows(graph.output_norm, x, normed);
          for (std::size_t first = 0; first < batch.rows(); first += block) {
            if (cancel.cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
            const std::size_t rows = std::min<std::size_t>(block, batch.rows() - first);
            const std::uint64_t token = batch.first_token + first;
            const MatrixView<const float> some = rows_of(constant(normed), first, rows);
            const MatrixView<float> logits{logit_memory.data(), rows, graph.vocabulary, graph.vocabulary};
            const MatrixView<float> dlogits{dlogit_memory.data(), rows, graph.vocabulary, graph.vocabulary};
            runner.product(graph.output, 0, 0, some, logits);
            QF_TRY(observer.output_product(
                token, {layers, &graph.output, 0, static_cast<std::uint32_t>(InputGroup::Output), some,
                        constant(logits)}));
            runner.add_bias(graph.output, 0, 0, logits);
            const auto each_row = [&](auto&& function) {
              workers.for_rows(rows, 4, [&](std::size_t begin, std::size_t count, float*) {
                for (std::size_t t = begin; t < begin + count; ++t) function(logits.row(t), dlogits.row(t));
              });
            };
            const std::size_t n = graph.vocabulary;
            each_row([&](float* z, float*) {
              if (graph.logit_factor != 1) state.math->scale(z, graph.logit_factor, n, z);
              if (graph.final_softcap != 0) state.math->softcap(z, graph.final_softcap, n, z);
            });
            QF_TRY(loss.gradient(token, constant(logits), dlogits));
            each_row([&](float* z, float* dz) {
              if (graph.final_softcap != 0) state.math->softcap_backward(z, dz, graph.final_softcap, n, dz);
              if (graph.logit_factor != 1) state.math->scale(dz, graph.logit_factor, n, dz);
            });
            QF_TRY(runner.output_backward(token, some, dlogits, rows_of(dnormed, first, rows)));
            progress.advance(2 * rows, "logits");
          }
          runner.output_norm_backward(batch, x, constant(dnormed), gradient);
          QF_TRY(carried.stream.write(batch.first_token, constant(gradient)));
        }
        QF_TRY(runner.tell_parameters());
        QF_TRY(observer.end_layer(layers));
        QF_TRY(hand_out(layers));
      } else {
        for (std::uint32_t plane = 0; plane < planes.size(); ++plane) {
          for (const Batch& batch : batches) {
            QF_ASSIGN(const auto rows,
                      planes[plane]->read_mutable(batch.first_token, batch.rows(), gradient_buffer));
            QF_TRY(resume->carried(plane, batch.first_token, rows));
            QF_TRY(planes[plane]->write(batch.first_token, constant(rows)));
          }
        }
      }
      const std::uint32_t first_layer = std::min(layers, end_layer);
      // Keys and values that several layers use: once more, for those that come first.
      for (std::uint32_t il = 0; il < first_layer; ++il) {
        if (!kept[il]) continue;
        runner.begin(graph.layers[il], nullptr);
        for (const Batch& batch : batches) {
          QF_ASSIGN(const MatrixView<const float> input, input_of(il, batch));
          QF_TRY(forward_again(batch, input));
        }
      }
      for (std::uint32_t il = first_layer; il-- > 0;) {
        const LayerGraph& layer = graph.layers[il];
        state.weights.will_need(layer.tensors);
        if (il != 0) state.weights.will_need(graph.layers[il - 1].tensors);
        QF_TRY(observer.begin_layer(il));
        runner.begin_backward(&layer, &observer);
        for (const Batch& batch : batches) {
          QF_ASSIGN(const MatrixView<const float> input, input_of(il, batch));
          QF_TRY(forward_again(batch, input));
          QF_ASSIGN(const MatrixView<float> gradient,
                    carried.stream.read_mutable(batch.first_token, batch.rows(), gradient_buffer));
          QF_TRY(runner.backward(batch, input, gradient, carried));
          QF_TRY(carried.stream.write(batch.first_token, constant(gradient)));
          progress.advance(3 * batch.rows(), fmt::format("block {}", il));
        }
        if (il == 0) {
          for (const Batch& batch : batches) {
            QF_ASSIGN(const MatrixView<float> gradient,
                      carried.stream.read_mutable(batch.first_token, batch.rows(), gradient_buffer));
            if (carried.embedding.rows() != 0) {
              QF_ASSIGN(const MatrixView<const float> more,
                        std::as_const(carried.embedding).read(batch.first_token, batch.rows(), input_buffer));
              for (std::size_t t = 0; t < gradient.rows; ++t)
                state.math->add(gradient.row(t), more.row(t), gradient.columns, gradient.row(t));
            }
            QF_TRY(runner.embedding_backward(batch, gradient));
            QF_TRY(
                observer.lookup({graph.embedding, 0, batch.first_token, batch.tokens, constant(gradient)}));
          }
        }
        QF_TRY(runner.tell_parameters());
        QF_TRY(observer.end_layer(il));
        QF_TRY(hand_out(il));
        state.weights.done_with(layer.tensors);
      }
      return outcome::success();
    };
    progress.begin("gradients",
                   tokens * (3 * std::uint64_t{std::min(layers, end_layer)} + (resume == nullptr ? 2 : 0)));
    Result<void> done = workers.run(work);
    progress.end();
    return done;
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "out of memory; the pass needs {}", size_text(pass_plan.memory_bytes));
  }
}

Result<void> BackwardPass::embeddings(const TokenWindows& windows, const RunOptions& options,
                                      const TakeStates& output, const CancellationToken& cancel) const {
  NoProgress progress;
  return run_alone(std::nullopt, windows, options, {}, output, progress, cancel);
}

Result<void> BackwardPass::layer_outputs(std::uint32_t layer, const TokenWindows& windows,
                                         const RunOptions& options, const FillStates& input,
                                         const TakeStates& output, ProgressSink& progress,
                                         const CancellationToken& cancel) const {
  if (layer > engine_->graph().layers.size() || !engine_->can_resume())
    return fail(ErrorCode::InvalidArgument, "layer {} of this model cannot be run alone", layer);
  return run_alone(layer, windows, options, input, output, progress, cancel);
}

Result<void> BackwardPass::run_alone(std::optional<std::uint32_t> layer, const TokenWindows& windows,
                                     const RunOptions& options, const FillStates& input,
                                     const TakeStates& output, ProgressSink& progress,
                                     const CancellationToken& cancel) const {
  QF_ASSIGN(const RunPlan run_plan, engine_->plan(windows, options));
  const Engine::State& state = *engine_->state_;
  const ModelGraph& graph = state.graph;
  const LayerGraph* one = layer && *layer < graph.layers.size() ? &graph.layers[*layer] : nullptr;
  try {
    Workers workers(options.threads);
    const std::size_t longest = windows.longest();
    workers.reserve_scratch(LayerRunner::scratch_floats(graph, longest));
    std::vector<float> states(std::size_t{run_plan.batch_tokens} * graph.width);
    const auto work = [&]() -> Result<void> {
      LayerRunner runner(graph, state.weights, *state.math, workers, cancel);
      runner.prepare(longest);
      if (one != nullptr) {
        QF_TRY(state.weights.validate(one->tensors, workers, cancel));
        runner.begin(*one, nullptr);
      }
      for (const Batch& batch : cut_batches(windows, run_plan.batch_tokens)) {
        const MatrixView<float> x{states.data(), batch.rows(), graph.width, graph.width};
        if (layer)
          QF_TRY(input(batch.first_token, x));
        else
          QF_TRY(runner.embed(batch, x));
        if (one != nullptr)
          QF_TRY(runner.forward(batch, x));
        else if (layer)
          runner.norm_rows(graph.output_norm, constant(x), x);
        QF_TRY(output(batch.first_token, constant(x)));
        progress.advance(batch.rows(), "a layer");
      }
      if (one != nullptr) state.weights.done_with(one->tensors);
      return outcome::success();
    };
    progress.begin("running a layer", windows.tokens.size());
    Result<void> done = workers.run(work);
    progress.end();
    return done;
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "out of memory; the run needs {}", size_text(run_plan.memory_bytes));
  }
}

Result<BackwardPass::LayerMemory> BackwardPass::layer_memory(const TokenWindows& windows,
                                                             const RunOptions& options) const {
  const ModelGraph& graph = engine_->graph();
  if (!engine_->can_resume())
    return fail(ErrorCode::InvalidArgument, "layers of this model share keys: none can be run alone");
  RunOptions unlimited = options;
  unlimited.memory_limit = 0;
  QF_ASSIGN(const RunPlan forward, engine_->plan(windows, unlimited));
  const std::uint64_t longest = windows.longest();
  const std::size_t threads = Workers(options.threads).threads();
  const auto bytes_of = [&](std::uint64_t batch) {
    // Without logits; "inputs of all layers" are those of a batch.
    return sum_of(memory_of(graph, forward.tokens, longest, batch, 0, threads, false));
  };
  std::uint64_t batch = forward.batch_tokens;
  const std::uint64_t limit = options.memory_limit;
  while (limit != 0 && batch > longest && bytes_of(batch) > limit)
    batch = std::max(longest, batch - std::max<std::uint64_t>(1, batch / 8));
  if (limit != 0 && bytes_of(batch) > limit)
    return fail(ErrorCode::NoSpace,
                "gradients of a layer for windows of {} tokens need {} of memory at least, the limit is {}",
                longest, size_text(bytes_of(batch)), size_text(limit));
  return LayerMemory{batch, bytes_of(batch)};
}

Result<void> BackwardPass::run_layer(std::uint32_t il, const TokenWindows& windows, const RunOptions& options,
                                     const FillStates& input, LayerLoss& loss, BackwardObserver& observer,
                                     ProgressSink& progress, const CancellationToken& cancel) const {
  QF_ASSIGN(const LayerMemory memory, layer_memory(windows, options));
  const Engine::State& state = *engine_->state_;
  const ModelGraph& graph = state.graph;
  if (il >= graph.layers.size())
    return fail(ErrorCode::InvalidArgument, "a model of {} layers has no layer {}", graph.layers.size(), il);
  try {
    const std::vector<Batch> batches = cut_batches(windows, memory.batch_tokens);
    CarriedGradients carried;
    if (has_layer_embeddings(graph)) {
      QF_ASSIGN(carried.embedding, HiddenStates::in_memory(windows.tokens.size(), graph.width));
    }
    carried.kept.resize(graph.layers.size());
    Workers workers(options.threads);
    const std::size_t longest = windows.longest();
    workers.reserve_scratch(LayerBackward::scratch_floats(graph, longest));
    AlignedFloats in_memory(memory.batch_tokens * graph.width), out_memory(memory.batch_tokens * graph.width),
        gradient_memory(memory.batch_tokens * graph.width);
    const auto view = [&](AlignedFloats& floats, const Batch& batch) {
      return MatrixView<float>{floats.data(), batch.rows(), graph.width, graph.width};
    };
    const auto work = [&]() -> Result<void> {
      LayerBackward runner(graph, state.weights, *state.math, workers, cancel);
      runner.prepare(longest);
      const LayerGraph& layer = graph.layers[il];
      QF_TRY(observer.begin_layer(il));
      runner.begin_backward(&layer, &observer);
      for (const Batch& batch : batches) {
        const MatrixView<float> in = view(in_memory, batch), out = view(out_memory, batch),
                                gradient = view(gradient_memory, batch);
        QF_TRY(input(batch.first_token, in));
        for (std::size_t t = 0; t < in.rows; ++t) std::copy_n(in.row(t), in.columns, out.row(t));
        QF_TRY(runner.forward(batch, out));
        QF_TRY(loss.gradient(batch.first_token, constant(out), gradient));
        QF_TRY(runner.backward(batch, constant(in), gradient, carried));
        progress.advance(3 * batch.rows(), fmt::format("block {}", il));
      }
      QF_TRY(runner.tell_parameters());
      return observer.end_layer(il);
    };
    progress.begin("gradients of a layer", 3 * windows.tokens.size());
    Result<void> done = workers.run(work);
    progress.end();
    return done;
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "out of memory; the pass needs {}", size_text(memory.bytes));
  }
}

}  // namespace quantfit::engine

#include "optimizer/tuning/layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/clock.h"
#include "core/digest.h"
#include "core/gguf_writer.h"
#include "kernels/math/math_kernels.h"
#include "kernels/row_kernels.h"
#include "optimizer/engine/backward.h"
#include "optimizer/parallel/workers.h"
#include "optimizer/tuning/batches.h"
#include "optimizer/tuning/checkpoint.h"
#include "optimizer/tuning/gradients.h"
#include "optimizer/tuning/one_phase.h"
#include "optimizer/tuning/parameters.h"
#include "optimizer/tuning/teacher.h"

namespace quantfit::tuning {
namespace {

using engine::HiddenStates;
using kernels::MatrixView;

constexpr std::string_view kLayerType = "quantfit.tuning.layer";
constexpr std::string_view kLayerIdentity = "tuning.identity", kLayerDigest = "tuning.digest";
constexpr std::string_view kOutcome = "outcome";
// Windows that channels are weighed by.
constexpr std::size_t kWeightWindows = 16;

// Rows of tokens first .. of the text that windows_of(.., list) is.
Result<void> gather(const HiddenStates& states, const WindowList& list, std::size_t length,
                    std::uint64_t first, MatrixView<float> out, std::vector<float>& buffer) {
  for (std::size_t done = 0; done < out.rows;) {
    const std::uint64_t token = first + done;
    const std::size_t at = token % length, count = std::min(length - at, out.rows - done);
    QF_ASSIGN(const auto rows, states.read(list[token / length] * length + at, count, buffer));
    for (std::size_t t = 0; t < count; ++t) std::copy_n(rows.row(t), rows.columns, out.row(done + t));
    done += count;
  }
  return outcome::success();
}

// 1/2 sum over channels of weight (y - t)^2.
class WeightedSquares final : public engine::LayerLoss {
 public:
  WeightedSquares(const HiddenStates& targets, const WindowList& list, std::size_t length,
                  const std::vector<float>& weights)
      : targets_(&targets), list_(&list), length_(length), weights_(&weights), windows_(list.size(), 0.0) {}

  Result<void> gradient(std::uint64_t first_token, MatrixView<const float> output,
                        MatrixView<float> gradient) override {
    return compare(first_token, output, &gradient);
  }
  // The same without a gradient.
  Result<void> compare(std::uint64_t first_token, MatrixView<const float> output,
                       const MatrixView<float>* gradient) {
    rows_.resize(output.rows * output.columns);
    const MatrixView<float> targets{rows_.data(), output.rows, output.columns, output.columns};
    QF_TRY(gather(*targets_, *list_, length_, first_token, targets, buffer_));
    for (std::size_t t = 0; t < output.rows; ++t) {
      double sum = 0;
      for (std::size_t c = 0; c < output.columns; ++c) {
        const float off = output.row(t)[c] - targets.row(t)[c];
        const float pull = (*weights_)[c] * off;
        if (gradient != nullptr) gradient->row(t)[c] = pull;
        sum += static_cast<double>(off) * static_cast<double>(pull);
      }
      windows_[(first_token + t) / length_] += sum / 2;
    }
    return outcome::success();
  }
  // Per token, of every window.
  [[nodiscard]] std::vector<double> by_window() const {
    std::vector<double> out = windows_;
    for (double& one : out) one /= static_cast<double>(length_);
    return out;
  }

 private:
  const HiddenStates* targets_;
  const WindowList* list_;
  std::size_t length_;
  const std::vector<float>* weights_;
  std::vector<double> windows_;
  std::vector<float> rows_, buffer_;
};

// Mean squared gradients at every channel behind every layer.
class ChannelWeights final : public engine::BackwardObserver {
 public:
  ChannelWeights(std::size_t layers, std::size_t width)
      : sums_(layers, std::vector<double>(width, 0.0)), tokens_(layers, 0) {}
  // What layer l + 1 gets is what layer l gives out.
  [[nodiscard]] bool wants_carried(std::uint32_t layer) const override { return layer > 0; }
  Result<void> carried(std::uint32_t layer, std::uint32_t plane, std::uint64_t,
                       MatrixView<const float> rows) override {
    if (plane != 0) return outcome::success();
    std::vector<double>& sum = sums_[layer - 1];
    for (std::size_t t = 0; t < rows.rows; ++t)
      for (std::size_t c = 0; c < rows.columns; ++c)
        sum[c] += static_cast<double>(rows.row(t)[c]) * static_cast<double>(rows.row(t)[c]);
    tokens_[layer - 1] += rows.rows;
    return outcome::success();
  }
  [[nodiscard]] std::vector<std::vector<float>> means() const {
    std::vector<std::vector<float>> out;
    for (std::size_t l = 0; l < sums_.size(); ++l) {
      out.emplace_back();
      for (const double sum : sums_[l])
        out.back().push_back(static_cast<float>(sum / static_cast<double>(tokens_[l])));
    }
    return out;
  }

 private:
  std::vector<std::vector<double>> sums_;
  std::vector<std::uint64_t> tokens_;
};

std::vector<double> numbers_of(const Attempt& one) {
  std::vector<double> out{static_cast<double>(one.level),
                          static_cast<double>(one.moments),
                          static_cast<double>(one.steps),
                          static_cast<double>(one.best_step),
                          one.gain.before,
                          one.gain.after,
                          one.gain.difference,
                          one.gain.difference_error,
                          static_cast<double>(one.codes),
                          static_cast<double>(one.codes_moved),
                          one.kept ? 1.0 : 0.0};
  for (const Look& look : one.looks) {
    out.push_back(look.step);
    out.push_back(look.divergence);
  }
  return out;
}

std::optional<Attempt> attempt_of(std::span<const double> numbers) {
  constexpr std::size_t kFixed = 11;
  if (numbers.size() < kFixed || (numbers.size() - kFixed) % 2 != 0 ||
      !(numbers[0] >= 0 && numbers[0] <= static_cast<double>(Level::Codes)))
    return std::nullopt;
  const auto whole = [](double value) {
    return value >= 0 && value < 9e15 ? static_cast<std::uint64_t>(value) : 0;
  };
  Attempt out;
  out.level = static_cast<Level>(whole(numbers[0]));
  out.moments = numbers[1] == 0 ? MomentForm::Whole : MomentForm::Bytes;
  out.steps = static_cast<std::uint32_t>(whole(numbers[2]));
  out.best_step = static_cast<std::uint32_t>(whole(numbers[3]));
  out.gain = {numbers[4], numbers[5], numbers[6], numbers[7]};
  out.codes = whole(numbers[8]);
  out.codes_moved = whole(numbers[9]);
  out.kept = numbers[10] != 0;
  for (std::size_t i = kFixed; i < numbers.size(); i += 2)
    out.looks.push_back({static_cast<std::uint32_t>(whole(numbers[i])), numbers[i + 1]});
  return out;
}

// What a layer became: its outcome, and the bytes of its tensors where they were kept.
Result<void> write_layer(const std::filesystem::path& path, const std::string& identity,
                         const Attempt& attempt, const Parameters& parameters) {
  const std::vector<double> numbers = numbers_of(attempt);
  TensorInfo outcome_info;
  outcome_info.name = kOutcome;
  outcome_info.n_dims = 1;
  outcome_info.format = Format::F64;
  outcome_info.ne = {numbers.size(), 1, 1, 1};
  std::vector<TensorInfo> infos{outcome_info};
  Digest digest;
  digest.bytes(std::as_bytes(std::span(numbers)));
  if (attempt.kept) {
    for (const Parameter& one : parameters.all()) {
      infos.push_back(*one.tensor);
      digest.bytes(one.bytes);
    }
  }
  GgufMetadata metadata;
  metadata.add(GgufKeyValue::of_string("general.type", kLayerType));
  metadata.add(GgufKeyValue::of_string(std::string(kLayerIdentity), identity));
  metadata.add(GgufKeyValue::of_string(std::string(kLayerDigest), digest.hex()));
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata, infos));
  QF_TRY(writer.append(std::as_bytes(std::span(numbers))));
  if (attempt.kept)
    for (const Parameter& one : parameters.all()) QF_TRY(writer.append(one.bytes));
  return writer.commit();
}

struct KnownLayer {
  Model file;
  Attempt attempt;
};

// Nothing where there is no such file, or one of another tuning, or a damaged one.
std::optional<KnownLayer> read_layer(const std::filesystem::path& path, const std::string& identity) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  auto file = Model::open(path);
  if (!file) return std::nullopt;
  const GgufMetadata& metadata = file.value().metadata();
  const TensorInfo* outcome_tensor = file.value().find(kOutcome);
  if (metadata.string("general.type") != kLayerType || metadata.string(kLayerIdentity) != identity ||
      outcome_tensor == nullptr || outcome_tensor->format != Format::F64)
    return std::nullopt;
  Digest digest;
  for (const TensorInfo& tensor : file.value().tensors()) digest.bytes(file.value().data(tensor));
  if (metadata.string(kLayerDigest) != digest.hex()) return std::nullopt;
  const auto data = file.value().data(*outcome_tensor);
  std::vector<double> numbers(data.size() / sizeof(double));
  std::memcpy(numbers.data(), data.data(), numbers.size() * sizeof(double));
  auto attempt = attempt_of(numbers);
  if (!attempt) return std::nullopt;
  return KnownLayer{std::move(file).value(), std::move(*attempt)};
}

// Adds the bytes of the file's tensors in the places of the model's. False where they do not fit.
bool add_bytes(const Model& quantized, const Model& file, engine::ReplacedTensors& bytes) {
  for (const TensorInfo& tensor : file.tensors()) {
    if (tensor.name == kOutcome) continue;
    const TensorInfo* own = quantized.find(tensor.name);
    if (own == nullptr || own->format != tensor.format || own->bytes != tensor.bytes) return false;
    bytes[own] = file.data(tensor);
  }
  return true;
}

class LayerTuner {
 public:
  LayerTuner(const Opened& opened, const LevelPlan& plan, const TuneOptions& options, std::string identity,
             ProgressSink& progress, const CancellationToken& cancel)
      : opened_(&opened),
        plan_(&plan),
        options_(&options),
        identity_(std::move(identity)),
        split_(split_of(opened.windows.lengths.size())),
        length_(opened.windows.lengths.front()),
        progress_(&progress),
        phase_(progress),
        cancel_(&cancel) {}

  Result<TuneResult> run() {
    const auto started = Clock::now();
    TuneResult out;
    out.training_tokens = plan_->plan.training_tokens;
    out.held_back_tokens = plan_->plan.held_back_tokens;
    const engine::ModelGraph& graph = opened_->quantized.graph();
    const auto layers = static_cast<std::uint32_t>(graph.layers.size());
    QF_TRY(weigh());
    QF_TRY(make_states());
    progress_->begin("tuning layers", std::uint64_t{layers} * work_of_layer());
    for (std::uint32_t layer = 0; layer < layers; ++layer) QF_TRY(one_layer(layer, out));
    progress_->end();
    // The whole file's divergence decides.
    QF_TRY(pass(opened_->original, layers, original_, original_));
    const Teacher teacher =
        Teacher::of(opened_->original, opened_->windows, plan_->run, std::move(original_));
    QF_ASSIGN(const auto before,
              teacher.divergences(opened_->quantized, split_.held_back, *progress_, *cancel_));
    QF_ASSIGN(const auto student,
              engine::Engine::open(opened_->quantized.model(), engine::Arithmetic::Exact, out.layer_bytes));
    QF_ASSIGN(const auto after, teacher.divergences(student, split_.held_back, *progress_, *cancel_));
    Attempt& whole = out.attempts.emplace_back();
    whole.level = plan_->plan.level;
    whole.moments = plan_->plan.moments;
    whole.steps = whole.best_step = plan_->plan.steps;
    whole.gain = gain_of(before, after);
    whole.kept = whole.gain.decided();
    for (const LayerOutcome& one : out.layers) {
      whole.codes += one.attempt.codes;
      whole.codes_moved += one.attempt.codes_moved;
    }
    out.level = whole.kept ? whole.level : Level::None;
    out.gain = whole.kept ? whole.gain : gain_of(before, before);
    if (!whole.kept) out.layer_bytes.clear();
    out.seconds = seconds_since(started);
    return out;
  }

 private:
  [[nodiscard]] std::uint64_t of_step() const {
    return std::min(step_windows(*options_, length_), split_.training.size()) * length_;
  }
  [[nodiscard]] std::uint64_t work_of_layer() const {
    const std::uint64_t all = opened_->windows.tokens.size();
    return 2 * all + plan_->plan.steps * 3 * of_step() + (kLooks + 1) * split_.held_back.size() * length_;
  }
  Result<HiddenStates> states() const {
    const std::size_t rows = opened_->windows.tokens.size(), width = opened_->original.graph().width;
    if (plan_->states_in_memory) return HiddenStates::in_memory(rows, width);
    return HiddenStates::in_file(plan_->run.scratch_folder.empty() ? std::filesystem::temp_directory_path()
                                                                   : plan_->run.scratch_folder,
                                 rows, width);
  }
  Result<void> put(const HiddenStates& from, std::uint64_t first, MatrixView<float> rows) {
    QF_ASSIGN(const auto some, from.read(first, rows.rows, buffer_));
    for (std::size_t t = 0; t < rows.rows; ++t) std::copy_n(some.row(t), rows.columns, rows.row(t));
    return outcome::success();
  }
  static engine::TakeStates into(HiddenStates& to) {
    return [&to](std::uint64_t first, MatrixView<const float> rows) -> Result<void> {
      std::vector<float> buffer;
      QF_ASSIGN(const auto place, to.read_mutable(first, rows.rows, buffer));
      for (std::size_t t = 0; t < rows.rows; ++t) std::copy_n(rows.row(t), rows.columns, place.row(t));
      return to.write(first, {place.data, place.rows, place.columns, place.stride});
    };
  }

  // What an error at every channel costs.
  Result<void> weigh() {
    const WindowList some = [&] {
      WindowList out;
      const std::size_t count = std::min(kWeightWindows, split_.training.size());
      for (std::size_t i = 0; i < count; ++i)
        out.push_back(split_.training[i * split_.training.size() / count]);
      return out;
    }();
    const engine::ModelGraph& graph = opened_->original.graph();
    ChannelWeights weights(graph.layers.size(), graph.width);
    engine::BackwardOptions options{.run = options_->run, .seed = options_->seed};
    auto done = engine::BackwardPass(opened_->original)
                    .run(windows_of(opened_->windows, some), options, nullptr, weights, *progress_, *cancel_);
    if (done) weights_ = weights.means();
    if (!done && done.error().code != ErrorCode::NoSpace) return done.error();
    return outcome::success();
  }

  Result<void> make_states() {
    QF_ASSIGN(original_, states());
    QF_ASSIGN(quantized_, states());
    QF_ASSIGN(targets_, states());
    return outcome::success();
  }

  Result<void> one_layer(std::uint32_t layer, TuneResult& out) {
    const Model& quantized = opened_->quantized.model();
    phase_.tell(fmt::format("layer {}", layer));
    // What a layer gives out becomes the next one's input.
    if (layer == 0) QF_TRY(embed());
    QF_TRY(pass(opened_->original, layer, original_, targets_));
    const std::filesystem::path path = path_of(layer);
    auto known = read_layer(path, identity_);
    if (known && !add_bytes(quantized, known->file, out.layer_bytes)) known.reset();
    if (!known) {
      Parameters parameters;
      Attempt attempt;
      for (const Level level : levels()) {
        QF_ASSIGN(attempt, attempt_layer(layer, level, parameters));
        if (attempt.kept) break;
      }
      QF_TRY(write_layer(path, identity_, attempt, parameters));
      known = read_layer(path, identity_);
      if (!known || !add_bytes(quantized, known->file, out.layer_bytes))
        return fail(ErrorCode::Io, "{}: what was written of a tuned layer cannot be read", path.string());
    } else {
      out.continued_at = layer + 1;
      phase_.advance(work_of_layer() - 2 * opened_->windows.tokens.size(), "");
    }
    if (options_->checkpoint.empty()) {
      std::error_code ignored;
      std::filesystem::remove(path, ignored);  // its bytes stay mapped
    }
    QF_ASSIGN(const auto student,
              engine::Engine::open(quantized, engine::Arithmetic::Exact, out.layer_bytes));
    QF_TRY(pass(student, layer, quantized_, quantized_));
    std::swap(original_, targets_);
    out.layers.push_back({layer, known->attempt});
    out.layer_files.push_back(std::move(known->file));
    return outcome::success();
  }

  // The inputs of the first layer.
  Result<void> embed() {
    QF_TRY(engine::BackwardPass(opened_->original)
               .embeddings(opened_->windows, plan_->run, into(original_), *cancel_));
    return engine::BackwardPass(opened_->quantized)
        .embeddings(opened_->windows, plan_->run, into(quantized_), *cancel_);
  }
  // States behind the layer for all windows; in place where both are the same.
  Result<void> pass(const engine::Engine& engine, std::uint32_t layer, const HiddenStates& from,
                    HiddenStates& to) {
    const engine::FillStates input = [&](std::uint64_t first, MatrixView<float> rows) {
      return put(from, first, rows);
    };
    return engine::BackwardPass(engine).layer_outputs(layer, opened_->windows, plan_->run, input, into(to),
                                                      phase_, *cancel_);
  }

  [[nodiscard]] std::filesystem::path path_of(std::uint32_t layer) const {
    if (!options_->checkpoint.empty()) return layer_file(options_->checkpoint, layer);
    const std::filesystem::path folder = options_->run.scratch_folder.empty()
                                             ? std::filesystem::temp_directory_path()
                                             : options_->run.scratch_folder;
    return layer_file(folder / fmt::format("quantfit-{}", identity_), layer);
  }
  [[nodiscard]] std::vector<Level> levels() const {
    if (options_->level) return {*options_->level};
    if (plan_->plan.level == Level::Codes) return {Level::Codes, Level::Scales};
    return {plan_->plan.level};
  }

  Result<std::vector<double>> look(const engine::Engine& student, std::uint32_t layer,
                                   const std::vector<float>& weights) {
    WeightedSquares squares(targets_, split_.held_back, length_, weights);
    QF_TRY(engine::BackwardPass(student).layer_outputs(
        layer, windows_of(opened_->windows, split_.held_back), plan_->run, input_of(split_.held_back),
        [&](std::uint64_t first, MatrixView<const float> rows) {
          return squares.compare(first, rows, nullptr);
        },
        phase_, *cancel_));
    return squares.by_window();
  }

  Result<Attempt> attempt_layer(std::uint32_t layer, Level level, Parameters& parameters) {
    const Model& quantized = opened_->quantized.model();
    const engine::ModelGraph& graph = opened_->quantized.graph();
    QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
    QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
    QF_ASSIGN(parameters, Parameters::collect(quantized, graph, opened_->original.model(), *rows, level,
                                              plan_->plan.moments, graph.layers[layer].tensors));
    engine::ReplacedTensors replaced;
    for (const Parameter& one : parameters.all()) replaced.emplace(one.tensor, one.bytes);
    QF_ASSIGN(const auto student,
              engine::Engine::open(quantized, engine::Arithmetic::Exact, std::move(replaced)));
    QF_ASSIGN(const std::vector<float> weights, weights_of(layer));
    QF_ASSIGN(const std::vector<double> before, look(student, layer, weights));
    std::vector<double> best = before;
    TensorBytes best_bytes = parameters.snapshot();
    Attempt out;
    out.level = level;
    out.moments = plan_->plan.moments;
    out.steps = plan_->plan.steps;
    Batches batches(split_.training, step_windows(*options_, length_), options_->seed);
    const double stiffness =
        1 / (options_->spread * options_->spread * static_cast<double>(split_.training.size() * length_));
    for (std::uint32_t step = 1; step <= out.steps; ++step) {
      phase_.tell(fmt::format("layer {} of {}, step {} of {}: {:.3g} (was {:.3g})", layer + 1,
                              graph.layers.size(), step, out.steps, mean_of(best), mean_of(before)));
      const WindowList list = batches.next();
      const engine::TokenWindows windows = windows_of(opened_->windows, list);
      WeightedSquares loss(targets_, list, length_, weights);
      GradientCollector collector(*math, *rows, parameters, windows.lengths);
      parameters.clear_gradients();
      QF_TRY(engine::BackwardPass(student).run_layer(layer, windows, plan_->run, input_of(list), loss,
                                                     collector, phase_, *cancel_));
      const double left = 1 - static_cast<double>(step - 1) / out.steps;
      optimizer::Workers workers(plan_->run.threads);
      workers.run([&] {
        parameters.step(
            {options_->value_rate * left, options_->scale_rate * left, options_->code_rate * left, stiffness},
            step, windows.tokens.size());
      });
      if (step * kLooks / out.steps == (step - 1) * kLooks / out.steps) continue;
      QF_ASSIGN(std::vector<double> seen, look(student, layer, weights));
      out.looks.push_back({step, mean_of(seen)});
      if (mean_of(seen) < mean_of(best)) {
        best = std::move(seen);
        best_bytes = parameters.snapshot();
        out.best_step = step;
      }
    }
    parameters.restore(best_bytes);
    for (const Parameter& one : parameters.all()) {
      if (!one.codes) continue;
      out.codes += one.codes->count();
      out.codes_moved += one.codes->moved(quantized.data(*one.tensor), one.bytes);
    }
    out.gain = gain_of(before, best);
    out.kept = out.gain.decided();
    return out;
  }

  engine::FillStates input_of(const WindowList& list) {
    return [this, &list](std::uint64_t first, MatrixView<float> rows) {
      return gather(quantized_, list, length_, first, rows, buffer_);
    };
  }

  // G of the channels behind the layer, or what makes the loss a relative one.
  Result<std::vector<float>> weights_of(std::uint32_t layer) {
    if (!weights_.empty()) return weights_[layer];
    double sum = 0;
    const std::size_t tokens = opened_->windows.tokens.size();
    for (std::size_t first = 0; first < tokens; first += length_) {
      QF_ASSIGN(const auto rows, std::as_const(targets_).read(first, length_, buffer_));
      for (std::size_t t = 0; t < rows.rows; ++t)
        for (std::size_t c = 0; c < rows.columns; ++c)
          sum += static_cast<double>(rows.row(t)[c]) * static_cast<double>(rows.row(t)[c]);
    }
    const double mean = sum / static_cast<double>(tokens);
    return std::vector<float>(targets_.width(), mean > 0 ? static_cast<float>(1 / mean) : 1.0F);
  }

  const Opened* opened_;
  const LevelPlan* plan_;
  const TuneOptions* options_;
  std::string identity_;
  Split split_;
  std::size_t length_;
  ProgressSink* progress_;
  OnePhase phase_;
  const CancellationToken* cancel_;
  std::vector<std::vector<float>> weights_;      // by layer; empty: relative errors
  HiddenStates original_, quantized_, targets_;  // in front of the layer, and the original's behind it
  std::vector<float> buffer_;
};

}  // namespace

std::filesystem::path layer_file(const std::filesystem::path& checkpoint, std::size_t layer) {
  return fmt::format("{}.layer-{:05}", checkpoint.string(), layer);
}

void remove_checkpoint(const std::filesystem::path& checkpoint) {
  std::error_code ignored;
  std::filesystem::remove(checkpoint, ignored);
  for (std::size_t layer = 0; std::filesystem::remove(layer_file(checkpoint, layer), ignored); ++layer) {
  }
}

bool can_tune_layers(const Opened& opened) {
  return opened.original.can_resume() && opened.quantized.can_resume();
}

Result<LevelPlan> plan_layers(const Opened& opened, const TuneOptions& options) {
  const engine::ModelGraph& graph = opened.quantized.graph();
  const engine::TokenWindows& windows = opened.windows;
  const std::uint64_t length = windows.lengths.front();
  const Split split = split_of(windows.lengths.size());
  LevelPlan out;
  TunePlan& plan = out.plan;
  plan.by_layers = true;
  plan.training_tokens = split.training.size() * length;
  plan.held_back_tokens = split.held_back.size() * length;
  plan.steps = options.steps != 0 ? options.steps : suitable_steps(plan.training_tokens, options.step_tokens);
  const std::size_t of_step = std::min(step_windows(options, length), split.training.size());
  const engine::TokenWindows some = windows_of(
      windows, {split.training.begin(), split.training.begin() + static_cast<std::ptrdiff_t>(of_step)});
  const std::uint64_t states = 3 * windows.tokens.size() * graph.width * sizeof(float);
  std::optional<Error> failure;
  const std::vector<Level> levels =
      options.level ? std::vector{*options.level} : std::vector{Level::Codes, Level::Scales, Level::Norms};
  for (const Level level : levels) {
    std::vector<MomentForm> forms{options.moments.value_or(MomentForm::Whole)};
    if (level == Level::Codes && !options.moments) forms.push_back(MomentForm::Bytes);
    for (const MomentForm form : forms) {
      std::uint64_t largest = 0;
      plan.values = plan.scales = plan.codes = 0;
      for (const engine::LayerGraph& layer : graph.layers) {
        std::vector<TensorInfo> tensors;
        for (const TensorInfo* tensor : layer.tensors) tensors.push_back(*tensor);
        const ParameterSizes sizes = Parameters::sizes(tensors, graph, opened.original.model(), level, form);
        largest = std::max(largest, sizes.bytes);
        plan.values += sizes.values;
        plan.scales += sizes.scales;
        plan.codes += sizes.codes;
      }
      for (const bool in_memory : {true, false}) {
        const std::uint64_t fixed = largest + (in_memory ? states : 0);
        const std::uint64_t limit = options.run.memory_limit;
        out.run = options.run;
        if (limit != 0) out.run.memory_limit = limit > fixed ? limit - fixed : 1;
        const auto memory = engine::BackwardPass(opened.quantized).layer_memory(some, out.run);
        if (!memory && memory.error().code != ErrorCode::NoSpace) return memory.error();
        const auto teacher = opened.original.plan(windows, out.run);
        if (!teacher && teacher.error().code != ErrorCode::NoSpace) return teacher.error();
        if (!memory || !teacher) {
          failure = memory ? teacher.error() : memory.error();
          continue;
        }
        plan.level = level;
        plan.moments = form;
        out.states_in_memory = in_memory;
        plan.memory.push_back(
            {fmt::format("numbers of a layer that are tuned ({}), its tensors and moments{}",
                         to_string(level),
                         level == Level::Codes && form == MomentForm::Bytes ? " (of codes in bytes)" : ""),
             largest});
        plan.memory.push_back({"states of all tokens, three times", in_memory ? states : 0});
        plan.memory.push_back({"a layer forward and back", memory.value().bytes});
        for (const auto& item : plan.memory) plan.memory_bytes += item.bytes;
        plan.scratch_bytes = in_memory ? 0 : states;
        const auto all = static_cast<double>(windows.tokens.size());
        const double layers = teacher.value().multiply_adds;
        const double head = all * graph.width * graph.vocabulary;
        plan.forward_multiply_adds = layers + head;
        const double held = static_cast<double>(plan.held_back_tokens) / all;
        const double weighed =
            std::min(1.0, static_cast<double>(kWeightWindows) / static_cast<double>(windows.lengths.size()));
        const double trained = static_cast<double>(plan.steps * of_step * length) / all;
        plan.multiply_adds = weighed * (3 * layers + 2 * head) + 2 * layers +
                             held * ((kLooks + 3) * layers + 4 * head) +
                             trained * (level >= Level::Scales ? 4 : 3) * layers;
        return out;
      }
    }
  }
  return std::move(*failure);
}

Result<TuneResult> tune_layers(const Model& original, const Model& quantized, const calibration::Text& text,
                               const TuneOptions& options, ProgressSink& progress,
                               const CancellationToken& cancel) {
  QF_ASSIGN(const Opened opened, open_models(original, quantized, text));
  if (!can_tune_layers(opened))
    return fail(ErrorCode::InvalidArgument,
                "layers of this model share keys: it cannot be tuned one layer at a time");
  QF_ASSIGN(const LevelPlan plan, plan_layers(opened, options));
  LayerTuner tuner(opened, plan, options, tuning_identity(original, quantized, text, options), progress,
                   cancel);
  return tuner.run();
}

}  // namespace quantfit::tuning

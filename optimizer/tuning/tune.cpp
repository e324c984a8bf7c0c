#include "optimizer/tuning/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "core/byte_size.h"
#include "kernels/row_kernels.h"
#include "optimizer/engine/backward.h"
#include "optimizer/parallel/workers.h"
#include "optimizer/tuning/gradients.h"
#include "optimizer/tuning/teacher.h"

namespace quantfit::tuning {
namespace {

constexpr std::uint32_t kFewestSteps = 16, kUsualSteps = 48;
// Codes are tuned unasked from so many tokens of text per code on. Measured divergences over those with
// scales alone, near and far text: 0.051 tokens per code 0.93 and 0.98, 0.028 0.98 and 1.00, 0.014 0.98
// and 1.01, and with 0.0016 worse on the text held back.
constexpr double kTokensPerCode = 0.02;
constexpr std::uint32_t kLooks = 4;  // at the text held back during an attempt
// Which windows are trained on and which are held back: an eighth, spread evenly.
struct Split {
  WindowList training, held_back;
};

Split split_of(std::size_t windows) {
  const std::size_t held = std::clamp<std::size_t>(windows / 8, 4, 32);
  Split out;
  for (std::size_t w = 0; w < windows; ++w) {
    // Window w is held back when a multiple of windows / held falls into it, counted from the middle.
    const bool is_held = (w * held + held / 2) / windows != ((w + 1) * held + held / 2) / windows;
    (is_held ? out.held_back : out.training).push_back(static_cast<std::uint32_t>(w));
  }
  return out;
}

Gain gain_of(const std::vector<double>& before, const std::vector<double>& after) {
  const auto n = static_cast<double>(before.size());
  Gain out;
  for (std::size_t w = 0; w < before.size(); ++w) {
    out.before += before[w] / n;
    out.after += after[w] / n;
    out.difference += (after[w] - before[w]) / n;
  }
  double squares = 0;
  for (std::size_t w = 0; w < before.size(); ++w) {
    const double off = after[w] - before[w] - out.difference;
    squares += off * off;
  }
  out.difference_error = std::sqrt(squares / (n * (n - 1)));
  return out;
}

// The windows of every step: the training windows in a new order for every pass over them.
class Batches {
 public:
  Batches(WindowList windows, std::size_t per_step, std::uint32_t seed)
      : windows_(std::move(windows)), per_step_(std::min(per_step, windows_.size())), random_(seed) {}

  WindowList next() {
    WindowList out;
    while (out.size() < per_step_) {
      if (at_ == 0) shuffle();
      out.push_back(windows_[at_]);
      at_ = (at_ + 1) % windows_.size();
    }
    // In the order of the text: neighbours lie together in memory.
    std::ranges::sort(out);
    return out;
  }

 private:
  // Not std::shuffle, whose result is the library's choice.
  void shuffle() {
    for (std::size_t i = windows_.size(); i > 1; --i) std::swap(windows_[i - 1], windows_[random_() % i]);
  }
  WindowList windows_;
  std::size_t per_step_;
  std::size_t at_ = 0;
  std::mt19937_64 random_;
};

// One phase for all passes of an attempt.
class OnePhase final : public ProgressSink {
 public:
  explicit OnePhase(ProgressSink& sink) : sink_(&sink) {}
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t done, std::string_view) override { sink_->advance(done, what_); }
  void end() override {}
  void tell(std::string what) { what_ = std::move(what); }

 private:
  ProgressSink* sink_;
  std::string what_;
};

engine::ReplacedTensors replaced_of(const Parameters& parameters) {
  engine::ReplacedTensors out;
  for (const Parameter& one : parameters.all()) out.emplace(one.tensor, one.bytes);
  return out;
}

class Tuner {
 public:
  Tuner(const Model& quantized, const engine::Engine& plain, const Teacher& teacher, Split split,
        const TuneOptions& options, ProgressSink& progress, const CancellationToken& cancel)
      : quantized_(&quantized),
        plain_(&plain),
        teacher_(&teacher),
        split_(std::move(split)),
        options_(&options),
        progress_(&progress),
        cancel_(&cancel) {}

  Result<void> measure_before() {
    QF_ASSIGN(before_, teacher_->divergences(*plain_, split_.held_back, *progress_, *cancel_));
    return outcome::success();
  }
  [[nodiscard]] const std::vector<double>& before() const { return before_; }

  // Leaves in `parameters` what is kept.
  Result<Attempt> attempt(Level level, const TunePlan& plan, const engine::RunOptions& run,
                          Parameters& parameters) {
    Attempt out;
    out.level = level;
    out.steps = plan.steps;
    QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
    QF_ASSIGN(parameters,
              Parameters::collect(*quantized_, plain_->graph(), teacher_->original(), *rows, level));
    QF_ASSIGN(const auto student,
              engine::Engine::open(*quantized_, engine::Arithmetic::Exact, replaced_of(parameters)));
    QF_ASSIGN(const kernels::MathKernels* math, kernels::default_math_kernels());
    const std::size_t length = teacher_->window_tokens();
    Batches batches(split_.training, std::max<std::size_t>(1, options_->step_tokens / length),
                    options_->seed);
    const double stiffness =
        1 / (options_->spread * options_->spread * static_cast<double>(split_.training.size() * length));
    std::vector<double> best = before_;
    double best_mean = mean_of(before_);
    auto best_bytes = parameters.snapshot();
    const std::uint64_t layers = plain_->graph().layers.size();
    const std::uint64_t step_tokens = batches_tokens(length);
    progress_->begin(
        fmt::format("tuning {}", to_string(level)),
        plan.steps * step_tokens * (4 * layers + 2) + kLooks * split_.held_back.size() * length * layers);
    OnePhase phase(*progress_);
    optimizer::Workers workers(options_->run.threads);
    std::uint32_t looked = 0;
    for (std::uint32_t step = 1; step <= plan.steps; ++step) {
      const WindowList list = batches.next();
      const engine::TokenWindows windows = windows_of(teacher_->windows(), list);
      DivergenceLoss loss(*math, *teacher_, list);
      GradientCollector collector(*math, *rows, parameters, windows.lengths);
      parameters.clear_gradients();
      engine::BackwardOptions backward{.run = run, .loss = &loss};
      QF_TRY(engine::BackwardPass(student).run(windows, backward, nullptr, collector, phase, *cancel_));
      const double left = 1 - static_cast<double>(step - 1) / plan.steps;  // linear decay
      workers.run([&] {
        parameters.step(
            {options_->value_rate * left, options_->scale_rate * left, options_->code_rate * left, stiffness},
            step, windows.tokens.size());
      });
      phase.tell(fmt::format("step {} of {}: divergence {:.4f}, held back {:.4f} (was {:.4f})", step,
                             plan.steps, loss.sum() / static_cast<double>(windows.tokens.size()), best_mean,
                             mean_of(before_)));
      if (step * kLooks / plan.steps == looked) continue;
      looked = step * kLooks / plan.steps;
      QF_ASSIGN(const std::vector<double> now,
                teacher_->divergences(student, split_.held_back, phase, *cancel_));
      out.looks.push_back({step, mean_of(now)});
      if (mean_of(now) >= best_mean) continue;
      best = now;
      best_mean = mean_of(now);
      best_bytes = parameters.snapshot();
      out.best_step = step;
    }
    progress_->end();
    parameters.restore(best_bytes);
    for (const Parameter& one : parameters.all()) {
      if (!one.codes) continue;
      out.codes += one.codes->count();
      out.codes_moved += one.codes->moved(quantized_->data(*one.tensor), one.bytes);
    }
    out.gain = gain_of(before_, best);
    out.kept = out.gain.decided();
    return out;
  }

 private:
  static double mean_of(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  }
  [[nodiscard]] std::uint64_t batches_tokens(std::size_t length) const {
    return std::min<std::uint64_t>(std::max<std::uint64_t>(1, options_->step_tokens / length),
                                   split_.training.size()) *
           length;
  }

  const Model* quantized_;
  const engine::Engine* plain_;
  const Teacher* teacher_;
  Split split_;
  const TuneOptions* options_;
  ProgressSink* progress_;
  const CancellationToken* cancel_;
  std::vector<double> before_;
};

// How a memory limit is shared out.
struct Shares {
  bool states_in_memory = true;  // the original's final states
  engine::RunOptions run;        // of the original's pass, and of steps and looks after it
};

// Most rows of logits that a step compares at a time.
std::uint64_t logit_bytes(std::uint64_t step_tokens, std::uint64_t vocabulary) {
  return 2 * std::min<std::uint64_t>(step_tokens, 512) * vocabulary * sizeof(float);
}

Shares shares_of(const engine::RunOptions& run, std::uint64_t numbers, std::uint64_t states,
                 std::uint64_t logits) {
  Shares out{true, run};
  if (run.memory_limit == 0) return out;
  std::uint64_t left = run.memory_limit > numbers + logits ? run.memory_limit - numbers - logits : 0;
  out.states_in_memory = states <= left / 2;
  if (out.states_in_memory) left -= states;
  out.run.memory_limit = std::max<std::uint64_t>(left, 1);  // 0 would be no limit at all
  return out;
}

struct LevelPlan {
  TunePlan plan;
  Shares shares;
};

Result<LevelPlan> plan_level(const engine::Engine& original, const engine::Engine& quantized,
                             const engine::TokenWindows& windows, const TuneOptions& options, Level level) {
  const Model& model = quantized.model();
  const std::uint64_t length = windows.lengths.front();
  const Split split = split_of(windows.lengths.size());
  TunePlan plan;
  plan.level = level;
  plan.training_tokens = split.training.size() * length;
  plan.held_back_tokens = split.held_back.size() * length;
  plan.steps = options.steps != 0 ? options.steps : suitable_steps(plan.training_tokens, options.step_tokens);
  const ParameterSizes numbers = Parameters::sizes(model, quantized.graph(), original.model(), level);
  plan.values = numbers.values;
  plan.scales = numbers.scales;
  plan.codes = numbers.codes;
  const std::size_t of_step =
      std::min<std::size_t>(std::max<std::size_t>(1, options.step_tokens / length), split.training.size());
  const std::uint64_t states = windows.tokens.size() * original.graph().width * sizeof(float);
  const std::uint64_t logits = logit_bytes(of_step * length, original.graph().vocabulary);
  const Shares shares = shares_of(options.run, numbers.bytes, states, logits);
  QF_ASSIGN(const engine::RunPlan teacher, original.plan(windows, shares.run));
  const WindowList some(split.training.begin(),
                        split.training.begin() + static_cast<std::ptrdiff_t>(of_step));
  QF_ASSIGN(const engine::BackwardPlan step,
            engine::BackwardPass(quantized).plan(windows_of(windows, some), {.run = shares.run}));
  plan.memory.push_back(
      {fmt::format("numbers that are tuned ({}), their tensors and moments", to_string(level)),
       numbers.bytes});
  plan.memory.push_back({"final states of the original", shares.states_in_memory ? states : 0});
  plan.memory.push_back({"a step forward and back", step.memory_bytes + logits});
  for (const auto& item : plan.memory) plan.memory_bytes += item.bytes;
  // The engine runs a step's layers twice forward; the gradients of weights are one more product each.
  const double head =
      static_cast<double>(windows.tokens.size()) * original.graph().width * original.graph().vocabulary;
  plan.forward_multiply_adds = teacher.multiply_adds + head;
  const double per_token = step.forward_multiply_adds / static_cast<double>(of_step * length);
  const double held = per_token * static_cast<double>(plan.held_back_tokens) * (kLooks + 1);
  plan.multiply_adds =
      plan.forward_multiply_adds + held + plan.steps * (step.multiply_adds + step.forward_multiply_adds);
  return LevelPlan{std::move(plan), shares};
}

// The levels to try, the highest first. Codes of a text that is too short for them follow its accidents.
std::vector<Level> levels_of(const TuneOptions& options, const Model& original,
                             const engine::Engine& quantized, const engine::TokenWindows& windows) {
  if (options.level) return {*options.level};
  const std::uint64_t codes =
      Parameters::sizes(quantized.model(), quantized.graph(), original, Level::Codes).codes;
  std::vector<Level> out{Level::Scales, Level::Norms};
  if (codes != 0 &&
      windows.tokens.size() >= static_cast<std::uint64_t>(kTokensPerCode * static_cast<double>(codes)))
    out.insert(out.begin(), Level::Codes);
  return out;
}

struct Opened {
  engine::Engine original, quantized;
  engine::TokenWindows windows;
};

Result<Opened> open(const Model& original, const Model& quantized, const calibration::Text& text) {
  QF_TRY(calibration::check_same_tokens(original, quantized));
  QF_ASSIGN(engine::Engine base, engine::Engine::open(original));
  QF_ASSIGN(engine::Engine student, engine::Engine::open(quantized));
  if (base.graph().vocabulary != student.graph().vocabulary)
    return fail(ErrorCode::ShapeMismatch, "the original predicts {} tokens, the quantized model {}",
                base.graph().vocabulary, student.graph().vocabulary);
  engine::TokenWindows windows = text.inputs();
  if (windows.lengths.size() < kFewestWindows)
    return fail(ErrorCode::InvalidArgument,
                "a text of {} chunks is too short to tune on: {} are the least, 100 and more are good",
                windows.lengths.size(), kFewestWindows);
  return Opened{std::move(base), std::move(student), std::move(windows)};
}

}  // namespace

std::uint32_t suitable_steps(std::uint64_t tokens, std::uint32_t step_tokens) {
  const auto once =
      static_cast<std::uint32_t>(std::min<std::uint64_t>((tokens + step_tokens - 1) / step_tokens, 1U << 20));
  return std::max(once, std::clamp(4 * once, kFewestSteps, kUsualSteps));
}

std::string TunePlan::describe() const {
  std::string out = fmt::format(
      "{} steps on {} tokens, {} tokens held back; {} values, {} scales and {} codes; {:.1f} times the work "
      "of one "
      "pass of "
      "the original over the text\n",
      steps, training_tokens, held_back_tokens, values, scales, codes, multiply_adds / forward_multiply_adds);
  for (const auto& item : memory)
    if (item.bytes != 0) out += fmt::format("  {:>24}  {}\n", format_bytes(item.bytes), item.name);
  out += fmt::format("  {:>24}  memory in all\n", format_bytes(memory_bytes));
  return out;
}

Result<TunePlan> plan_tuning(const Model& original, const Model& quantized, const calibration::Text& text,
                             const TuneOptions& options) {
  QF_ASSIGN(const Opened opened, open(original, quantized, text));
  std::optional<Error> failure;
  for (const Level level : levels_of(options, original, opened.quantized, opened.windows)) {
    auto plan = plan_level(opened.original, opened.quantized, opened.windows, options, level);
    if (plan) return plan.value().plan;
    failure = plan.error();
    if (failure->code != ErrorCode::NoSpace) break;
  }
  return std::move(*failure);
}

engine::ReplacedTensors TuneResult::replaced() const {
  return replaced_of(parameters);
}

Result<TuneResult> tune(const Model& original, const Model& quantized, const calibration::Text& text,
                        const TuneOptions& options, ProgressSink& progress, const CancellationToken& cancel) {
  const auto started = std::chrono::steady_clock::now();
  QF_ASSIGN(const Opened opened, open(original, quantized, text));
  TuneResult out;
  std::optional<Teacher> teacher;
  std::optional<Tuner> tuner;
  std::optional<Error> failure;
  for (const Level level : levels_of(options, original, opened.quantized, opened.windows)) {
    if (level == Level::None) break;
    const auto plan = plan_level(opened.original, opened.quantized, opened.windows, options, level);
    if (!plan) {
      // A lower level may have the memory.
      if (plan.error().code != ErrorCode::NoSpace) return plan.error();
      failure = plan.error();
      continue;
    }
    const Shares& shares = plan.value().shares;
    if (!tuner) {
      QF_ASSIGN(teacher, Teacher::run(opened.original, opened.windows, shares.run, shares.states_in_memory,
                                      progress, cancel));
      tuner.emplace(quantized, opened.quantized, *teacher, split_of(opened.windows.lengths.size()), options,
                    progress, cancel);
      QF_TRY(tuner->measure_before());
    }
    out.training_tokens = plan.value().plan.training_tokens;
    out.held_back_tokens = plan.value().plan.held_back_tokens;
    Parameters parameters;
    QF_ASSIGN(Attempt attempt, tuner->attempt(level, plan.value().plan, shares.run, parameters));
    out.gain = gain_of(tuner->before(), tuner->before());
    out.attempts.push_back(attempt);
    if (!attempt.kept) continue;
    out.level = level;
    out.gain = attempt.gain;
    out.parameters = std::move(parameters);
    break;
  }
  if (out.attempts.empty() && failure) return std::move(*failure);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return out;
}

}  // namespace quantfit::tuning

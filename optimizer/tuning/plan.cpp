#include "optimizer/tuning/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/byte_size.h"
#include "optimizer/engine/backward.h"
#include "optimizer/tuning/batches.h"
#include "optimizer/tuning/layers.h"
#include "optimizer/tuning/parameters.h"

namespace quantfit::tuning {
namespace {

// Passes over a short text pay: divergences over the untuned ones, near and far text, 49,152 tokens, dense
// model at 2.6 bpw, codes: 48 steps (one pass) 0.670 and 0.735, 192 steps 0.564 and 0.656.
constexpr std::uint32_t kUsualSteps = 160;
// Codes are tuned unasked from so many tokens of text per code on. Measured divergences over those with
// scales alone, near and far text: 0.051 tokens per code 0.93 and 0.98, 0.028 0.98 and 1.00, 0.014 0.98
// and 1.01, and with 0.0016 worse on the text held back.
constexpr double kTokensPerCode = 0.02;

// Most rows of logits that a step compares at a time.
std::uint64_t logit_bytes(std::uint64_t step_tokens, std::uint64_t vocabulary) {
  return 2 * std::min<std::uint64_t>(step_tokens, 512) * vocabulary * sizeof(float);
}

Result<void> check_length(const engine::TokenWindows& windows) {
  if (windows.lengths.size() < kFewestWindows)
    return fail(ErrorCode::InvalidArgument,
                "a text of {} chunks is too short to tune on: {} are the least, 100 and more are good",
                windows.lengths.size(), kFewestWindows);
  return outcome::success();
}

}  // namespace

std::size_t step_windows(const TuneOptions& options, std::size_t window_tokens) {
  return std::max<std::size_t>(1, options.step_tokens / window_tokens);
}

Result<Opened> open_models(const Model& original, const Model& quantized, const calibration::Text& text) {
  QF_TRY(calibration::check_same_tokens(original, quantized));
  QF_ASSIGN(engine::Engine base, engine::Engine::open(original));
  QF_ASSIGN(engine::Engine student, engine::Engine::open(quantized));
  if (base.graph().vocabulary != student.graph().vocabulary)
    return fail(ErrorCode::ShapeMismatch, "the original predicts {} tokens, the quantized model {}",
                base.graph().vocabulary, student.graph().vocabulary);
  engine::TokenWindows windows = text.inputs();
  QF_TRY(check_length(windows));
  return Opened{std::move(base), std::move(student), std::move(windows)};
}

// Codes of a text that is too short for them follow its accidents.
std::vector<Level> levels_to_try(const Opened& opened, const TuneOptions& options) {
  if (options.level) return {*options.level};
  const engine::Engine& quantized = opened.quantized;
  const std::uint64_t codes =
      Parameters::sizes(quantized.model().tensors(), quantized.graph(), opened.original.model(), Level::Codes)
          .codes;
  std::vector<Level> out{Level::Scales, Level::Norms};
  if (codes != 0 &&
      static_cast<double>(opened.windows.tokens.size()) >= kTokensPerCode * static_cast<double>(codes))
    out.insert(out.begin(), Level::Codes);
  return out;
}

namespace {

// What is tuned, on what: `stored` are the tensors of the tuned file, `student` an engine of its shape.
struct Subject {
  const engine::Engine* original;
  const engine::Engine* student;
  std::span<const TensorInfo> stored;
  const engine::TokenWindows* windows;
};

// `keep_states`: the original's final states may stay in memory.
Result<LevelPlan> plan_form(const Subject& subject, const TuneOptions& options, Level level,
                            MomentForm moments, bool keep_states) {
  const engine::ModelGraph& graph = subject.original->graph();
  const engine::TokenWindows& windows = *subject.windows;
  const std::uint64_t length = windows.lengths.front();
  const Split split = split_of(windows.lengths.size());
  LevelPlan out;
  out.run = options.run;
  TunePlan& plan = out.plan;
  plan.level = level;
  plan.moments = moments;
  plan.training_tokens = split.training.size() * length;
  plan.held_back_tokens = split.held_back.size() * length;
  plan.steps = options.steps != 0 ? options.steps : suitable_steps(plan.training_tokens, options.step_tokens);
  const ParameterSizes numbers =
      Parameters::sizes(subject.stored, subject.student->graph(), subject.original->model(), level, moments);
  plan.values = numbers.values;
  plan.scales = numbers.scales;
  plan.codes = numbers.codes;
  const std::size_t of_step = std::min(step_windows(options, length), split.training.size());
  const std::uint64_t states = windows.tokens.size() * graph.width * sizeof(float);
  const std::uint64_t logits = logit_bytes(of_step * length, graph.vocabulary);
  if (const std::uint64_t limit = options.run.memory_limit; limit != 0) {
    std::uint64_t left = limit > numbers.bytes + logits ? limit - numbers.bytes - logits : 0;
    out.states_in_memory = keep_states && states <= left / 2;
    if (out.states_in_memory) left -= states;
    out.run.memory_limit = std::max<std::uint64_t>(left, 1);  // 0 would be no limit at all
  }
  QF_ASSIGN(const engine::RunPlan teacher, subject.original->plan(windows, out.run));
  const WindowList some(split.training.begin(),
                        split.training.begin() + static_cast<std::ptrdiff_t>(of_step));
  QF_ASSIGN(const engine::BackwardPlan step,
            engine::BackwardPass(*subject.student).plan(windows_of(windows, some), {.run = out.run}));
  plan.memory.push_back(
      {fmt::format("numbers that are tuned ({}), their tensors and moments{}", to_string(level),
                   level == Level::Codes && moments == MomentForm::Bytes ? " (of codes in bytes)" : ""),
       numbers.bytes});
  plan.memory.push_back({"final states of the original", out.states_in_memory ? states : 0});
  plan.memory.push_back({"a step forward and back", step.memory_bytes + logits});
  for (const auto& item : plan.memory) plan.memory_bytes += item.bytes;
  // The engine runs a step's layers twice forward; the gradients of weights, which norms do not need, are one
  // more product each.
  const double head = static_cast<double>(windows.tokens.size()) * graph.width * graph.vocabulary;
  plan.forward_multiply_adds = teacher.multiply_adds + head;
  const double per_token = step.forward_multiply_adds / static_cast<double>(of_step * length);
  const double held = per_token * static_cast<double>(plan.held_back_tokens) * (kLooks + 1);
  const double weights = level >= Level::Scales ? step.forward_multiply_adds : 0;
  plan.multiply_adds = plan.forward_multiply_adds + held + plan.steps * (step.multiply_adds + weights);
  return out;
}

Result<LevelPlan> plan_in_some_form(const Subject& subject, const TuneOptions& options, Level level) {
  std::vector<MomentForm> forms{options.moments.value_or(MomentForm::Whole)};
  if (level == Level::Codes && !options.moments) forms.push_back(MomentForm::Bytes);
  std::optional<Error> failure;
  for (const MomentForm form : forms) {
    for (const bool keep_states : {true, false}) {
      auto plan = plan_form(subject, options, level, form, keep_states);
      if (plan || plan.error().code != ErrorCode::NoSpace) return plan;
      failure = plan.error();
    }
  }
  return std::move(*failure);
}

}  // namespace

Result<LevelPlan> plan_level(const Opened& opened, const TuneOptions& options, Level level) {
  return plan_in_some_form(
      {&opened.original, &opened.quantized, opened.quantized.model().tensors(), &opened.windows}, options,
      level);
}

std::uint32_t suitable_steps(std::uint64_t tokens, std::uint32_t step_tokens) {
  const auto once =
      static_cast<std::uint32_t>(std::min<std::uint64_t>((tokens + step_tokens - 1) / step_tokens, 1U << 20));
  return std::max(once, std::clamp(4 * once, kFewestSteps, kUsualSteps));
}

std::string TunePlan::describe() const {
  std::string out = fmt::format(
      "{}{} steps on {} tokens, {} tokens held back; {} values, {} scales and {} codes; {:.1f} times the "
      "work "
      "of one pass of the original over the text\n",
      by_layers ? "one layer at a time, each in " : "", steps, training_tokens, held_back_tokens, values,
      scales, codes, passes());
  for (const auto& item : memory)
    if (item.bytes != 0) out += fmt::format("  {:>24}  {}\n", format_bytes(item.bytes), item.name);
  out += fmt::format("  {:>24}  memory in all\n", format_bytes(memory_bytes));
  if (scratch_bytes != 0) out += fmt::format("  {:>24}  in scratch files\n", format_bytes(scratch_bytes));
  return out;
}

Result<TunePlan> plan_tuning(const Model& original, const Model& quantized, const calibration::Text& text,
                             const TuneOptions& options) {
  QF_ASSIGN(const Opened opened, open_models(original, quantized, text));
  std::optional<Error> failure;
  if (options.form != TuneForm::Layers) {
    for (const Level level : levels_to_try(opened, options)) {
      auto plan = plan_level(opened, options, level);
      if (plan && options.form == TuneForm::Both) {
        QF_ASSIGN(const LevelPlan first, plan_layers(opened, options));
        plan.value().plan.multiply_adds += first.plan.multiply_adds;
        if (first.plan.memory_bytes > plan.value().plan.memory_bytes) {
          plan.value().plan.memory = first.plan.memory;
          plan.value().plan.memory_bytes = first.plan.memory_bytes;
        }
      }
      if (plan) return plan.value().plan;
      failure = plan.error();
      if (failure->code != ErrorCode::NoSpace) return std::move(*failure);
    }
    if (options.form != TuneForm::Auto || !can_tune_layers(opened)) return std::move(*failure);
  }
  QF_ASSIGN(LevelPlan plan, plan_layers(opened, options));
  return std::move(plan.plan);
}

Result<std::vector<TunePlan>> plan_levels(const Model& original, std::span<const TensorInfo> stored,
                                          const calibration::Text& text, const TuneOptions& options) {
  QF_ASSIGN(const engine::Engine base, engine::Engine::open(original));
  const engine::TokenWindows windows = text.inputs();
  QF_TRY(check_length(windows));
  std::vector<TunePlan> out;
  for (const Level level : {Level::Norms, Level::Scales, Level::Codes}) {
    auto plan = plan_in_some_form({&base, &base, stored, &windows}, options, level);
    if (!plan && plan.error().code == ErrorCode::NoSpace) continue;
    if (!plan) return plan.error();
    out.push_back(std::move(plan).value().plan);
  }
  return out;
}

std::string describe(std::span<const TunePlan> plans) {
  if (plans.empty()) return "there is no memory for any level\n";
  std::string out = fmt::format("{} steps on {} tokens, {} tokens held back\n", plans.front().steps,
                                plans.front().training_tokens, plans.front().held_back_tokens);
  out += fmt::format("  {:8} {:>12} {:>12} {:>12} {:>14}  {}\n", "level", "values", "scales", "codes",
                     "memory", "forward passes");
  for (const TunePlan& plan : plans)
    out += fmt::format(
        "  {:8} {:>12} {:>12} {:>12} {:>14}  {:.1f}{}\n", to_string(plan.level), plan.values, plan.scales,
        plan.codes, format_bytes(plan.memory_bytes), plan.passes(),
        plan.level == Level::Codes && plan.moments == MomentForm::Bytes ? " (moments in bytes)" : "");
  return out;
}

}  // namespace quantfit::tuning

#include "optimizer/tuning/timing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/clock.h"
#include "core/digest.h"
#include "core/fingerprint.h"
#include "kernels/row_kernels.h"
#include "optimizer/tuning/batches.h"
#include "optimizer/tuning/checkpoint.h"
#include "optimizer/tuning/step.h"
#include "optimizer/tuning/teacher.h"

namespace quantfit::tuning {
namespace {

// The fewest windows of which so many are trained on.
std::size_t windows_for(std::size_t training, std::size_t most) {
  std::size_t windows = std::min<std::size_t>(kFewestWindows, most);
  while (windows < most && split_of(windows).training.size() < training) ++windows;
  return windows;
}

std::string question_of(const Model& original, const Model& quantized, const calibration::Text& text,
                        const TuneOptions& options, double seconds) {
  Digest digest;
  digest.text(fingerprint(original));
  digest.text(fingerprint(quantized));
  digest.text(text.fingerprint);
  digest.number(options.level ? 1 + static_cast<std::uint64_t>(*options.level) : 0);
  digest.number(options.steps);
  digest.values(std::vector<double>{seconds});
  return digest.hex();
}

}  // namespace

double foreseen_seconds(const PassCost& cost, std::size_t windows, std::size_t window_tokens,
                        std::uint32_t steps) {
  const auto tokens = static_cast<double>(windows * window_tokens);
  const auto held = static_cast<double>(split_of(windows).held_back.size() * window_tokens);
  return cost.start + cost.original * tokens + cost.look * held * (kLooks + 1) + cost.step * steps;
}

std::optional<Portion> portion_for(const PassCost& cost, double seconds, std::size_t windows,
                                   std::size_t window_tokens, const TuneOptions& options) {
  const std::size_t of_step = step_windows(options, window_tokens);
  const std::uint32_t most =
      options.steps != 0
          ? options.steps
          : suitable_steps(split_of(windows).training.size() * window_tokens, options.step_tokens);
  const std::uint32_t least = options.steps != 0 ? options.steps : std::min(kFewestSteps, most);
  // More steps take longer: the most that fit are found by halving.
  const auto portion = [&](std::uint32_t steps) {
    Portion out{steps, windows_for(steps * of_step, windows), 0};
    out.seconds = foreseen_seconds(cost, out.windows, window_tokens, steps);
    return out;
  };
  if (portion(least).seconds > seconds) return std::nullopt;
  std::uint32_t low = least, high = most;
  while (low < high) {
    const std::uint32_t middle = low + (high - low + 1) / 2;
    if (portion(middle).seconds <= seconds)
      low = middle;
    else
      high = middle - 1;
  }
  return portion(low);
}

Result<PassCost> measure_cost(const Opened& opened, const LevelPlan& plan, const TuneOptions& options,
                              ProgressSink& progress, const CancellationToken& cancel) {
  QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
  const Split split = split_of(opened.windows.lengths.size());
  const std::size_t count =
      std::min(step_windows(options, opened.windows.lengths.front()), split.training.size());
  const engine::TokenWindows some = windows_of(
      opened.windows, {split.training.begin(), split.training.begin() + static_cast<std::ptrdiff_t>(count)});
  const auto tokens = static_cast<double>(some.tokens.size());
  WindowList all;
  for (std::uint32_t w = 0; w < count; ++w) all.push_back(w);
  PassCost out;
  auto begun = Clock::now();
  QF_ASSIGN(const Teacher teacher, Teacher::run(opened.original, some, plan.run, true, progress, cancel));
  out.original = seconds_since(begun) / tokens;
  begun = Clock::now();
  QF_ASSIGN(Parameters parameters,
            Parameters::collect(opened.quantized.model(), opened.quantized.graph(), opened.original.model(),
                                *rows, plan.plan.level, plan.plan.moments));
  engine::ReplacedTensors replaced;
  for (const Parameter& one : parameters.all()) replaced.emplace(one.tensor, one.bytes);
  QF_ASSIGN(const auto student,
            engine::Engine::open(opened.quantized.model(), engine::Arithmetic::Exact, std::move(replaced)));
  out.start = seconds_since(begun);
  begun = Clock::now();
  QF_TRY(teacher.divergences(student, all, progress, cancel));
  out.look = seconds_since(begun) / tokens;
  begun = Clock::now();
  QF_TRY(train_step(student, teacher, all, {}, 1, plan.run, parameters, progress, cancel));
  out.step = seconds_since(begun);
  return out;
}

Result<TimedChoice> choose_for_time(const Model& original, const Model& quantized,
                                    const calibration::Text& text, const TuneOptions& options, double seconds,
                                    ProgressSink& progress, const CancellationToken& cancel) {
  const auto begun = Clock::now();
  TimedChoice out;
  out.question = question_of(original, quantized, text, options, seconds);
  out.allowed_seconds = seconds;
  if (!options.checkpoint.empty()) {
    if (const auto before = choice_of_checkpoint(options.checkpoint, out.question)) return *before;
  }
  QF_ASSIGN(const Opened opened, open_models(original, quantized, text));
  const std::size_t windows = opened.windows.lengths.size(), length = opened.windows.lengths.front();
  std::optional<Error> failure;
  double least = 0;
  for (const Level level : levels_to_try(opened, options)) {
    const auto plan = plan_level(opened, options, level);
    if (!plan) {
      if (plan.error().code != ErrorCode::NoSpace) return plan.error();
      failure = plan.error();
      continue;
    }
    QF_ASSIGN(const PassCost cost, measure_cost(opened, plan.value(), options, progress, cancel));
    const auto portion = portion_for(cost, seconds - seconds_since(begun), windows, length, options);
    const std::uint32_t fewest = options.steps != 0 ? options.steps : kFewestSteps;
    least =
        seconds_since(begun) +
        foreseen_seconds(cost, windows_for(fewest * step_windows(options, length), windows), length, fewest);
    // Codes want the whole text.
    if (!portion || (!options.level && level == Level::Codes && portion->steps < plan.value().plan.steps))
      continue;
    out.level = level;
    out.steps = portion->steps;
    out.chunks = static_cast<std::uint32_t>(portion->windows);
    out.foreseen_seconds = portion->seconds;
    return out;
  }
  if (least == 0 && failure) return std::move(*failure);
  return fail(ErrorCode::InvalidArgument,
              "{:.0f} seconds are too few to tune in: the least that makes sense takes {:.0f} here", seconds,
              std::ceil(least));
}

}  // namespace quantfit::tuning

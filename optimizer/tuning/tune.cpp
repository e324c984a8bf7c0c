#include "optimizer/tuning/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/clock.h"
#include "kernels/row_kernels.h"
#include "optimizer/tuning/batches.h"
#include "optimizer/tuning/checkpoint.h"
#include "optimizer/tuning/layers.h"
#include "optimizer/tuning/one_phase.h"
#include "optimizer/tuning/step.h"
#include "optimizer/tuning/teacher.h"

namespace quantfit::tuning {
namespace {

// Of `start`, what is a parameter's is replaced by its bytes.
engine::ReplacedTensors replaced_of(const Parameters& parameters, const engine::ReplacedTensors& start) {
  engine::ReplacedTensors out = start;
  for (const Parameter& one : parameters.all()) out.insert_or_assign(one.tensor, one.bytes);
  return out;
}

// Saves where a tuning stands, as often as it costs little.
class Saver {
 public:
  Saver(const TuneOptions& options, std::string identity)
      : path_(options.checkpoint),
        identity_(std::move(identity)),
        choice_(options.choice ? &*options.choice : nullptr),
        least_(options.checkpoint_seconds) {}

  [[nodiscard]] Result<std::optional<Checkpoint>> open() const {
    if (path_.empty()) return std::nullopt;
    return Checkpoint::open(path_, identity_);
  }
  void begin(Parameters& parameters) {
    // Until it has been measured.
    constexpr double kBytesPerSecond = 3e8;
    if (!path_.empty()) cost_ = static_cast<double>(checkpoint_bytes(parameters)) / kBytesPerSecond;
    saved_ = Clock::now();
  }
  // At most a fortieth of the time goes into saving.
  Result<void> after_step(const Standing& standing, Parameters& parameters, const TensorBytes& best) {
    if (path_.empty() || standing.step == 0) return outcome::success();
    if (least_ > 0 && seconds_since(saved_) < std::max(least_, 40 * cost_)) return outcome::success();
    return save(standing, parameters, best);
  }
  // Who interrupts does not want to wait.
  Result<void> interrupted(const Standing& standing, Parameters& parameters, const TensorBytes& best) {
    if (path_.empty() || standing.step == 0 || cost_ > 5) return outcome::success();
    return save(standing, parameters, best);
  }

 private:
  Result<void> save(const Standing& standing, Parameters& parameters, const TensorBytes& best) {
    const auto begun = Clock::now();
    QF_TRY(save_checkpoint(path_, identity_, choice_, standing, parameters, best));
    cost_ = seconds_since(begun);
    saved_ = Clock::now();
    return outcome::success();
  }
  std::filesystem::path path_;
  std::string identity_;
  const TimedChoice* choice_;
  double least_, cost_ = 0;
  Clock::time_point saved_ = Clock::now();
};

class Tuner {
 public:
  Tuner(const Opened& opened, const Teacher& teacher, const TuneOptions& options, Saver& saver,
        ProgressSink& progress, const CancellationToken& cancel)
      : opened_(&opened),
        teacher_(&teacher),
        split_(split_of(opened.windows.lengths.size())),
        options_(&options),
        saver_(&saver),
        progress_(&progress),
        cancel_(&cancel) {}

  Result<void> measure_before() {
    QF_ASSIGN(before_, teacher_->divergences(opened_->quantized, split_.held_back, *progress_, *cancel_));
    return outcome::success();
  }
  void set_before(std::vector<double> before) { before_ = std::move(before); }
  [[nodiscard]] const std::vector<double>& before() const { return before_; }

  // Begins with these bytes in the places of the file's.
  void start_at(engine::ReplacedTensors start) { start_ = std::move(start); }

  // Leaves in `parameters` what is kept. `rates`: share of the usual ones; `earlier`: attempts before this
  // one; `resume`: null, or what was saved during this one. With the full rates an attempt ends where the
  // text held back has become worse.
  Result<Attempt> attempt(const LevelPlan& level, double rates, const std::vector<Attempt>& earlier,
                          const Checkpoint* resume, Parameters& parameters, std::uint32_t& continued_at) {
    const std::uint32_t steps = level.plan.steps;
    const Model& quantized = opened_->quantized.model();
    QF_ASSIGN(const kernels::RowKernels* rows, kernels::default_kernels());
    QF_ASSIGN(parameters,
              Parameters::collect(quantized, opened_->quantized.graph(), opened_->original.model(), *rows,
                                  level.plan.level, level.plan.moments, {}, start_));
    QF_ASSIGN(const auto student,
              engine::Engine::open(quantized, engine::Arithmetic::Exact, replaced_of(parameters, start_)));
    const std::size_t length = teacher_->window_tokens();
    Batches batches(split_.training, step_windows(*options_, length), options_->seed);
    Standing now{earlier, 0, before_, before_};
    Attempt& fresh = now.attempts.emplace_back();
    fresh.level = level.plan.level;
    fresh.moments = level.plan.moments;
    fresh.rates = rates;
    fresh.steps = steps;
    TensorBytes best_bytes = parameters.snapshot();
    saver_->begin(parameters);
    if (resume != nullptr && resume->standing().attempts.back().steps == steps &&
        resume->standing().attempts.back().moments == level.plan.moments &&
        resume->restore(parameters, best_bytes)) {
      now = resume->standing();
      continued_at = now.step;
      for (std::uint32_t step = 0; step < now.step; ++step) (void)batches.next();
    } else if (!start_.empty()) {
      QF_ASSIGN(std::vector<double> seen,
                teacher_->divergences(student, split_.held_back, *progress_, *cancel_));
      if (mean_of(seen) < mean_of(now.best)) now.best = std::move(seen);
    }
    Attempt& out = now.attempts.back();
    const std::uint64_t layers = student.graph().layers.size();
    const std::uint64_t step_work = batches.size() * length * (4 * layers + 2);
    const std::uint64_t look_work = split_.held_back.size() * length * layers;
    progress_->begin(fmt::format("tuning {}", to_string(level.plan.level)),
                     steps * step_work + kLooks * look_work);
    OnePhase phase(*progress_);
    phase.advance(now.step * step_work + out.looks.size() * look_work, "");
    while (true) {
      const auto looks_until = [&](std::uint32_t step) { return step * kLooks / steps; };
      const bool due = now.step > 0 && looks_until(now.step) != looks_until(now.step - 1);
      if (due && (out.looks.empty() || out.looks.back().step < now.step)) {
        auto seen = teacher_->divergences(student, split_.held_back, phase, *cancel_);
        if (!seen) return stopped(seen.error(), now, parameters, best_bytes);
        out.looks.push_back({now.step, mean_of(seen.value())});
        out.given_up = rates > kLowerRates && gain_of(before_, seen.value()).worse();
        if (mean_of(seen.value()) < mean_of(now.best)) {
          now.best = std::move(seen).value();
          best_bytes = parameters.snapshot();
          out.best_step = now.step;
        }
      }
      QF_TRY(saver_->after_step(now, parameters, best_bytes));
      if (now.step == steps || out.given_up) break;
      auto done = one_step(student, batches.next(), now, steps, level.run, parameters, phase);
      if (!done) return stopped(done.error(), now, parameters, best_bytes);
      ++now.step;
    }
    progress_->end();
    parameters.restore(best_bytes);
    out.codes = out.codes_moved = 0;
    for (const Parameter& one : parameters.all()) {
      if (!one.codes) continue;
      out.codes += one.codes->count();
      out.codes_moved += one.codes->moved(quantized.data(*one.tensor), one.bytes);
    }
    out.gain = gain_of(before_, now.best);
    out.kept = out.gain.decided();
    return out;
  }

 private:
  // The next step after now.step.
  Result<void> one_step(const engine::Engine& student, const WindowList& list, const Standing& now,
                        std::uint32_t steps, const engine::RunOptions& run, Parameters& parameters,
                        OnePhase& phase) {
    const double length = static_cast<double>(teacher_->window_tokens());
    const double stiffness =
        1 / (options_->spread * options_->spread * static_cast<double>(split_.training.size()) * length);
    const double left = 1 - static_cast<double>(now.step) / steps;  // linear decay
    const double share = now.attempts.back().rates * left;
    QF_ASSIGN(const double divergence, train_step(student, *teacher_, list,
                                                  {options_->value_rate * share, options_->scale_rate * share,
                                                   options_->code_rate * share, stiffness},
                                                  now.step + 1, run, parameters, phase, *cancel_));
    phase.tell(fmt::format("step {} of {}: divergence {:.4f}, held back {:.4f} (was {:.4f})", now.step + 1,
                           steps, divergence, mean_of(now.best), mean_of(before_)));
    return outcome::success();
  }

  // A step or a look that was interrupted has changed nothing.
  Error stopped(const Error& error, const Standing& now, Parameters& parameters, const TensorBytes& best) {
    if (error.code != ErrorCode::Interrupted) return error;
    if (auto saved = saver_->interrupted(now, parameters, best); !saved) return saved.error();
    return error;
  }

  const Opened* opened_;
  const Teacher* teacher_;
  Split split_;
  const TuneOptions* options_;
  Saver* saver_;
  ProgressSink* progress_;
  const CancellationToken* cancel_;
  std::vector<double> before_;
  engine::ReplacedTensors start_;
};

}  // namespace

engine::ReplacedTensors TuneResult::replaced() const {
  return replaced_of(parameters, layer_bytes);
}

Result<TuneResult> tune(const Model& original, const Model& quantized, const calibration::Text& text,
                        const TuneOptions& options, ProgressSink& progress, const CancellationToken& cancel) {
  const auto started = Clock::now();
  if (options.form == TuneForm::Layers)
    return tune_layers(original, quantized, text, options, progress, cancel);
  QF_ASSIGN(const Opened opened, open_models(original, quantized, text));
  Saver saver(options, options.checkpoint.empty() ? "" : tuning_identity(original, quantized, text, options));
  QF_ASSIGN(const std::optional<Checkpoint> saved, saver.open());
  TuneResult out;
  if (options.form == TuneForm::Both) {
    TuneOptions first = options;
    first.form = TuneForm::Layers;
    QF_ASSIGN(TuneResult layers, tune_layers(original, quantized, text, first, progress, cancel));
    out.layers = std::move(layers.layers);
    out.layer_files = std::move(layers.layer_files);
    out.layer_bytes = std::move(layers.layer_bytes);
  }
  std::optional<Teacher> teacher;
  std::optional<Tuner> tuner;
  std::optional<Error> failure;
  double rates = 1;
  for (const Level level : levels_to_try(opened, options)) {
    if (level == Level::None || out.level != Level::None) break;
    const auto plan = plan_level(opened, options, level);
    if (!plan) {
      // A lower level may have the memory.
      if (plan.error().code != ErrorCode::NoSpace) return plan.error();
      failure = plan.error();
      continue;
    }
    if (!tuner) {
      QF_ASSIGN(teacher, Teacher::run(opened.original, opened.windows, plan.value().run,
                                      plan.value().states_in_memory, progress, cancel));
      tuner.emplace(opened, *teacher, options, saver, progress, cancel);
      tuner->start_at(out.layer_bytes);
      if (saved)
        tuner->set_before(saved->standing().before);
      else
        QF_TRY(tuner->measure_before());
    }
    out.training_tokens = plan.value().plan.training_tokens;
    out.held_back_tokens = plan.value().plan.held_back_tokens;
    out.gain = gain_of(tuner->before(), tuner->before());
    while (true) {
      // Attempts that were finished before an interruption are not made again.
      const std::size_t number = out.attempts.size();
      const bool is_known = saved && number < saved->standing().attempts.size() &&
                            saved->standing().attempts[number].level == level &&
                            saved->standing().attempts[number].rates == rates;
      const bool is_last = is_known && number + 1 == saved->standing().attempts.size();
      if (is_known && !is_last) {
        out.attempts.push_back(saved->standing().attempts[number]);
      } else {
        Parameters parameters;
        QF_ASSIGN(Attempt attempt, tuner->attempt(plan.value(), rates, out.attempts,
                                                  is_last ? &*saved : nullptr, parameters, out.continued_at));
        out.attempts.push_back(attempt);
        if (attempt.kept) {
          out.level = level;
          out.gain = attempt.gain;
          out.parameters = std::move(parameters);
          break;
        }
      }
      if (rates == kLowerRates) break;
      rates = kLowerRates;
    }
  }
  if (out.attempts.empty() && failure) {
    if (options.form == TuneForm::Auto && can_tune_layers(opened))
      return tune_layers(original, quantized, text, options, progress, cancel);
    return std::move(*failure);
  }
  if (out.level == Level::None) out.layer_bytes.clear();
  out.seconds = seconds_since(started);
  return out;
}

}  // namespace quantfit::tuning

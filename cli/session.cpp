#include "cli/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/byte_size.h"
#include "core/text.h"
#include "optimizer/job/calibrated.h"
#include "optimizer/job/feedback.h"
#include "optimizer/job/second_look.h"
#include "optimizer/job/sensitized.h"

namespace quantfit::cli {

Result<Session> Session::open(const JobOptions& options, bool with_targets, const JobContext& context,
                              SessionMode mode) {
  Session session;
  session.mode = mode;
  session.options = &options;
  session.with_targets = with_targets;
  QF_ASSIGN(session.request, make_request(options));
  QF_ASSIGN(session.kernels, kernels::default_kernels());
  QF_TRY(session.open_files(context));
  return session;
}

namespace {

// What a pass through the model will take, said before it starts. Time: at what one core does of
// multiply-adds, about (benchmarks/README.md, "The engine").
std::string foreseen(std::string_view what, std::uint64_t tokens, double multiply_adds,
                     std::uint64_t memory_bytes, std::uint64_t scratch_bytes) {
  constexpr double kPerCoreSecond = 3e10;
  return fmt::format(
      "to find {}: {} tokens, {:.3g} multiply-adds (about {} of one core), {} of memory{}", what, tokens,
      multiply_adds, format_duration(multiply_adds / kPerCoreSecond), format_bytes(memory_bytes),
      scratch_bytes == 0 ? "" : fmt::format(", {} in scratch files", format_bytes(scratch_bytes)));
}

}  // namespace

bool Session::wants_calibration() const {
  return options->importance.empty() && can_calibrate;
}

Result<void> Session::open_files(const JobContext& context) {
  inputs.reset();  // a state file is opened once at a time
  QF_ASSIGN(inputs, optimizer::open_inputs(request.paths, &context.cancel,
                                           mode == SessionMode::Recall ? optimizer::StateUse::Recall
                                                                       : optimizer::StateUse::Keep));
  QF_TRY(check_patterns(*options, request, inputs->model.tensors()));
  QF_ASSIGN(request.overrides, make_overrides(*options, inputs->model.metadata()));
  if (!with_targets) return outcome::success();
  // Before there is an importance matrix, nothing is refused for the lack of one.
  optimizer::JobRequest own = request;
  if (request.paths.importance.empty() && wants_calibration())
    own.policy.rules.low_bits_without_importance = true;
  QF_ASSIGN(targets, make_targets(*options, own, *inputs));
  return outcome::success();
}

Error Session::not_measured(std::string_view what) {
  unmeasured = true;
  return fail(ErrorCode::Unsupported, "{} in {} yet", what, options->state);
}

void Session::remove_at_the_end(const std::filesystem::path& path) {
  temporary.emplace_back(new std::filesystem::path(path), [](const std::filesystem::path* one) {
    std::error_code ignored;
    std::filesystem::remove(*one, ignored);
    delete one;
  });
}

Result<calibration::TextRequest> Session::measured_text() const {
  QF_ASSIGN(const calibration::TextRequest text, make_text_request(options->text));
  if (options->candidates < 2) return text;
  auto split = optimizer::split_text(inputs->model, text);
  if (!split) return fail(split.error().code, "--candidates: {}", split.error().message);
  return split.value().measured;
}

bool Session::wants_feedback() const {
  if (options->error_feedback == "auto") return options->importance != kNoImportance;
  return options->error_feedback == "on";
}

Result<void> Session::measure_moments(const JobContext& context) {
  optimizer::MomentsRequest moments;
  QF_ASSIGN(moments.text, measured_text());
  QF_ASSIGN(moments.run, make_run_options(options->text, options->threads));
  moments.only_known = mode == SessionMode::Recall;
  // A text that was given is to be used, or the reason why not is an error.
  moments.made = made_moments;
  const bool asked = options->error_feedback == "on" || options->text.given();
  auto enough = optimizer::enough_for_moments(inputs->model, moments);
  if (asked && !enough) return enough.error();
  if (!enough || (!enough.value() && options->error_feedback != "on")) {
    context.logger.log(LogLevel::Info,
                       fmt::format("note: no error feedback: {}",
                                   enough ? "the text is too short to tell how inputs vary together"
                                          : enough.error().message));
    return outcome::success();
  }
  if (made_moments.empty()) {
    QF_ASSIGN(const engine::RunPlan plan, optimizer::plan_moments(inputs->model, moments));
    context.logger.log(LogLevel::Info, foreseen("how inputs vary together", plan.tokens, plan.multiply_adds,
                                                plan.memory_bytes, plan.scratch_bytes));
  }
  QF_ASSIGN(optimizer::MeasuredMoments done,
            optimizer::measure_moments(*inputs, request.paths, moments, {context.progress, context.cancel}));
  if (!done.covariances) return not_measured("how inputs vary together on this text is not");
  if (done.temporary) remove_at_the_end(done.path);
  covariances = std::move(done.covariances);
  request.sampler.covariances = covariances.get();
  if (!made_moments.empty()) return outcome::success();
  context.logger.log(
      LogLevel::Info,
      done.known
          ? std::string("how inputs vary together was measured before")
          : fmt::format(
                "measured how inputs vary together over {} tokens in {} ({}){}", done.tokens,
                format_duration(done.seconds), format_bytes(done.file_bytes),
                done.continued_at == 0 ? "" : fmt::format(", continued at layer {}", done.continued_at)));
  return outcome::success();
}

bool Session::wants_sensitivities() const {
  const auto is_recipe = [](const optimizer::Target& target) {
    return std::holds_alternative<optimizer::RecipeTarget>(target);
  };
  return needs_sensitivities && request.objective == optimizer::Objective::Measured &&
         request.role_weights.empty() && (targets.empty() || !std::ranges::all_of(targets, is_recipe));
}

Result<bool> Session::try_out() {
  optimizer::JobRequest trial = request;
  if (wants_calibration()) trial.policy.rules.low_bits_without_importance = true;
  QF_ASSIGN(const optimizer::PreparedJob tried, optimizer::check_job(*inputs, trial, targets, *kernels));
  if (std::ranges::all_of(tried.budgets, &optimizer::Budget::feasible)) return true;
  request = std::move(trial);  // check() says so, with the range that any importance matrix would allow
  return false;
}

Result<void> Session::calibrate(const JobContext& context) {
  optimizer::CalibrationRequest calibration;
  QF_ASSIGN(calibration.text, measured_text());
  QF_ASSIGN(calibration.run, make_run_options(options->text, options->threads));
  calibration.save = options->save_imatrix;
  calibration.existing = existing;
  calibration.only_known = mode == SessionMode::Recall;
  const bool asked = options->text.given() || !options->save_imatrix.empty();
  const auto plan = optimizer::plan_calibration(inputs->model, calibration);
  if (!plan) {
    if (asked) return plan.error();
    context.logger.log(LogLevel::Warning,
                       fmt::format("no importance matrix can be made here ({}): all columns count the same, "
                                   "which costs quality; see --imatrix",
                                   plan.error().message));
    can_calibrate = false;
    return open_files(context);
  }
  context.logger.log(
      LogLevel::Info,
      fmt::format("no importance matrix given: it is made from {}; that runs {} tokens through "
                  "the model",
                  options->text.given() ? "the text" : "the text that ships with quantfit",
                  plan.value().tokens));
  if (wants_feedback()) {
    optimizer::MomentsRequest moments;
    moments.text = calibration.text;
    const auto enough = optimizer::enough_for_moments(inputs->model, moments);
    calibration.with_moments = enough && (enough.value() || options->error_feedback == "on");
    if (calibration.with_moments) {
      moments.run = calibration.run;
      QF_ASSIGN(const engine::RunPlan both, optimizer::plan_moments(inputs->model, moments));
      context.logger.log(LogLevel::Info,
                         foreseen("it, and how inputs vary together in the same pass", both.tokens,
                                  both.multiply_adds, both.memory_bytes, both.scratch_bytes));
    }
  }
  QF_ASSIGN(const optimizer::CalibratedImportance made,
            optimizer::calibrate(*inputs, request.paths, calibration, request.program_version,
                                 {context.progress, context.cancel}));
  if (calibration.only_known && !made.known)
    return not_measured("an importance matrix made of this text is not");
  if (made.temporary) remove_at_the_end(made.path);
  made_moments = made.moments;
  context.logger.log(
      LogLevel::Info,
      made.known
          ? "the importance matrix of this text was made before"
          : fmt::format(
                "made the importance matrix{} in {}{}",
                made.moments.empty() ? "" : " and measured how inputs vary together",
                format_duration(made.seconds),
                made.continued_at == 0 ? "" : fmt::format(", continued at layer {}", made.continued_at)));
  request.paths.importance = made.path;
  request.paths.importance_is_pruned = true;
  return open_files(context);
}

void Session::tell_origin(const JobContext& context) const {
  const auto tell = [&](const std::string& text) { context.logger.log(LogLevel::Debug, text); };
  tell(fmt::format("model {}, fingerprint {}, {} tensors, {} weights",
                   inputs->model.shards()[0].path.string(), inputs->model_fingerprint,
                   inputs->model.tensors().size(), inputs->model.total_elements()));
  if (inputs->importance)
    tell(fmt::format("importance matrix {}, fingerprint {}", inputs->importance->path().string(),
                     inputs->importance_fingerprint));
  tell(fmt::format("kernels for {}, encoder version {}", kernels->isa, kernels::kEncoderVersion));
}

Result<void> Session::measure_sensitivities(const JobContext& context) {
  optimizer::SensitivityRequest sensitivities;
  QF_ASSIGN(sensitivities.text, measured_text());
  QF_ASSIGN(sensitivities.run, make_run_options(options->text, options->threads));
  sensitivities.tokens = options->gradient_tokens;
  sensitivities.only_known = mode == SessionMode::Recall;
  const auto plan = optimizer::plan_sensitivities(inputs->model, sensitivities);
  if (!plan) {
    if (options->objective == "measured" || options->text.given()) return plan.error();
    context.logger.log(LogLevel::Info,
                       fmt::format("note: what errors cost is the prior of the tensors' roles; it cannot be "
                                   "measured on this model: {}",
                                   plan.error().message));
    return outcome::success();
  }
  context.logger.log(LogLevel::Info,
                     foreseen("what errors cost", plan.value().tokens, plan.value().multiply_adds,
                              plan.value().memory_bytes, plan.value().scratch_bytes));
  QF_ASSIGN(
      const optimizer::MeasuredSensitivities done,
      optimizer::measure_sensitivities(*inputs, request, sensitivities, {context.progress, context.cancel}));
  if (sensitivities.only_known && !done.known) return not_measured("what errors cost by gradients is not");
  context.logger.log(LogLevel::Info,
                     done.known ? fmt::format("what errors cost was measured before ({} tokens)", done.tokens)
                                : fmt::format("measured what errors cost by gradients of {} tokens in {}",
                                              done.tokens, format_duration(done.seconds)));
  return outcome::success();
}

Result<void> Session::check(const JobContext& context) {
  if (wants_calibration() || wants_sensitivities() || wants_feedback()) {
    // What the whole job would refuse is refused before the model is run.
    QF_ASSIGN(const bool possible, try_out());
    if (possible && wants_calibration()) QF_TRY(calibrate(context));
    if (possible && wants_feedback()) QF_TRY(measure_moments(context));
    if (possible && wants_sensitivities()) QF_TRY(measure_sensitivities(context));
  }
  tell_origin(context);
  for (const std::string& warning : inputs->warnings) context.logger.log(LogLevel::Warning, warning);
  if (options->importance == kNoImportance)
    context.logger.log(LogLevel::Warning,
                       "no importance matrix: all columns count the same, which costs quality");
  QF_ASSIGN(job, optimizer::check_job(*inputs, request, targets, *kernels));
  for (const std::string& note : job->notes) context.logger.log(LogLevel::Info, "note: " + note);
  return outcome::success();
}

double Session::source_bytes_per_weight() const {
  const double weights = double(inputs->model.total_elements());
  return weights > 0 ? double(inputs->model.total_tensor_bytes()) / weights : 0;
}

Result<void> Session::measure(const JobContext& context) {
  const optimizer::JobControl control{context.progress, context.cancel};
  if (mode == SessionMode::Recall) {
    QF_TRY(optimizer::recall_job(*inputs, request, *job));
    if (job->measured.tensors_missing != 0)
      return not_measured(fmt::format("{} of {} tensors are not", job->measured.tensors_missing,
                                      job->measured.tensors_missing + job->measured.tensors_known));
  } else {
    QF_TRY(optimizer::measure_job(*inputs, request, *kernels, control, *job));
  }
  const optimizer::MeasureReport& measured = job->measured;
  context.logger.log(LogLevel::Info,
                     measured.tensors_sampled == 0
                         ? fmt::format("all {} tensors were measured before", measured.tensors_known)
                         : fmt::format("measured {} tensors in {}, {} were known", measured.tensors_sampled,
                                       format_duration(measured.seconds), measured.tensors_known));
  QF_ASSIGN(statics, optimizer::compare_static_recipes(*inputs, *job, request, control));
  for (const optimizer::StaticWithout& recipe : statics.without)
    context.logger.log(LogLevel::Debug, fmt::format("{} is not compared: {}", recipe.name, recipe.why));
  return outcome::success();
}

void Session::remember_digest(const std::string& digest, const JobContext& context) {
  if (auto known = optimizer::remember_digest(*inputs, digest); !known)
    context.logger.log(LogLevel::Warning, known.error().message);
}

Result<std::optional<optimizer::Contest>> Session::run_candidates(const optimizer::Budget& budget,
                                                                  const std::filesystem::path& folder,
                                                                  const JobContext& context,
                                                                  optimizer::Solution& solution) {
  const optimizer::JobControl control{context.progress, context.cancel};
  if (options->candidates < 2 || std::holds_alternative<optimizer::RecipeTarget>(budget.target))
    return std::optional<optimizer::Contest>();
  optimizer::ContestRequest contest;
  contest.folder = options->text.scratch.empty() ? folder : std::filesystem::path(options->text.scratch);
  if (contest.folder.empty()) contest.folder = ".";
  QF_ASSIGN(const calibration::TextRequest text, make_text_request(options->text));
  QF_ASSIGN(const optimizer::SplitText split, optimizer::split_text(inputs->model, text));
  optimizer::SecondLookRequest look;
  look.text = split.measured;
  look.folder = contest.folder;
  QF_ASSIGN(look.run, make_run_options(options->text, options->threads));
  const auto look_again = [&](const Recipe& recipe) -> Result<std::optional<std::vector<double>>> {
    context.logger.log(
        LogLevel::Info,
        fmt::format("taking gradients at the weights of the first recipe: {} for a while in {}, "
                    "and about four passes of {} tokens",
                    format_bytes(solution.file_bytes), printable(contest.folder.string()),
                    optimizer::SecondLookRequest::kTokens));
    auto found = optimizer::look_again(*inputs, *job, request, recipe, look, *kernels, control);
    if (found) return std::optional(std::move(found).value());
    if (found.error().code == ErrorCode::Unsupported) return std::optional<std::vector<double>>();
    return found.error();
  };
  QF_ASSIGN(std::vector<optimizer::Contender> contenders,
            optimizer::find_contenders(*inputs, *job, request, budget, solution, options->candidates,
                                       look_again, control));
  if (contenders.size() < 2) {
    context.logger.log(LogLevel::Info, "note: every rule finds the same recipe: no candidates are run");
    return std::optional<optimizer::Contest>();
  }
  contest.evaluation.text = split.held_back;
  QF_ASSIGN(contest.evaluation.options.run, make_run_options(options->text, options->threads));
  context.logger.log(
      LogLevel::Info,
      fmt::format(
          "running {} candidates: {} for a while in {}, {} times the encoding, and {} passes of {} tokens",
          contenders.size(), format_bytes(contenders.size() * solution.file_bytes),
          printable(contest.folder.string()), contenders.size() + 1, contenders.size() + 1,
          std::uint64_t{split.held_windows} * split.held_back.context));
  QF_ASSIGN(optimizer::Contest done,
            optimizer::hold_contest(*inputs, request, std::move(contenders), contest, *kernels, control));
  const optimizer::Contender& best = done.contenders[done.best];
  QF_TRY(optimizer::keep(
      *inputs, *job, request, budget, best.recipe,
      {best.rule, static_cast<std::uint32_t>(done.contenders.size()), best.divergence.value}, solution));
  context.logger.log(LogLevel::Info, fmt::format("ran the candidates in {}; kept: {}",
                                                 format_duration(done.seconds), best.rule));
  return std::optional<optimizer::Contest>(std::move(done));
}

}  // namespace quantfit::cli

// `quantfit quantize` and `quantfit plan`: measure, allocate and, for the first, write.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/duration.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/output_files.h"
#include "cli/report/evaluation_report.h"
#include "cli/report/frontier_report.h"
#include "cli/report/json.h"
#include "cli/report/summary_report.h"
#include "cli/report/text.h"
#include "cli/report/tuning_report.h"
#include "cli/run_command.h"
#include "cli/session.h"
#include "cli/suggest.h"
#include "cli/tuning_job.h"
#include "core/atomic_file.h"
#include "core/gguf_layout.h"
#include "core/text.h"
#include "optimizer/job/curve.h"
#include "optimizer/job/evaluation.h"
#include "optimizer/output/model_writer.h"
#include "optimizer/output/recipe_io.h"
#include "optimizer/tuning/layers.h"
#include "optimizer/tuning/tune.h"
#include "optimizer/tuning/tuned_file.h"

namespace quantfit::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  JobOptions job;
  std::string output;
  std::string export_recipe;
  std::string export_tensor_types;
  std::string report;
  std::vector<std::string> evaluate;  // texts
  std::vector<std::string> rest;      // further positional arguments, as llama-quantize takes them
  bool write = true;                  // false: `plan`
  bool force = false;
  bool dry_run = false;
  bool no_provenance = false;
  bool tune = false;
  std::string tune_time;
};

// How a target is called in a file name.
std::string label_of(const optimizer::Target& target) {
  if (const auto* bpw = std::get_if<optimizer::BpwTarget>(&target)) return bpw->text + "bpw";
  if (const auto* file = std::get_if<optimizer::FileSizeTarget>(&target))
    return std::to_string(file->bytes) + "B";
  if (const auto* recipe = std::get_if<optimizer::RecipeTarget>(&target))
    return fs::path(recipe->name).stem().string();
  return "fit";
}

// A path for a target: as given, or with the target in it when there are several.
fs::path with_label(const fs::path& path, const optimizer::Target& target, bool several) {
  if (!several) return path;
  return path.parent_path() /
         fmt::format("{}-{}{}", path.stem().string(), label_of(target), path.extension().string());
}

fs::path output_path(const QuantizeOptions& options, const optimizer::Target& target, bool several) {
  if (!options.output.empty()) return with_label(options.output, target, several);
  const fs::path model = options.job.model;
  return model.parent_path() / fmt::format("{}-{}.gguf", model_stem(model), label_of(target));
}

// Everything that will be written, for all targets.
std::vector<fs::path> output_paths(const QuantizeOptions& options,
                                   const std::vector<optimizer::Target>& targets) {
  std::vector<fs::path> paths;
  const bool several = targets.size() > 1;
  for (const optimizer::Target& target : targets) {
    if (options.write) paths.push_back(output_path(options, target, several));
    for (const std::string& path : {options.export_recipe, options.export_tensor_types})
      if (!path.empty()) paths.push_back(with_label(path, target, several));
  }
  if (!options.job.save_imatrix.empty()) paths.emplace_back(options.job.save_imatrix);
  if (!options.report.empty()) paths.emplace_back(options.report);
  return paths;
}

std::vector<GuardedFile> guarded_files(const QuantizeOptions& options, const Model& model) {
  const JobOptions& job = options.job;
  std::vector<GuardedFile> files;
  guard_model(model, "the model it is made from", files);
  guard_text(job.text, files);
  for (const std::string& text : options.evaluate) files.push_back({text, "the text it is measured on"});
  files.push_back({job.importance, "the importance matrix"});
  files.push_back({job.state, "the state file"});
  files.push_back({job.recipe, "the recipe it is made by"});
  files.push_back({job.tensor_type_file, "the pins it is made by"});
  return files;
}

// What an interrupted run keeps, and what the next one does again.
std::string resume_hint(const JobOptions& job, bool writing) {
  if (job.state.empty()) return "nothing was kept; give --state FILE so that the next run can continue";
  if (writing)
    return fmt::format(
        "all measurements are in {}: the same command goes on with writing, from the start of the file",
        job.state);
  return fmt::format("what was finished is in {}; the same command continues there", job.state);
}

// llama-quantize's arguments behind the model: [out.gguf] TYPE [threads].
Result<void> read_rest(QuantizeOptions& options) {
  std::vector<std::string>& rest = options.rest;
  if (rest.empty()) return outcome::success();
  const auto type = std::ranges::find_if(
      rest, [](const std::string& word) { return optimizer::parse_file_type(word).has_value(); });
  if (type == rest.end() || type - rest.begin() > 1 || rest.end() - type > 2)
    return fail(
        ErrorCode::InvalidArgument,
        "'{}' is one argument too many; an output is named by -o, a size by --target-bpw or --target-size{}",
        rest.front(), suggestion(rest.back(), preset_names()));
  if (!options.job.preset.empty())
    return fail(ErrorCode::InvalidArgument, "--preset and the type '{}' exclude one another", *type);
  options.job.preset = *type;
  if (type != rest.begin()) {
    if (!options.output.empty())
      return fail(ErrorCode::InvalidArgument, "--output and '{}' name the output twice", rest.front());
    options.output = rest.front();
  }
  if (rest.end() - type == 2) {
    const std::string& threads = rest.back();
    const auto [end, error] =
        std::from_chars(threads.data(), threads.data() + threads.size(), options.job.threads);
    if (error != std::errc() || *end != '\0' || options.job.threads == 0 || options.job.threads > kMaxThreads)
      return fail(ErrorCode::InvalidArgument, "'{}' is no number of threads", threads);
  }
  rest.clear();
  return outcome::success();
}

// Recipe files that were asked for, for one answer.
Result<void> export_recipes(const QuantizeOptions& options, const Model& model,
                            const optimizer::Solution& solution, bool several) {
  const Existing existing = options.force ? Existing::Replace : Existing::Keep;
  if (!options.export_recipe.empty()) {
    QF_ASSIGN(const std::string text, optimizer::to_recipe_text(solution.recipe, model.tensors()));
    QF_TRY(
        write_file_atomically(with_label(options.export_recipe, solution.target, several), text, existing));
  }
  if (!options.export_tensor_types.empty()) {
    QF_ASSIGN(const std::string text, optimizer::to_tensor_type_file(solution.recipe, model.tensors()));
    QF_TRY(write_file_atomically(with_label(options.export_tensor_types, solution.target, several), text,
                                 existing));
  }
  return outcome::success();
}

// A text to measure the result on, refused before anything is measured.
Result<void> prepare_evaluation(const QuantizeOptions& options, const Model& model,
                                optimizer::EvaluationRequest& request) {
  TextOptions own = options.job.text;
  own.texts = options.evaluate;
  own.token_ids.clear();
  own.chunks.reset();
  own.skip_chunks = 0;
  QF_ASSIGN(request.text, make_text_request(own));
  QF_ASSIGN(request.options.run, make_run_options(own, options.job.threads));
  auto text = calibration::read_text(model, request.text);
  if (!text) return fail(text.error().code, "--evaluate: {}", text.error().message);
  auto plan = calibration::plan_evaluation(model, text.value(), request.options);
  if (!plan) return fail(plan.error().code, "--evaluate: {}", plan.error().message);
  return outcome::success();
}

// The text that files are tuned on, refused before anything is measured.
Result<calibration::Text> prepare_tuning(const QuantizeOptions& options, const Model& model) {
  if (!options.tune_time.empty()) QF_TRY(parse_duration(options.tune_time));
  QF_ASSIGN(const calibration::TextRequest request, make_text_request(options.job.text));
  auto text = calibration::read_text(model, request);
  if (!text) return fail(text.error().code, "--tune: {}", text.error().message);
  if (text.value().windows.count() < tuning::kFewestWindows)
    return fail(ErrorCode::InvalidArgument,
                "--tune: a text of {} chunks is too short to tune on, {} are the least",
                text.value().windows.count(), tuning::kFewestWindows);
  return std::move(text).value();
}

// What tuning a file of that recipe takes, level by level.
Result<std::vector<tuning::TunePlan>> tuning_plans(const QuantizeOptions& options, const Session& session,
                                                   const calibration::Text& text, const Recipe& recipe) {
  tuning::TuneOptions tune;
  QF_ASSIGN(tune.run, make_run_options(options.job.text, options.job.threads));
  QF_ASSIGN(const optimizer::OutputLayout layout,
            optimizer::output_layout(session.inputs->model, recipe, session.inputs->importance_or_null()));
  return tuning::plan_levels(session.inputs->model, layout.tensors, text, tune);
}

// What is written before it is tuned to become `path`.
fs::path untuned_path(const fs::path& path) {
  return path.parent_path() / fmt::format(".{}.untuned{}", path.stem().string(), path.extension().string());
}

void remove_files(const std::vector<fs::path>& paths) {
  std::error_code ignored;
  for (const fs::path& path : paths) fs::remove(path, ignored);
}

// Bytes that further keys take in a file at most.
std::uint64_t room_of(const std::vector<GgufKeyValue>& keys) {
  std::uint64_t bytes = kGgufDefaultAlignment;
  for (const GgufKeyValue& key : keys) bytes += key.key.size() + key.bytes.size() + 20;  // lengths and type
  return bytes;
}

// Tunes what was written to `untuned` and writes it to `path`.
Result<tuning::TuneResult> tune_written(const QuantizeOptions& options, Session& session,
                                        calibration::Text text, const optimizer::Target& target,
                                        const optimizer::WriteSummary& untuned, const fs::path& path,
                                        const JobContext& context, std::vector<fs::path>& files,
                                        std::optional<tuning::TimedChoice>& choice,
                                        std::vector<state::Evaluation>& records) {
  QF_ASSIGN(const Model quantized, Model::open(untuned.files.front()));
  tuning::TuneOptions tune;
  QF_ASSIGN(tune.run, make_run_options(options.job.text, options.job.threads));
  tune.checkpoint = tuning_checkpoint(path);
  const Model& model = session.inputs->model;
  QF_ASSIGN(const calibration::TextRequest request, make_text_request(options.job.text));
  QF_TRY(fit_into_time(options.tune_time, model, quantized, request, text, tune, context));
  choice = tune.choice;
  QF_ASSIGN(const tuning::TunePlan plan, tuning::plan_tuning(model, quantized, text, tune));
  context.logger.log(LogLevel::Info, "tuning: " + plan.describe());
  QF_ASSIGN(tuning::TuneResult result,
            tuning::tune(model, quantized, text, tune, context.progress, context.cancel));
  std::vector<GgufKeyValue> keys;
  if (!options.no_provenance)
    keys = tuning::tuned_keys(result, text.fingerprint, session.inputs->model_fingerprint);
  // The size that was asked for counts more than what the file says about itself.
  const auto* size = std::get_if<optimizer::FileSizeTarget>(&target);
  if (size != nullptr && untuned.file_bytes + room_of(keys) > size->bytes) {
    keys.clear();
    context.logger.log(LogLevel::Warning,
                       "the size asked for leaves no room for keys that say that the file was tuned");
  }
  QF_ASSIGN(const tuning::WrittenFile written,
            tuning::write_tuned(quantized, result.replaced(), keys, kKeysAboutBytes, path,
                                options.force ? Existing::Replace : Existing::Keep));
  files = written.files;
  tuning::remove_checkpoint(tune.checkpoint);
  QF_ASSIGN(const Model file, Model::open(files.front()));
  records.push_back(tuning_record(session.inputs->model_fingerprint, file, text, result));
  if (session.inputs->store) QF_TRY(session.inputs->store->save_evaluation(records.back()));
  return result;
}

struct WrittenFile {
  fs::path path;
  std::size_t answer;  // its place among the answers
};

// Measures what was written, all files in one go; adds to every answer what is its own.
Result<optimizer::EvaluatedFiles> evaluate_written(Session& session, const std::vector<WrittenFile>& written,
                                                   const optimizer::EvaluationRequest& request,
                                                   const JobContext& context,
                                                   std::vector<nlohmann::ordered_json>& own_figures) {
  std::vector<fs::path> paths;
  paths.reserve(written.size());
  for (const WrittenFile& file : written) paths.push_back(file.path);
  QF_ASSIGN(
      optimizer::EvaluatedFiles evaluated,
      optimizer::evaluate_files(session.inputs->model, paths, request, {context.progress, context.cancel}));
  if (session.inputs->store)
    QF_TRY(optimizer::save_evaluations(evaluated, QUANTFIT_VERSION, *session.inputs->store));
  for (std::size_t i = 0; i < written.size(); ++i) {
    optimizer::EvaluatedFiles own = evaluated;
    own.files = {evaluated.files[i]};
    own_figures[written[i].answer] = to_json(own);
  }
  return evaluated;
}

// What was predicted beside what was measured, where both are in nats.
std::string foreseen_text(const std::vector<PlanReport>& answers, const std::vector<WrittenFile>& written,
                          const optimizer::EvaluatedFiles& evaluated) {
  std::string text;
  for (std::size_t i = 0; i < written.size(); ++i) {
    const PlanReport& answer = answers[written[i].answer];
    const double measured = evaluated.files[i].figures.divergence.value;
    if (answer.error_unit != "nats" || !answer.predicted_error || !(*answer.predicted_error > 0)) continue;
    text += fmt::format("{}: predicted {:.5g} nats of KL divergence, measured {:.5g}: {:.2f} times as much\n",
                        escaped(written[i].path.filename().string()), *answer.predicted_error, measured,
                        measured / *answer.predicted_error);
  }
  return text.empty() ? text : '\n' + text;
}

// One page about all answers, with the whole curve where formats were searched for.
Result<void> write_report(const QuantizeOptions& options, const Session& session,
                          const std::vector<PlanReport>& answers, const std::string& command,
                          const std::optional<optimizer::EvaluatedFiles>& evaluated,
                          const std::vector<state::Evaluation>& tunings) {
  FrontierReport curve;
  const bool searched = std::ranges::any_of(session.targets, [](const optimizer::Target& target) {
    return !std::holds_alternative<optimizer::RecipeTarget>(target);
  });
  if (searched) {
    QF_ASSIGN(const optimizer::ModelFrontier frontier,
              optimizer::model_frontier(*session.job, session.request));
    curve = make_frontier_report(session.inputs->model.total_elements(), frontier, session.statics,
                                 session.job->error_unit);
  }
  SummaryReport report = make_summary(*session.inputs, *session.job, std::move(curve), answers, command);
  if (!session.inputs->store) {  // the state file has them
    if (evaluated) add_evaluation(*evaluated, report);
    for (const state::Evaluation& one : tunings) add_evaluation(one, report);
  }
  return write_file_atomically(options.report, to_html(report),
                               options.force ? Existing::Replace : Existing::Keep);
}

int run_job(QuantizeOptions& options, Console& console) {
  const JobContext context = console.context();
  if (options.dry_run) options.write = false;
  if (auto rest = read_rest(options); !rest) return console.fail(rest.error());
  if (auto sensible = check_targets(options.job); !sensible) return console.fail(sensible.error());
  auto opened = Session::open(options.job, true, context);
  if (!opened) return console.fail(opened.error());
  Session& session = opened.value();
  session.existing = options.force ? Existing::Replace : Existing::Keep;
  session.request.keep_provenance = !options.no_provenance;
  console.display().reads(session.source_bytes_per_weight());
  const bool several = session.targets.size() > 1;
  if (auto usable = check_outputs(output_paths(options, session.targets),
                                  guarded_files(options, session.inputs->model), options.force);
      !usable)
    return console.fail(usable.error());

  const auto stopped = [&](const Error& error, bool writing) {
    const int status = console.fail(error);
    if (error.code == ErrorCode::Interrupted) console.tell(resume_hint(options.job, writing));
    return status;
  };
  optimizer::EvaluationRequest evaluation;
  if (options.write && !options.evaluate.empty())
    if (auto usable = prepare_evaluation(options, session.inputs->model, evaluation); !usable)
      return stopped(usable.error(), false);
  std::optional<calibration::Text> tuning_text;
  if (!options.tune_time.empty() && !options.tune)
    return console.fail(fail(ErrorCode::InvalidArgument, "--tune-time is of use with --tune only"));
  if (options.tune) {
    auto text = prepare_tuning(options, session.inputs->model);
    if (!text) return stopped(text.error(), false);
    tuning_text = std::move(text).value();
  }
  if (auto checked = session.check(context); !checked) return stopped(checked.error(), false);
  const Model& model = session.inputs->model;
  // Targets out of reach are told at once, and nothing is measured for the others.
  std::vector<optimizer::Budget>& budgets = session.job->budgets;
  const auto reachable = [](const optimizer::Budget& budget) { return budget.feasible(); };
  if (!std::ranges::all_of(budgets, reachable))
    std::erase_if(budgets, reachable);
  else if (auto measured = session.measure(context); !measured)
    return stopped(measured.error(), false);

  std::vector<PlanReport> reports;
  std::vector<WrittenFile> written;
  std::vector<nlohmann::ordered_json> tunings, tuning_costs;  // per answer
  std::vector<state::Evaluation> tuning_records;
  int status = kDone;
  for (const optimizer::Budget& budget : budgets) {
    const optimizer::Target& target = budget.target;
    auto solved = optimizer::choose(*session.inputs, *session.job, session.request, budget,
                                    {context.progress, context.cancel});
    if (!solved) return stopped(solved.error(), false);
    optimizer::Solution& solution = solved.value();
    std::optional<optimizer::Contest> contest;
    if (options.write && solution.feasible) {
      auto ran = session.run_candidates(budget, output_path(options, target, several).parent_path(), context,
                                        solution);
      if (!ran) return stopped(ran.error(), true);
      contest = std::move(ran).value();
    }
    PlanReport report = make_plan_report(model, *session.job, solution, session.statics);
    if (contest) report.candidates = candidate_reports(*contest);
    if (!report.feasible) {
      status = console.fail(fail(ErrorCode::Infeasible, "{}", infeasible_sentence(report)));
      if (!options.job.json) console.table(memory_table(report));
      reports.push_back(std::move(report));
      continue;
    }
    for (const BudgetReport& one : report.budgets)
      if (one.fill && !one.fill->met)
        console.logger().log(LogLevel::Warning,
                             fmt::format("{}: less of the budget is used than --min-fill {} asks for",
                                         report.target.text, *options.job.min_fill));
    if (!options.job.json) console.print(to_text(report, options.job.all_tensors));
    if (tuning_text) {
      const auto plans = tuning_plans(options, session, *tuning_text, solution.recipe);
      if (!plans) return stopped(plans.error(), false);
      const std::string text = "what tuning it takes: " + tuning::describe(plans.value());
      if (options.write)
        context.logger.log(LogLevel::Info, text);
      else if (!options.job.json)
        console.print("\n" + text);
      tuning_costs.resize(reports.size() + 1);
      tuning_costs.back() = to_json(std::span(plans.value()));
    }
    if (auto exported = export_recipes(options, model, solution, several); !exported)
      return console.fail(exported.error());
    if (options.write) {
      const fs::path path = output_path(options, target, several);
      optimizer::WriterOptions writer = optimizer::writer_options(*session.inputs, session.request);
      writer.keys = solution.keys;
      writer.existing = options.force ? Existing::Replace : Existing::Keep;
      const fs::path first = options.tune ? untuned_path(path) : path;
      if (tuning_text) {
        writer.existing = Existing::Replace;  // what an interrupted tuning has left, and is of use still
        if (session.request.keep_provenance && fs::is_regular_file(first))
          writer.reuse.files.push_back(first);
      }
      auto done = optimizer::write_model(model, session.inputs->importance_or_null(), solution.recipe, first,
                                         writer, *session.kernels, context.progress, context.cancel);
      if (!done) return stopped(done.error(), true);
      for (const std::string& note : done.value().notes) console.logger().log(LogLevel::Warning, note);
      session.remember_digest(done.value().source_digest, context);
      // What the next targets share with this one is not encoded twice; what was tuned is no encoding.
      if (session.request.keep_provenance && !tuning_text)
        session.request.reuse.files.push_back(done.value().files.front());
      report.encoded_tensors = done.value().encoded_tensors;
      report.reused_tensors = done.value().reused_tensors;
      std::vector<fs::path> files = done.value().files;
      std::optional<tuning::TuneResult> tuned;
      if (tuning_text) {
        std::optional<tuning::TimedChoice> choice;
        auto result = tune_written(options, session, *tuning_text, target, done.value(), path, context, files,
                                   choice, tuning_records);
        if (!result && result.error().code == ErrorCode::Interrupted) {
          const int stopped_status = console.fail(result.error());
          console.tell(tuning_resume_hint(tuning_checkpoint(path)));
          console.tell(fmt::format("what is tuned stays in {} until then",
                                   escaped(done.value().files.front().string())));
          return stopped_status;
        }
        remove_files(done.value().files);
        if (!result) return stopped(result.error(), true);
        tuned = std::move(result).value();
        tunings.resize(reports.size() + 1);
        tunings.back() = to_json(*tuned, choice);
      }
      report.output = files.front().string();
      report.write_seconds = done.value().seconds;
      report.source_digest = done.value().source_digest;
      report.more_files = done.value().files.size() - 1;
      report.run_command =
          llama_server_command(target, report.ctx_size, options.job.override_tensor, report.output);
      if (!options.job.json) console.print((tuned ? to_text(*tuned) : "") + written_text(report));
      written.push_back({files.front(), reports.size()});
    }
    if (!options.job.json && several) console.print("\n");
    reports.push_back(std::move(report));
  }
  std::vector<nlohmann::ordered_json> figures(reports.size());  // of evaluations, per answer
  std::optional<optimizer::EvaluatedFiles> measured;
  if (!evaluation.text.texts.empty() && !written.empty()) {
    auto evaluated = evaluate_written(session, written, evaluation, context, figures);
    if (!evaluated) return console.fail(evaluated.error());  // what was written stays
    if (!options.job.json)
      console.print("\n" + to_text(evaluated.value(), written.size() == 1) +
                    foreseen_text(reports, written, evaluated.value()));
    measured = std::move(evaluated).value();
  }
  if (!options.report.empty() && status == kDone) {
    if (auto drawn = write_report(options, session, reports, console.command(), measured, tuning_records);
        !drawn)
      return console.fail(drawn.error());
    console.logger().log(LogLevel::Info, fmt::format("the report is in {}", options.report));
  }
  if (options.job.json) {
    nlohmann::ordered_json document = plan_document(reports);
    for (std::size_t i = 0; i < figures.size(); ++i)
      if (!figures[i].is_null()) document["answers"][i]["evaluation"] = figures[i];
    for (std::size_t i = 0; i < tuning_costs.size(); ++i)
      if (!tuning_costs[i].is_null()) document["answers"][i]["tuning_costs"] = tuning_costs[i];
    for (std::size_t i = 0; i < tunings.size(); ++i)
      if (!tunings[i].is_null()) document["answers"][i]["tuning"] = tunings[i];
    console.print(document_text(document));
  }
  return status;
}

Command make_command(bool write) {
  auto options = std::make_shared<QuantizeOptions>();
  options->write = write;
  Command command;
  command.name = write ? "quantize" : "plan";
  command.sentence = write ? "Make the best model of exactly the size you ask for"
                           : "Everything that 'quantize' does but writing: measure, allocate, report";
  if (write)
    command.notes = {
        "Example:", "  quantfit quantize model-F16.gguf --imatrix imatrix.gguf --target-bpw 4.5 \\",
        "           --state model.qfstate -o model-4.5bpw.gguf", "",
        "Ctrl-C stops; the same command continues where it stopped when --state is given."};
  else
    command.notes = {
        "Example, at once when the state file knows the model already:",
        "  quantfit plan model-F16.gguf --imatrix imatrix.gguf --target-bpw 3,4,5 --state model.qfstate"};
  OptionTable& table = command.table;
  add_input_options(table, options->job);
  table.add("rest", options->rest, "...", "llama-quantize's form: [out.gguf] TYPE [threads]").hide();
  add_calibration_options(table, options->job);
  add_objective_options(table, options->job);
  if (write) add_candidates_option(table, options->job);
  add_target_options(table, options->job);
  add_search_options(table, options->job);
  table.group("Output");
  if (write)
    table.add("--output", options->output, "FILE.gguf", "file to write")
        .alias("-o")
        .default_is("beside the model, named after the target")
        .file();
  if (write)
    table
        .add("--evaluate", options->evaluate, "TEXT",
             "at the end measure the KL divergence of what was written on this text, in chunks of --context")
        .file();
  table.flag(
      "--tune", options->tune,
      write ? "at the end train norms, block scales and codes of what was written on --text, at the same "
              "bytes, as 'quantfit tune' does; an eighth of the text decides what is kept"
            : "also say what it would take to tune the file on --text, at every level, as 'quantize --tune' "
              "does");
  if (write) add_tune_time_option(table, options->tune_time);
  table.add(
      "--split-max-size", options->job.split_max_size, "SIZE",
      "cut the output into files of at most this size, OUT-00001-of-0000N.gguf; a larger tensor has a file "
      "of its own");
  table.add("--split-max-tensors", options->job.split_max_tensors, "N",
            "cut the output into files of at most so many tensors; 0: no limit");
  add_override_option(table, options->job);
  table.flag("--keep-split", options->job.keep_split,
             "cut the output as the model is cut: as many files, each with the same tensors");
  if (write) add_reuse_options(table, options->job);
  table.add("--export-recipe", options->export_recipe, "FILE", "write the recipe, readable by --recipe")
      .file();
  table
      .add("--export-tensor-types", options->export_tensor_types, "FILE",
           "write the recipe for llama-quantize's --tensor-type-file")
      .file();
  table
      .add("--report", options->report, "FILE.html",
           "also draw the answers: curve, map of the layers, sources of the error; one page for a browser")
      .file();
  table.flag("--force", options->force, "replace what exists already; never what is being read");
  if (write)
    table.flag("--no-provenance", options->no_provenance,
               "the file does not say how it was made (keys quantfit.*, which 'inspect' shows)");
  if (write) table.flag("--dry-run", options->dry_run, "write nothing: what 'quantfit plan' does");
  table.flag("--tensors", options->job.all_tensors, "list every tensor's format");
  table.flag("--json", options->job.json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.run = [options](Console& console) { return run_job(*options, console); };
  return command;
}

}  // namespace

Command make_quantize_command() {
  return make_command(true);
}
Command make_plan_command() {
  return make_command(false);
}

}  // namespace quantfit::cli

// `quantfit tune`: a quantized file made closer to its original at the same bytes.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/output_files.h"
#include "cli/report/json.h"
#include "cli/report/tuning_report.h"
#include "cli/text_options.h"
#include "cli/tuning_job.h"
#include "core/fingerprint.h"
#include "core/text.h"
#include "optimizer/tuning/layers.h"
#include "optimizer/tuning/tune.h"
#include "optimizer/tuning/tuned_file.h"
#include "state/state_store.h"

namespace quantfit::cli {
namespace {

namespace fs = std::filesystem;

struct TuneCommandOptions {
  std::string original;
  std::string quantized;
  std::string output;
  std::string state;
  TextOptions text;
  std::string level = "auto";
  std::uint32_t steps = 0;
  std::string time;
  std::string moments = "auto";
  std::string form = "auto";
  unsigned threads = 0;
  bool force = false;
  bool dry_run = false;
  bool json = false;
};

int run_tune(const TuneCommandOptions& options, Console& console) {
  const JobContext context = console.context();
  auto request = make_text_request(options.text);
  if (!request) return console.fail(request.error());
  auto run = make_run_options(options.text, options.threads);
  if (!run) return console.fail(run.error());
  if (options.output.empty() && !options.dry_run)
    return console.fail(
        fail(ErrorCode::InvalidArgument, "where should the tuned file go? Give -o FILE.gguf"));
  auto original = Model::open(options.original);
  if (!original) return console.fail(original.error());
  auto quantized = Model::open(options.quantized);
  if (!quantized) return console.fail(quantized.error());
  if (!options.output.empty()) {
    std::vector<GuardedFile> guarded;
    guard_model(original.value(), "the original model", guarded);
    guard_model(quantized.value(), "the model that is tuned", guarded);
    guard_text(options.text, guarded);
    guarded.push_back({options.state, "the state file"});
    if (auto usable = check_outputs({options.output}, guarded, options.force); !usable)
      return console.fail(usable.error());
  }
  auto text = calibration::read_text(original.value(), request.value());
  if (!text) return console.fail(text.error());
  tuning::TuneOptions tune;
  tune.run = run.value();
  tune.steps = options.steps;
  if (!options.output.empty()) tune.checkpoint = tuning_checkpoint(options.output);
  if (options.moments != "auto")
    tune.moments = options.moments == "whole" ? tuning::MomentForm::Whole : tuning::MomentForm::Bytes;
  if (options.form != "auto")
    tune.form = options.form == "layers" ? tuning::TuneForm::Layers
                : options.form == "both" ? tuning::TuneForm::Both
                                         : tuning::TuneForm::Whole;
  if ((tune.form == tuning::TuneForm::Layers || tune.form == tuning::TuneForm::Both) && !options.time.empty())
    return console.fail(fail(ErrorCode::InvalidArgument,
                             "--tune-time and --form {} exclude one another: give --steps", options.form));
  if (options.level != "auto") tune.level = tuning::parse_level(options.level);
  if (auto fits = fit_into_time(options.time, original.value(), quantized.value(), request.value(),
                                text.value(), tune, context);
      !fits)
    return console.fail(fits.error());
  auto plan = tuning::plan_tuning(original.value(), quantized.value(), text.value(), tune);
  if (!plan) return console.fail(plan.error());
  std::string foreseen = plan.value().describe();
  if (!plan.value().by_layers) {
    const auto levels =
        tuning::plan_levels(original.value(), quantized.value().tensors(), text.value(), tune);
    if (!levels) return console.fail(levels.error());
    foreseen += "levels: " + tuning::describe(levels.value());
  }
  if (options.dry_run) {
    console.print(foreseen);
    return kDone;
  }
  context.logger.log(LogLevel::Info, foreseen);
  const std::string original_fingerprint = fingerprint(original.value());
  std::optional<state::StateStore> store;
  if (!options.state.empty()) {
    auto opened =
        state::StateStore::open(options.state,
                                {original_fingerprint, fs::path(options.original).filename().string(),
                                 original.value().total_elements()},
                                &context.cancel);
    if (!opened) return console.fail(opened.error());
    store = std::move(opened).value();
  }
  const ModelWatch watch(original.value());
  auto tuned =
      tuning::tune(original.value(), quantized.value(), text.value(), tune, context.progress, context.cancel);
  if (!tuned) {
    const int status = console.fail(tuned.error());
    if (tuned.error().code == ErrorCode::Interrupted) console.tell(tuning_resume_hint(tune.checkpoint));
    return status;
  }
  if (auto unchanged = watch.check(); !unchanged) return console.fail(unchanged.error());
  const tuning::TuneResult& result = tuned.value();
  auto written = tuning::write_tuned(
      quantized.value(), result.replaced(),
      tuning::tuned_keys(result, text.value().fingerprint, original_fingerprint), kKeysAboutBytes,
      options.output, options.force ? Existing::Replace : Existing::Keep);
  if (!written) return console.fail(written.error());
  tuning::remove_checkpoint(tune.checkpoint);
  if (store) {
    auto file = Model::open(written.value().files.front());
    if (!file) return console.fail(file.error());
    if (auto saved =
            store->save_evaluation(tuning_record(original_fingerprint, file.value(), text.value(), result));
        !saved)
      return console.fail(saved.error());
  }
  if (options.json) {
    nlohmann::ordered_json document = document_of("tune");
    document["output"] = options.output;
    document["file_bytes"] = written.value().bytes;
    document.update(to_json(result, tune.choice));
    console.print(document_text(document));
    return kDone;
  }
  console.print(to_text(result) + fmt::format("wrote {}: {} bytes, in {}\n", escaped(options.output),
                                              written.value().bytes, format_duration(result.seconds)));
  return kDone;
}

}  // namespace

Command make_tune_command() {
  auto options = std::make_shared<TuneCommandOptions>();
  Command command;
  command.name = "tune";
  command.sentence = "Make a quantized file closer to its original at the same bytes: train what costs none";
  OptionTable& table = command.table;
  table.add("original", options->original, "BASE.gguf", "the original model, in 16 bits or more")
      .needed()
      .file();
  table.add("quantized", options->quantized, "FILE.gguf", "file made from it, by this program or another")
      .needed()
      .file();
  table.add("--output", options->output, "FILE", "the tuned file").alias("-o").file();
  table
      .add("--level", options->level, "NAME",
           "what is trained: norms (with biases and routers), scales of blocks besides, or codes of weights "
           "besides; auto: the highest that --memory has room and the text tokens for, lower ones where text "
           "held back refuses it")
      .one_of({"auto", "norms", "scales", "codes"});
  table.add("--steps", options->steps, "N", "steps of training, of 1024 tokens each")
      .range(1, 1000000)
      .default_is("one pass over the text, up to four over a short one");
  table
      .add(
          "--moments", options->moments, "FORM",
          "what the training remembers of each code's gradient: whole (8 bytes), or bytes (2), a little less "
          "exact; auto: whole where --memory has room for it")
      .one_of({"auto", "whole", "bytes"});
  table
      .add(
          "--form", options->form, "FORM",
          "whole: all layers together, on the divergence of predictions; layers: one layer at a time, for "
          "models larger than memory; both: so first, and then whole, from what that left; auto: whole where "
          "--memory has room for it")
      .one_of({"auto", "whole", "layers", "both"});
  add_tune_time_option(table, options->time);
  table.group("Text");
  add_text_options(
      table, options->text,
      "text to tune on; may be given several times. An eighth of it is held back to decide what is "
      "kept. Without one: the text that ships with quantfit");
  table.group("Work");
  add_threads_option(table, options->threads);
  table.group("Output");
  table
      .add("--state", options->state, "FILE",
           "state file of the original that keeps what was measured before and after, for 'quantfit report'")
      .file();
  table.flag("--force", options->force, "replace what exists already; never what is being read");
  table.flag("--dry-run", options->dry_run, "say what it will take, at every level, and stop");
  table.flag("--json", options->json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.notes = {
      "The file keeps its formats and its size, and its metadata say that it was tuned.",
      "Ctrl-C stops; the same command goes on from what was saved in FILE.tuning beside the output.", "",
      "Example:",
      "  quantfit tune model-F16.gguf model-3bpw.gguf --text calibration.txt -o model-3bpw-tuned.gguf"};
  command.run = [options](Console& console) { return run_tune(*options, console); };
  return command;
}

}  // namespace quantfit::cli

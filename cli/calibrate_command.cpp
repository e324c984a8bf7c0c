// `quantfit calibrate`: an importance matrix from a text.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/output_files.h"
#include "cli/report/json.h"
#include "cli/text_options.h"
#include "core/byte_size.h"
#include "core/text.h"
#include "optimizer/job/calibrated.h"

namespace quantfit::cli {
namespace {

struct CalibrateOptions {
  std::string model;
  std::string output;
  std::string state;
  TextOptions text;
  unsigned threads = 0;
  bool force = false;
  bool dry_run = false;
  bool json = false;
};

int run_calibrate(const CalibrateOptions& options, Console& console) {
  const JobContext context = console.context();
  auto text = make_text_request(options.text);
  if (!text) return console.fail(text.error());
  auto run = make_run_options(options.text, options.threads);
  if (!run) return console.fail(run.error());
  optimizer::CalibrationRequest request{std::move(text).value(), std::move(run).value(), options.output,
                                        options.force ? Existing::Replace : Existing::Keep};
  if (options.output.empty() && options.state.empty() && !options.dry_run)
    return console.fail(fail(ErrorCode::InvalidArgument,
                             "where should the importance matrix go? Give -o FILE.gguf (or .dat), or --state "
                             "FILE to keep it for quantize"));
  optimizer::JobPaths paths{options.model, {}, options.dry_run ? "" : options.state};
  auto opened = optimizer::open_inputs(paths, &context.cancel);
  if (!opened) return console.fail(opened.error());
  optimizer::JobInputs& inputs = opened.value();
  if (!options.output.empty()) {
    std::vector<GuardedFile> guarded{{options.state, "the state file"}};
    guard_model(inputs.model, "the model", guarded);
    guard_text(options.text, guarded);
    if (auto usable = check_outputs({options.output}, guarded, options.force); !usable)
      return console.fail(usable.error());
  }
  auto plan = optimizer::plan_calibration(inputs.model, request);
  if (!plan) return console.fail(plan.error());
  if (options.dry_run) {
    console.print(plan.value().describe());
    return kDone;
  }
  context.logger.log(LogLevel::Info, plan.value().describe());
  auto made =
      optimizer::calibrate(inputs, paths, request, QUANTFIT_VERSION, {context.progress, context.cancel});
  if (!made) {
    const int status = console.fail(made.error());
    if (made.error().code == ErrorCode::Interrupted)
      console.tell(options.state.empty()
                       ? "nothing was kept; give --state FILE so that the next run can continue"
                       : "the same command continues at the layer that was saved last");
    return status;
  }
  const optimizer::CalibratedImportance& result = made.value();
  const std::string where = options.output.empty() ? result.path.string() : options.output;
  if (result.temporary) {
    std::error_code ignored;
    std::filesystem::remove(result.path, ignored);
  }
  if (options.json) {
    nlohmann::ordered_json document = document_of("calibrate");
    document["importance"] = where;
    document["tokens"] = result.tokens;
    document["known"] = result.known;
    document["continued_at_layer"] = result.continued_at;
    document["seconds"] = result.seconds;
    console.print(document_text(document));
    return kDone;
  }
  console.print(result.known ? fmt::format("{}: made before from the same text\n", escaped(where))
                             : fmt::format("wrote {}: {} tokens in {}{}\n", escaped(where), result.tokens,
                                           format_duration(result.seconds),
                                           result.continued_at == 0 ? ""
                                                                    : fmt::format(", continued at layer {}",
                                                                                  result.continued_at)));
  return kDone;
}

}  // namespace

Command make_calibrate_command() {
  auto options = std::make_shared<CalibrateOptions>();
  Command command;
  command.name = "calibrate";
  command.sentence = "Make an importance matrix: run a text through the model";
  OptionTable& table = command.table;
  table.add("model", options->model, "MODEL.gguf", "GGUF model (the first file, when it is sharded)")
      .needed()
      .file();
  table.add("--output", options->output, "FILE", "importance matrix to write; .dat: in the legacy format")
      .alias("-o")
      .alias("--save-imatrix")
      .file();
  table
      .add("--state", options->state, "FILE",
           "state file beside which it is kept: quantize finds it there, an interrupted pass continues")
      .alias("--state-file")
      .file();
  table.group("Text");
  add_text_options(table, options->text,
                   "text to read; may be given several times. Without one: a text of prose, code, languages "
                   "and mathematics that ships with quantfit");
  table.group("Work");
  add_threads_option(table, options->threads);
  table.group("Output");
  table.flag("--force", options->force, "replace what exists already; never what is being read");
  table.flag("--dry-run", options->dry_run, "say what it will take, and stop");
  table.flag("--json", options->json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.notes = {"Example:", "  quantfit calibrate model-F16.gguf --text calibration.txt -o imatrix.gguf"};
  command.run = [options](Console& console) { return run_calibrate(*options, console); };
  return command;
}

}  // namespace quantfit::cli

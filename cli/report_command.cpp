// `quantfit report`: a state file as one page for a browser.
#include <memory>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/output_files.h"
#include "cli/report/summary_report.h"
#include "core/atomic_file.h"
#include "state/state_store.h"

namespace quantfit::cli {
namespace {

struct ReportOptions {
  std::string state;
  std::string output;
  bool force = false;
};

int write_report(const ReportOptions& options, Console& console) {
  const std::filesystem::path state = options.state;
  const std::filesystem::path path = options.output.empty()
                                         ? std::filesystem::path(state).replace_extension(".html")
                                         : std::filesystem::path(options.output);
  if (auto usable = check_outputs({path}, {{state, "the state file"}}, options.force); !usable)
    return console.fail(usable.error());
  const auto store = state::StateStore::open_read_only(state, &console.token());
  if (!store) return console.fail(store.error());
  const auto contents = store.value().contents();
  if (!contents) return console.fail(contents.error());
  if (auto written = write_file_atomically(path, to_html(make_summary(contents.value(), state.string())),
                                           options.force ? Existing::Replace : Existing::Keep);
      !written)
    return console.fail(written.error());
  console.logger().log(LogLevel::Info, "the report is in " + path.string());
  return kDone;
}

}  // namespace

Command make_report_command() {
  auto options = std::make_shared<ReportOptions>();
  Command command;
  command.name = "report";
  command.sentence = "Draw what a state file knows: answers, layers, measured divergences";
  OptionTable& table = command.table;
  table.add("state", options->state, "FILE.qfstate", "state file").needed().file();
  table.add("--output", options->output, "FILE.html", "page to write")
      .alias("-o")
      .default_is("beside the state file, with its name")
      .file();
  table.flag("--force", options->force, "replace what exists already");
  add_console_options(table, *command.console);
  command.notes = {
      "The page needs no network and no other file. Its curve is over all formats that were measured. "
      "'quantfit "
      "plan' and 'quantfit quantize' write a fuller one with --report: they know the model, and so a job's "
      "rules "
      "and llama.cpp's mixtures."};
  command.run = [options](Console& console) { return write_report(*options, console); };
  return command;
}

}  // namespace quantfit::cli

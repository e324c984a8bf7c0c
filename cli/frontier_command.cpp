// `quantfit frontier`: the whole curve of size against predicted error.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/report/csv.h"
#include "cli/report/json.h"
#include "cli/report/text.h"
#include "cli/session.h"

namespace quantfit::cli {
namespace {

struct FrontierOptions {
  JobOptions job;
  std::uint64_t points = 40;
  bool steps = false;
  bool csv = false;
};

int show_frontier(const FrontierOptions& options, Console& console) {
  auto opened = Session::open(options.job, false, console.context());
  if (!opened) return console.fail(opened.error());
  Session& session = opened.value();
  if (auto checked = session.check(console.context()); !checked) return console.fail(checked.error());
  if (auto measured = session.measure(console.context()); !measured) return console.fail(measured.error());
  auto frontier = optimizer::model_frontier(*session.job, session.request);
  if (!frontier) return console.fail(frontier.error());
  const FrontierReport report =
      make_frontier_report(session.inputs->model, frontier.value(), session.statics.compared);
  if (options.job.json)
    console.print(document_text(to_json(report)));
  else if (options.csv)
    console.print(to_csv(report));
  else
    console.print(to_text(report, options.points, options.steps));
  return kDone;
}

}  // namespace

Command make_frontier_command() {
  auto options = std::make_shared<FrontierOptions>();
  Command command;
  command.name = "frontier";
  command.sentence = "Show the whole curve of size against predicted error";
  command.notes = {
      "Every point is the exact optimum for its own size; static recipes of llama.cpp stand beside the "
      "curve. With a state file that knows the model the answer comes at once."};
  OptionTable& table = command.table;
  add_input_options(table, options->job);
  add_calibration_options(table, options->job);
  add_search_options(table, options->job);
  table.group("Output");
  table.add("--points", options->points, "N", "print at most about this many points; 0: all")
      .range(0, 1 << 30);
  table.flag("--steps", options->steps, "list where each tensor changes its format");
  table.flag("--csv", options->csv, "print comma-separated values, every point").not_with("--json");
  table.flag("--json", options->job.json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.run = [options](Console& console) { return show_frontier(*options, console); };
  return command;
}

}  // namespace quantfit::cli

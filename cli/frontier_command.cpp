// `quantfit frontier`: the whole curve of size against predicted error.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/report/csv.h"
#include "cli/report/json.h"
#include "cli/report/svg.h"
#include "cli/report/text.h"
#include "cli/session.h"

namespace quantfit::cli {
namespace {

constexpr std::uint64_t kPointsOfText = 40;

struct FrontierOptions {
  JobOptions job;
  std::optional<std::uint64_t> points;
  bool steps = false;
  bool csv = false;
  bool svg = false;
};

int show_frontier(const FrontierOptions& options, Console& console) {
  auto opened = Session::open(options.job, false, console.context());
  if (!opened) return console.fail(opened.error());
  Session& session = opened.value();
  console.display().reads(session.source_bytes_per_weight());
  if (auto checked = session.check(console.context()); !checked) return console.fail(checked.error());
  if (auto measured = session.measure(console.context()); !measured) {
    const int status = console.fail(measured.error());
    if (measured.error().code == ErrorCode::Interrupted)
      console.tell(options.job.state.empty()
                       ? std::string("nothing was kept; give --state FILE so that the next run can continue")
                       : fmt::format("what was finished is in {}; the same command continues there",
                                     options.job.state));
    return status;
  }
  auto frontier = optimizer::model_frontier(*session.job, session.request);
  if (!frontier) return console.fail(frontier.error());
  const FrontierReport report = make_frontier_report(session.inputs->model.total_elements(), frontier.value(),
                                                     session.statics, session.job->error_unit);
  if (options.job.json)
    console.print(document_text(to_json(report, options.points.value_or(0))));
  else if (options.svg)
    console.print(to_svg(report));
  else if (options.csv)
    console.print(to_csv(report, options.points.value_or(0)));
  else
    console.print(to_text(report, options.points.value_or(kPointsOfText), options.steps));
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
  add_objective_options(table, options->job);
  add_search_options(table, options->job);
  table.group("Output");
  table.add("--points", options->points, "N", "print at most about this many points; 0: all")
      .range(0, 1 << 30)
      .default_is(fmt::format("{} as text, all otherwise", kPointsOfText));
  table.flag("--steps", options->steps, "list where each tensor changes its format");
  table.flag("--csv", options->csv, "print comma-separated values").not_with("--json");
  table.flag("--svg", options->svg, "print a picture of the curve").not_with("--json").not_with("--csv");
  table.flag("--json", options->job.json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.run = [options](Console& console) { return show_frontier(*options, console); };
  return command;
}

}  // namespace quantfit::cli

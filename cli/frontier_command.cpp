// `quantfit frontier`: the whole curve of size against predicted error.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/job_options.h"
#include "cli/render.h"

namespace quantfit::cli {
namespace {

struct FrontierOptions {
  JobOptions job;
  std::size_t points = 40;
  bool steps = false;
  bool csv = false;
};

int show_frontier(const FrontierOptions& options) {
  ConsoleStyle style = ConsoleStyle::detect();
  style.quiet = options.job.quiet;
  ConsoleLogger logger(style);
  ConsoleProgress progress(style);
  const InterruptHandler interrupt;
  auto request = make_request(options.job);
  if (!request) return report(request.error());
  auto kernels = kernels::default_kernels();
  if (!kernels) return report(kernels.error());
  auto inputs = optimizer::open_inputs(request.value().paths);
  if (!inputs) return report(inputs.error());
  for (const std::string& warning : inputs.value().warnings) logger.log(LogLevel::Warning, warning);
  auto job =
      optimizer::prepare_job(inputs.value(), request.value(), *kernels.value(), progress, interrupt.token());
  if (!job) return report(job.error());
  auto frontier = optimizer::model_frontier(job.value(), request.value());
  if (!frontier) return report(frontier.error());
  auto statics = optimizer::compare_static_recipes(inputs.value(), job.value(), request.value());
  if (!statics) return report(statics.error());
  const Model& model = inputs.value().model;
  if (options.job.json)
    fmt::print("{}\n", frontier_to_json(model, frontier.value(), statics.value()).dump(2));
  else if (options.csv)
    fmt::print("{}", frontier_to_csv(model, frontier.value(), statics.value()));
  else
    fmt::print("{}",
               describe_frontier(model, frontier.value(), statics.value(), options.points, options.steps));
  return kDone;
}

}  // namespace

void add_frontier_command(CLI::App& app, int& status) {
  auto options = std::make_shared<FrontierOptions>();
  CLI::App* command = app.add_subcommand("frontier", "Show the whole curve of size against predicted error");
  command->footer(
      "\nEvery point is the exact optimum for its own size; static recipes of llama.cpp stand beside "
      "the curve.\n"
      "With a state file that knows the model the answer comes at once.");
  add_input_options(*command, options->job);
  add_search_options(*command, options->job);
  command->add_option("--points", options->points, "print at most about this many points; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_flag("--steps", options->steps, "list where each tensor changes its format");
  command->add_flag("--csv", options->csv, "print comma-separated values, every point")
      ->excludes(command->get_option("--json"));
  command->callback([options, &status] { status = show_frontier(*options); });
}

}  // namespace quantfit::cli

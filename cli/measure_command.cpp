// `quantfit measure`: errors of every tensor in every format into a state file, without a target; a part of
// them for each of several machines.
#include <fmt/format.h>

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/report/json.h"
#include "cli/session.h"
#include "cli/shard_option.h"

namespace quantfit::cli {
namespace {

struct MeasureOptions {
  JobOptions job;
  std::string shard;
};

int measure(const MeasureOptions& options, Console& console) {
  const auto shard = parse_shard(options.shard, [](const char* name) { return std::getenv(name); });
  if (!shard) return console.fail(shard.error());
  if (options.job.state.empty())
    return console.fail(
        fail(ErrorCode::InvalidArgument, "measure keeps what it finds in a state file: give --state FILE"));
  const JobContext context = console.context();
  auto opened = Session::open(options.job, false, context);
  if (!opened) return console.fail(opened.error());
  Session& session = opened.value();
  console.display().reads(session.source_bytes_per_weight());
  session.request.shard = shard.value();
  session.needs_sensitivities = false;  // errors alone are measured here
  if (auto checked = session.check(context); !checked) return console.fail(checked.error());
  auto done = optimizer::measure_job(*session.inputs, session.request, *session.kernels,
                                     {context.progress, context.cancel}, *session.job);
  if (!done) {
    const int status = console.fail(done.error());
    if (done.error().code == ErrorCode::Interrupted)
      console.tell(
          fmt::format("what was finished is in {}; the same command continues there", options.job.state));
    return status;
  }
  const optimizer::MeasureReport& report = session.job->measured;
  if (options.job.json) {
    nlohmann::ordered_json json = document_of("measure");
    json["state"] = options.job.state;
    json["shard"] = shard.value().index;
    json["shards"] = shard.value().count;
    json["tensors_measured"] = report.tensors_sampled;
    json["tensors_known"] = report.tensors_known;
    json["tensors_of_other_shards"] = report.tensors_of_others;
    json["seconds"] = report.seconds;
    console.print(document_text(json));
    return kDone;
  }
  std::string text = fmt::format("measured {} tensors in {}, {} were known", report.tensors_sampled,
                                 format_duration(report.seconds), report.tensors_known);
  if (report.tensors_of_others != 0)
    text += fmt::format("; {} are left to other parts (this is {} of {}), join with: quantfit state merge",
                        report.tensors_of_others, shard.value().index, shard.value().count);
  console.print(text + '\n');
  return kDone;
}

}  // namespace

Command make_measure_command() {
  auto options = std::make_shared<MeasureOptions>();
  Command command;
  command.name = "measure";
  command.sentence =
      "Measure what every format costs every tensor, into a state file, for targets that come later";
  add_input_options(command.table, options->job);
  command.table.add(
      "--shard", options->shard, "I/N",
      "only part I of N, which cost about the same; auto: from a Slurm array or job or Open MPI; "
      "auto/N: from an indexed Job of Kubernetes");
  add_calibration_options(command.table, options->job);
  add_search_options(command.table, options->job);
  command.table.group("Output");
  command.table.flag("--json", options->job.json, "print one JSON document instead of text");
  add_console_options(command.table, *command.console);
  command.notes = {
      "Parts may share one state file on a local disk or have one each, which are joined afterwards:",
      "  quantfit measure model.gguf --imatrix i.gguf --state part-1.qfstate --shard 1/4",
      "  quantfit state merge model.qfstate part-*.qfstate",
      "  quantfit quantize model.gguf --imatrix i.gguf --state model.qfstate --target-bpw 4.5"};
  command.run = [options](Console& console) { return measure(*options, console); };
  return command;
}

}  // namespace quantfit::cli

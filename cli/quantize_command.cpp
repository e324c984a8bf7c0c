// `quantfit quantize` and `quantfit plan`: measure, allocate and, for the first, write.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/job_options.h"
#include "cli/render.h"
#include "core/byte_size.h"
#include "core/file_util.h"

namespace quantfit::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  JobOptions job;
  std::string output;
  bool write = true;  // false: `plan`
  bool force = false;
};

// The name of the file for a target: as given, or derived from the model's name. With several targets the target
// is part of every name.
fs::path output_path(const QuantizeOptions& options, const optimizer::Target& target, bool several) {
  std::string label;
  if (const auto* bpw = std::get_if<optimizer::BpwTarget>(&target))
    label = bpw->text + "bpw";
  else
    label = std::to_string(std::get<optimizer::FileSizeTarget>(target).bytes) + "B";
  if (options.output.empty()) {
    fs::path path(options.job.model);
    return path.parent_path() / fmt::format("{}-{}.gguf", path.stem().string(), label);
  }
  fs::path path(options.output);
  if (!several) return path;
  return path.parent_path() / fmt::format("{}-{}{}", path.stem().string(), label, path.extension().string());
}

// What can be known to fail is refused before hours of work, not after.
Result<void> check_output(const fs::path& path, const JobOptions& job, bool force) {
  std::error_code error;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, error))
    return fail(ErrorCode::Io, "{}: the folder {} does not exist", path.string(), folder.string());
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    return fail(ErrorCode::Io, "{}: the folder {} is not writable", path.string(), folder.string());
  if (fs::is_directory(path, error)) return fail(ErrorCode::Io, "{} is a folder", path.string());
  if (same_file(path, job.model))
    return fail(ErrorCode::InvalidArgument, "{}: the output would replace the model it is made from", path.string());
  if (fs::exists(path, error) && !force)
    return fail(ErrorCode::InvalidArgument, "{} exists already; --force replaces it", path.string());
  return outcome::success();
}

std::string resume_hint(const JobOptions& job) {
  return job.state.empty() ? "nothing was kept; give --state FILE so that the next run can continue"
                           : fmt::format("what was finished is in {}; the same command continues there", job.state);
}

int run_job(const QuantizeOptions& options) {
  ConsoleStyle style = ConsoleStyle::detect();
  style.quiet = options.job.quiet;
  ConsoleLogger logger(style);
  ConsoleProgress progress(style);
  const InterruptHandler interrupt;

  auto request = make_request(options.job);
  if (!request) return report(request.error());
  auto targets = make_targets(options.job);
  if (!targets) return report(targets.error());
  const bool several = targets.value().size() > 1;
  if (options.write)
    for (const optimizer::Target& target : targets.value())
      if (auto usable = check_output(output_path(options, target, several), options.job, options.force); !usable)
        return report(usable.error());
  auto kernels = kernels::default_kernels();
  if (!kernels) return report(kernels.error());
  auto inputs = optimizer::open_inputs(request.value().paths);
  if (!inputs) return report(inputs.error());
  for (const std::string& warning : inputs.value().warnings) logger.log(LogLevel::Warning, warning);
  if (!inputs.value().importance)
    logger.log(LogLevel::Warning, "no importance matrix: all columns count the same, which costs quality; see --imatrix");

  const auto stopped = [&](const Error& error) {
    const int status = report(error);
    if (status == kInterrupted) fmt::print(stderr, "{}\n", resume_hint(options.job));
    return status;
  };
  auto job = optimizer::prepare_job(inputs.value(), request.value(), *kernels.value(), progress, interrupt.token());
  if (!job) return stopped(job.error());
  for (const std::string& note : job.value().notes) logger.log(LogLevel::Info, "note: " + note);
  const optimizer::MeasureReport& measured = job.value().measured;
  logger.log(LogLevel::Info, measured.tensors_sampled == 0
                                 ? fmt::format("all {} tensors were measured before", measured.tensors_known)
                                 : fmt::format("measured {} tensors in {}, {} were known", measured.tensors_sampled,
                                               format_duration(measured.seconds), measured.tensors_known));

  nlohmann::ordered_json documents = nlohmann::ordered_json::array();
  const Model& model = inputs.value().model;
  int status = kDone;
  for (const optimizer::Target& target : targets.value()) {
    auto solved = optimizer::solve(inputs.value(), job.value(), request.value(), target);
    if (!solved) return report(solved.error());
    const optimizer::Solution& solution = solved.value();
    nlohmann::ordered_json document = solution_to_json(model, job.value(), solution);
    if (!solution.feasible) {
      fmt::print(stderr, "{}: {}\n", style.color ? "\x1b[31merror\x1b[0m" : "error", describe_infeasible(solution));
      status = kInfeasible;
      documents.push_back(std::move(document));
      continue;
    }
    if (!options.job.json)
      fmt::print("{}", describe_solution(model, job.value(), solution, options.job.all_tensors));
    if (options.write) {
      const fs::path path = output_path(options, target, several);
      optimizer::WriterOptions writer;
      writer.error_model = request.value().sampler.error_model;
      writer.effort = request.value().sampler.effort;
      writer.threads = request.value().sampler.threads;
      auto written = optimizer::write_model(model, inputs.value().importance_or_null(), solution.recipe, path, writer,
                                            *kernels.value(), progress, interrupt.token());
      if (!written) return stopped(written.error());
      document["output"] = path.string();
      document["write_seconds"] = written.value().seconds;
      if (!options.job.json)
        fmt::print("wrote            {} ({}) in {}\n{}", path.string(), format_bytes(written.value().file_bytes),
                   format_duration(written.value().seconds), several ? "\n" : "");
    } else if (!options.job.json && several) {
      fmt::print("\n");
    }
    documents.push_back(std::move(document));
  }
  if (options.job.json)
    fmt::print("{}\n", (several ? documents : documents[0]).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return status;
}

void add(CLI::App& app, int& status, bool write) {
  auto options = std::make_shared<QuantizeOptions>();
  options->write = write;
  CLI::App* command =
      write ? app.add_subcommand("quantize", "Make the best model of exactly the size you ask for")
            : app.add_subcommand("plan", "Everything that 'quantize' does but writing: measure, allocate, report");
  command->footer(
      write ? "\nExample:\n  quantfit quantize model-F16.gguf --imatrix imatrix.gguf --target-bpw 4.5 \\\n"
              "           --state model.qfstate -o model-4.5bpw.gguf\n\n"
              "Ctrl-C stops; the same command continues where it stopped when --state is given."
            : "\nExample, at once when the state file knows the model already:\n"
              "  quantfit plan model-F16.gguf --imatrix imatrix.gguf --target-bpw 3,4,5 --state model.qfstate");
  add_job_options(*command, options->job);
  if (write) {
    command->add_option("-o,--output", options->output,
                        "file to write (default: beside the model, named after the target)")
        ->type_name("FILE.gguf");
    command->add_flag("--force", options->force, "replace the output when it exists");
  }
  command->callback([options, &status] { status = run_job(*options); });
}

}  // namespace

void add_quantize_command(CLI::App& app, int& status) { add(app, status, true); }
void add_plan_command(CLI::App& app, int& status) { add(app, status, false); }

}  // namespace quantfit::cli

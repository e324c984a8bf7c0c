// `quantfit quantize` and `quantfit plan`: measure, allocate and, for the first, write.
#include <fmt/format.h>

#include <unistd.h>
#include <CLI/CLI.hpp>

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
#include "optimizer/output/recipe_io.h"

namespace quantfit::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  JobOptions job;
  std::string output;
  std::string export_recipe;
  std::string export_tensor_types;
  bool write = true;  // false: `plan`
  bool force = false;
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
  return with_label(fs::path(options.job.model).replace_extension(".gguf"), target, true);
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
    return fail(ErrorCode::InvalidArgument, "{}: the output would replace the model it is made from",
                path.string());
  if (fs::exists(path, error) && !force)
    return fail(ErrorCode::InvalidArgument, "{} exists already; --force replaces it", path.string());
  return outcome::success();
}

std::string resume_hint(const JobOptions& job) {
  return job.state.empty()
             ? "nothing was kept; give --state FILE so that the next run can continue"
             : fmt::format("what was finished is in {}; the same command continues there", job.state);
}

// Recipe files that were asked for, for one answer.
Result<void> export_recipes(const QuantizeOptions& options, const Model& model,
                            const optimizer::Solution& solution, bool several) {
  if (!options.export_recipe.empty()) {
    QF_ASSIGN(const std::string text, optimizer::to_recipe_text(solution.recipe, model.tensors()));
    QF_TRY(write_file_atomically(with_label(options.export_recipe, solution.target, several), text));
  }
  if (!options.export_tensor_types.empty()) {
    QF_ASSIGN(const std::string text, optimizer::to_tensor_type_file(solution.recipe, model.tensors()));
    QF_TRY(write_file_atomically(with_label(options.export_tensor_types, solution.target, several), text));
  }
  return outcome::success();
}

int run_job(const QuantizeOptions& options) {
  ConsoleStyle style = ConsoleStyle::detect();
  style.quiet = options.job.quiet;
  ConsoleLogger logger(style);
  ConsoleProgress progress(style);
  const InterruptHandler interrupt;

  auto request = make_request(options.job);
  if (!request) return report(request.error());
  if (auto sensible = check_targets(options.job); !sensible) return report(sensible.error());
  auto kernels = kernels::default_kernels();
  if (!kernels) return report(kernels.error());
  auto inputs = optimizer::open_inputs(request.value().paths);
  if (!inputs) return report(inputs.error());
  auto targets = make_targets(options.job, inputs.value());
  if (!targets) return report(targets.error());
  const bool several = targets.value().size() > 1;
  if (options.write)
    for (const optimizer::Target& target : targets.value())
      if (auto usable = check_output(output_path(options, target, several), options.job, options.force);
          !usable)
        return report(usable.error());
  for (const std::string& warning : inputs.value().warnings) logger.log(LogLevel::Warning, warning);
  if (!inputs.value().importance)
    logger.log(LogLevel::Warning,
               "no importance matrix: all columns count the same, which costs quality; see --imatrix");

  const auto stopped = [&](const Error& error) {
    const int status = report(error);
    if (status == kInterrupted) fmt::print(stderr, "{}\n", resume_hint(options.job));
    return status;
  };
  auto job =
      optimizer::prepare_job(inputs.value(), request.value(), *kernels.value(), progress, interrupt.token());
  if (!job) return stopped(job.error());
  for (const std::string& note : job.value().notes) logger.log(LogLevel::Info, "note: " + note);
  const optimizer::MeasureReport& measured = job.value().measured;
  logger.log(LogLevel::Info,
             measured.tensors_sampled == 0
                 ? fmt::format("all {} tensors were measured before", measured.tensors_known)
                 : fmt::format("measured {} tensors in {}, {} were known", measured.tensors_sampled,
                               format_duration(measured.seconds), measured.tensors_known));
  auto statics = optimizer::compare_static_recipes(inputs.value(), job.value(), request.value());
  if (!statics) return report(statics.error());

  nlohmann::ordered_json documents = nlohmann::ordered_json::array();
  const Model& model = inputs.value().model;
  int status = kDone;
  for (const optimizer::Target& target : targets.value()) {
    auto solved = optimizer::solve(inputs.value(), job.value(), request.value(), target);
    if (!solved) return report(solved.error());
    const optimizer::Solution& solution = solved.value();
    nlohmann::ordered_json document = solution_to_json(model, job.value(), solution, statics.value());
    if (!solution.feasible) {
      fmt::print(stderr, "{}error:{} {}\n", style.color ? "\x1b[31m" : "", style.color ? "\x1b[0m" : "",
                 describe_infeasible(solution));
      if (solution.memory) fmt::print(stderr, "{}", describe_memory(solution));
      status = kInfeasible;
      documents.push_back(std::move(document));
      continue;
    }
    for (const auto* fill : {&solution.fill, &solution.host_fill})
      if (*fill && !(*fill)->met)
        logger.log(LogLevel::Warning,
                   fmt::format("{}: less of the budget is used than --min-fill {} asks for",
                               to_text(solution.target), *options.job.min_fill));
    if (!options.job.json)
      fmt::print("{}",
                 describe_solution(model, job.value(), solution, statics.value(), options.job.all_tensors));
    if (auto exported = export_recipes(options, model, solution, several); !exported)
      return report(exported.error());
    if (options.write) {
      const fs::path path = output_path(options, target, several);
      optimizer::WriterOptions writer;
      writer.error_model = request.value().sampler.error_model;
      writer.effort = request.value().sampler.effort;
      writer.threads = request.value().sampler.threads;
      auto written = optimizer::write_model(model, inputs.value().importance_or_null(), solution.recipe, path,
                                            writer, *kernels.value(), progress, interrupt.token());
      if (!written) return stopped(written.error());
      document["output"] = path.string();
      document["write_seconds"] = written.value().seconds;
      if (!options.job.json)
        fmt::print("\nwrote {} ({}) in {}\n", path.string(), format_bytes(written.value().file_bytes),
                   format_duration(written.value().seconds));
    }
    if (!options.job.json && several) fmt::print("\n");
    documents.push_back(std::move(document));
  }
  if (options.job.json)
    fmt::print(
        "{}\n",
        (several ? documents : documents[0]).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return status;
}

void add(CLI::App& app, int& status, bool write) {
  auto options = std::make_shared<QuantizeOptions>();
  options->write = write;
  CLI::App* command =
      write ? app.add_subcommand("quantize", "Make the best model of exactly the size you ask for")
            : app.add_subcommand("plan",
                                 "Everything that 'quantize' does but writing: measure, allocate, report");
  command->footer(
      write
          ? "\nExample:\n  quantfit quantize model-F16.gguf --imatrix imatrix.gguf --target-bpw 4.5 \\\n"
            "           --state model.qfstate -o model-4.5bpw.gguf\n\n"
            "Ctrl-C stops; the same command continues where it stopped when --state is given."
          : "\nExample, at once when the state file knows the model already:\n"
            "  quantfit plan model-F16.gguf --imatrix imatrix.gguf --target-bpw 3,4,5 --state model.qfstate");
  add_input_options(*command, options->job);
  add_target_options(*command, options->job);
  add_search_options(*command, options->job);
  command->add_flag("--tensors", options->job.all_tensors, "list every tensor's format");
  command->add_option("--export-recipe", options->export_recipe, "write the recipe, readable by --recipe")
      ->type_name("FILE");
  command
      ->add_option("--export-tensor-types", options->export_tensor_types,
                   "write the recipe for llama-quantize's --tensor-type-file")
      ->type_name("FILE");
  if (write) {
    command
        ->add_option("-o,--output", options->output,
                     "file to write (default: beside the model, named after the target)")
        ->type_name("FILE.gguf");
    command->add_flag("--force", options->force, "replace the output when it exists");
  }
  command->callback([options, &status] { status = run_job(*options); });
}

}  // namespace

void add_quantize_command(CLI::App& app, int& status) {
  add(app, status, true);
}
void add_plan_command(CLI::App& app, int& status) {
  add(app, status, false);
}

}  // namespace quantfit::cli

// `quantfit quantize` and `quantfit plan`: measure, allocate and, for the first, write.
#include <fmt/format.h>

#include <unistd.h>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/report/json.h"
#include "cli/report/text.h"
#include "cli/session.h"
#include "cli/streams.h"
#include "core/byte_size.h"
#include "core/file_util.h"
#include "core/text.h"
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

int run_job(const QuantizeOptions& options, Console& console) {
  const JobContext context = console.context();
  if (auto sensible = check_targets(options.job); !sensible) return console.fail(sensible.error());
  auto opened = Session::open(options.job, context);
  if (!opened) return console.fail(opened.error());
  Session& session = opened.value();
  const Model& model = session.inputs.model;
  auto targets = make_targets(options.job, session.inputs);
  if (!targets) return console.fail(targets.error());
  const bool several = targets.value().size() > 1;
  if (options.write)
    for (const optimizer::Target& target : targets.value())
      if (auto usable = check_output(output_path(options, target, several), options.job, options.force);
          !usable)
        return console.fail(usable.error());

  const auto stopped = [&](const Error& error) {
    const int status = console.fail(error);
    if (error.code == ErrorCode::Interrupted) say(escaped(resume_hint(options.job)) + '\n');
    return status;
  };
  if (auto prepared = session.prepare(context); !prepared) return stopped(prepared.error());

  nlohmann::ordered_json documents = nlohmann::ordered_json::array();
  int status = kDone;
  for (const optimizer::Target& target : targets.value()) {
    auto solved = optimizer::solve(session.inputs, *session.job, session.request, target);
    if (!solved) return console.fail(solved.error());
    const optimizer::Solution& solution = solved.value();
    PlanReport report = make_plan_report(model, *session.job, solution, session.statics);
    if (!report.feasible) {
      say_error(infeasible_sentence(report));
      say(memory_table(report));
      status = kInfeasible;
      documents.push_back(to_json(report));
      continue;
    }
    for (const BudgetReport& budget : report.budgets)
      if (budget.fill && !budget.fill->met)
        console.logger().log(LogLevel::Warning,
                             fmt::format("{}: less of the budget is used than --min-fill {} asks for",
                                         report.target.text, *options.job.min_fill));
    if (!options.job.json) console.print(to_text(report, options.job.all_tensors));
    if (auto exported = export_recipes(options, model, solution, several); !exported)
      return console.fail(exported.error());
    if (options.write) {
      const fs::path path = output_path(options, target, several);
      optimizer::WriterOptions writer;
      writer.error_model = session.request.sampler.error_model;
      writer.effort = session.request.sampler.effort;
      writer.threads = session.request.sampler.threads;
      auto written = optimizer::write_model(model, session.inputs.importance_or_null(), solution.recipe, path,
                                            writer, *session.kernels, context.progress, context.cancel);
      if (!written) return stopped(written.error());
      report.output = path.string();
      report.write_seconds = written.value().seconds;
      if (!options.job.json)
        console.print(fmt::format("\nwrote {} ({}) in {}\n", escaped(report.output),
                                  format_bytes(written.value().file_bytes),
                                  format_duration(report.write_seconds)));
    }
    if (!options.job.json && several) console.print("\n");
    documents.push_back(to_json(report));
  }
  if (options.job.json) console.print(document_text(several ? documents : documents[0]));
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
  add_target_options(table, options->job);
  add_search_options(table, options->job);
  table.group("Output");
  if (write)
    table.add("--output", options->output, "FILE.gguf", "file to write")
        .alias("-o")
        .default_is("beside the model, named after the target")
        .file();
  table.add("--export-recipe", options->export_recipe, "FILE", "write the recipe, readable by --recipe")
      .file();
  table
      .add("--export-tensor-types", options->export_tensor_types, "FILE",
           "write the recipe for llama-quantize's --tensor-type-file")
      .file();
  if (write) table.flag("--force", options->force, "replace the output when it exists");
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

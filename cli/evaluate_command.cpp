// `quantfit evaluate`: how far files are from the model they were made of.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/job_options.h"
#include "cli/report/evaluation_report.h"
#include "cli/report/json.h"
#include "cli/text_options.h"
#include "core/fingerprint.h"
#include "optimizer/job/evaluation.h"

namespace quantfit::cli {
namespace {

constexpr std::string_view kLlamaCpp = "llama.cpp";

struct EvaluateOptions {
  std::string base;
  std::vector<std::string> files;
  std::string state;
  TextOptions text;
  std::optional<double> precision;
  std::string arithmetic;
  unsigned threads = 0;
  bool details = false;
  bool json = false;
};

int run_evaluate(const EvaluateOptions& options, Console& console) {
  const JobContext context = console.context();
  if (!options.text.given())
    return console.fail(fail(ErrorCode::InvalidArgument,
                             "a text is needed: --text FILE, one that the files were not calibrated with"));
  optimizer::EvaluationRequest request;
  auto text = make_text_request(options.text);
  if (!text) return console.fail(text.error());
  request.text = std::move(text).value();
  const bool exact = options.arithmetic != kLlamaCpp;
  if (!exact && !options.state.empty())
    return console.fail(fail(
        ErrorCode::InvalidArgument,
        "a state file keeps figures of exact arithmetic: leave out --state or --arithmetic {}", kLlamaCpp));
  request.options.arithmetic = exact ? engine::Arithmetic::Exact : engine::Arithmetic::LlamaCpp;
  auto run = make_run_options(options.text, options.threads);
  if (!run) return console.fail(run.error());
  request.options.run = std::move(run).value();
  request.options.precision = options.precision;
  auto base = Model::open(options.base);
  if (!base) return console.fail(base.error());
  std::optional<state::StateStore> store;
  if (!options.state.empty()) {
    const Model& model = base.value();
    auto opened = state::StateStore::open(
        options.state,
        {fingerprint(model), std::filesystem::path(options.base).filename().string(), model.total_elements()},
        &context.cancel);
    if (!opened) return console.fail(opened.error());
    store = std::move(opened).value();
  }
  const std::vector<std::filesystem::path> files(options.files.begin(), options.files.end());
  const auto evaluated =
      optimizer::evaluate_files(base.value(), files, request, {context.progress, context.cancel});
  if (!evaluated) return console.fail(evaluated.error());
  if (store)
    if (auto saved = optimizer::save_evaluations(evaluated.value(), QUANTFIT_VERSION, *store); !saved)
      return console.fail(saved.error());
  if (options.json) {
    nlohmann::ordered_json document = document_of("evaluate");
    document.update(to_json(evaluated.value()));
    console.print(document_text(document));
  } else {
    console.print(to_text(evaluated.value(), options.details || files.size() == 1));
  }
  return kDone;
}

}  // namespace

Command make_evaluate_command() {
  auto options = std::make_shared<EvaluateOptions>();
  Command command;
  command.name = "evaluate";
  command.sentence = "Measure how far files are from their original: KL divergence and perplexity on a text";
  command.notes = {
      "Chunks and positions are those of llama-perplexity, so that figures can be laid side by side.",
      "Example:",
      "  quantfit evaluate model-F16.gguf model-4.5bpw.gguf model-Q4_K_M.gguf --text held-out.txt"};
  OptionTable& table = command.table;
  table.add("base", options->base, "BASE.gguf", "the original model, in 16 bits or more").needed().file();
  table.add("files", options->files, "FILE.gguf", "files made from it; none: the perplexity of the base")
      .file();
  table.add("--state", options->state, "FILE", "state file of the base model that keeps the numbers")
      .alias("--state-file")
      .file();
  table.group("Text");
  add_text_options(table, options->text, "text to measure on; not the one of the importance matrix");
  table
      .add("--precision", options->precision, "SHARE",
           "stop when the standard error of every mean divergence is at most this share of it")
      .range(0.0001, 1)
      .default_is("the whole text");
  table
      .add("--arithmetic", options->arithmetic, "KIND",
           "exact: all products in 32 bits, which measures the weights alone; llama.cpp: activations rounded "
           "as its CPU "
           "kernels round them, to 8 bits where they meet quantized weights, which measures what people run")
      .one_of({"exact", std::string(kLlamaCpp)})
      .default_is("exact");
  table.group("Work");
  add_threads_option(table, options->threads);
  table.group("Output");
  table.flag("--details", options->details,
             "every figure of every file; with one file they are shown anyway");
  table.flag("--json", options->json, "print one JSON document instead of text");
  add_console_options(table, *command.console);
  command.run = [options](Console& console) { return run_evaluate(*options, console); };
  return command;
}

}  // namespace quantfit::cli

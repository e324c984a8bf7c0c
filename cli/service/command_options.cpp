#include "cli/service/command_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/commands.h"
#include "cli/job_options.h"
#include "cli/output_files.h"
#include "cli/suggest.h"
#include "cli/text_options.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

using Json = nlohmann::ordered_json;

// What the service decides itself, or what belongs to a terminal.
constexpr auto kOwn = std::to_array<std::string_view>({"quiet", "verbose", "progress", "log-file", "json",
                                                       "force", "dry-run", "tensors", "details", "scratch",
                                                       "shard", "csv", "svg", "cache", "cache-size"});
// Files that a command makes: names in the folder of the job.
constexpr auto kOutputs = std::to_array<std::string_view>(
    {"output", "export-recipe", "export-tensor-types", "report", "save-imatrix"});

constexpr std::string_view kOutput = "output";

bool is_output(std::string_view key) {
  return std::ranges::find(kOutputs, key) != kOutputs.end();
}

// The whole folder of the job is what `publish` fills.
bool fills_its_folder(std::string_view command) {
  return command == "publish";
}

// Every command that the service knows.
struct KnownCommand {
  std::string_view name;
  cli::Command (*make)();
  std::string_view model;      // the option that names the model the command is about
  bool has_state = true;       // it needs a state file, and has one where none is named
  bool has_objective = false;  // it takes the options of a JobRequest
  bool has_text = false;       // it takes those of a text that goes through the model
};
constexpr auto kCommands = std::to_array<KnownCommand>({
    {.name = "quantize", .make = cli::make_quantize_command, .model = "model", .has_objective = true},
    {.name = "plan", .make = cli::make_plan_command, .model = "model", .has_objective = true},
    {.name = "measure", .make = cli::make_measure_command, .model = "model", .has_objective = true},
    {.name = "frontier", .make = cli::make_frontier_command, .model = "model", .has_objective = true},
    {.name = "publish", .make = cli::make_publish_command, .model = "model", .has_objective = true},
    {.name = "calibrate", .make = cli::make_calibrate_command, .model = "model", .has_text = true},
    {.name = "tune",
     .make = cli::make_tune_command,
     .model = "original",
     .has_state = false,
     .has_text = true},
    {.name = "evaluate",
     .make = cli::make_evaluate_command,
     .model = "base",
     .has_state = false,
     .has_text = true},
});

const KnownCommand& known(std::string_view name) {
  return *std::ranges::find(kCommands, name, &KnownCommand::name);
}

bool may_be_given(const KnownCommand& command, const cli::Option& option, OptionUse use) {
  const std::string_view key = option.key();
  if (option.hidden || std::ranges::find(kOwn, key) != kOwn.end()) return false;
  if (fills_its_folder(command.name) && key == kOutput) return false;
  if (command.name == "frontier" && key == "steps") return false;
  return use == OptionUse::Job || (!is_output(key) && key != "evaluate");
}

Problem invalid(std::string sentence, std::string hint = {}) {
  return problem(ProblemKind::InvalidArgument, std::move(sentence), std::move(hint));
}

// The option that a key means. Keys are long names; '_' counts as '-'.
Answer<const cli::Option*> option_of(const KnownCommand& command, const cli::OptionTable& table,
                                     const std::string& key, OptionUse use) {
  std::string wanted = key;
  std::ranges::replace(wanted, '_', '-');
  std::vector<std::string_view> others;
  for (const cli::Option& option : table.options()) {
    if (!may_be_given(command, option, use)) continue;
    if (option.key() == wanted) return &option;
    others.push_back(option.key());
  }
  return invalid(fmt::format("there is no option '{}' here{}", cut_utf8(escaped(key), 100),
                             cli::suggestion(wanted, others)));
}

// Puts the checked name of every file in its place.
Answer<void> check_files(const Roots& roots, const KnownCommand& command, const cli::Option& option,
                         const Json& value, CommandOptions& out) {
  const std::string key(option.key());
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& item : list) {
    if (!item.is_string()) return invalid(fmt::format("{}: the name of a file is expected", option.name));
    const std::string& text = item.get_ref<const std::string&>();
    if (is_output(key)) {
      if (!is_plain_name(text))
        return invalid(fmt::format("{}: {} is no plain name of a file", option.name, printable(text)),
                       "what a job makes is in a folder of its own");
      const auto same = std::ranges::find(out.outputs, text, &std::pair<std::string, std::string>::second);
      if (same != out.outputs.end())
        return invalid(fmt::format("{} is the name of two outputs", printable(text)));
      out.outputs.emplace_back(option.name, text);
      continue;
    }
    if (key == "imatrix" && text == cli::kNoImportance) continue;
    auto name = roots.parse(text);
    if (!name) return name.error();
    if (key == "state") {
      out.state = std::move(name).value();
      continue;
    }
    if (auto opened = roots.open_file(name.value()); !opened) return opened.error();
    if (key == "quantized") out.quantized = name.value();
    if (key == command.model) out.model = std::move(name).value();
  }
  return outcome::success();
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

std::vector<std::string_view> job_commands() {
  return {"quantize", "plan", "measure", "calibrate", "evaluate", "tune", "publish"};
}

Json options_schema(std::string_view command, OptionUse use) {
  const KnownCommand& own = known(command);
  const cli::Command found = own.make();
  Json schema = found.table.json_schema();
  for (const cli::Option& option : found.table.options()) {
    if (may_be_given(own, option, use)) continue;
    schema["properties"].erase(std::string(option.key()));
    if (!schema.contains("required")) continue;
    Json& needed = schema["required"];
    const auto place = std::ranges::find(needed, option.key());
    if (place != needed.end()) needed.erase(place);
  }
  return schema;
}

Answer<FileName> default_state(const Roots& roots, const FileName& model) {
  const std::string stem = cli::model_stem(model.path);
  if (model.root->writable) {
    const std::size_t slash = model.path.rfind('/');
    const std::string folder = slash == std::string::npos ? "" : model.path.substr(0, slash + 1);
    return roots.parse(fmt::format("{}/{}{}.qfstate", model.root->name, folder, stem));
  }
  const Root* const root = roots.writable();
  if (root == nullptr)
    return problem(ProblemKind::Forbidden, "a state file is needed, and no root may be written to",
                   "name one that exists by the option state");
  std::string flat = model.path.substr(0, model.path.size() - model.last().size()) + stem;
  std::ranges::replace(flat, '/', '-');
  return roots.parse(fmt::format("{}/states/{}-{}.qfstate", root->name, model.root->name, flat));
}

Answer<CommandOptions> read_options(const Roots& roots, std::string_view command,
                                    const nlohmann::json& options, OptionUse use) {
  if (!options.is_object()) return invalid("the options are no JSON object");
  const KnownCommand& own = known(command);
  const cli::Command found = own.make();
  CommandOptions out;
  out.command = command;
  nlohmann::json all = nlohmann::json::object();
  for (const auto& [key, value] : options.items()) {
    QF_ASSIGN(const cli::Option* const option, option_of(own, found.table, key, use));
    const std::string name(option->key());
    if (all.contains(name)) return invalid(fmt::format("{} is given twice", option->name));
    if (option->completion != cli::Completion::None) QF_TRY(check_files(roots, own, *option, value, out));
    all[name] = value;
    if (!is_output(name)) out.options[name] = value;
  }
  if (fills_its_folder(command)) {
    all[kOutput] = ".";
    out.outputs.emplace_back("--output", "");
  }
  QF_ANSWER_TRY(found.table.read_json(all));
  if (own.has_state && out.state.root == nullptr) {
    QF_ASSIGN(out.state, default_state(roots, out.model));
    out.options["state"] = out.state.text;
  }
  // What the command would refuse before it opens the model.
  cli::JobOptions& job = out.job;
  cli::OptionTable table;
  if (own.has_objective) {
    cli::add_input_options(table, job);
    cli::add_calibration_options(table, job);
    cli::add_objective_options(table, job);
    cli::add_candidates_option(table, job);
    cli::add_target_options(table, job);
    cli::add_search_options(table, job);
    table.add("--split-max-size", job.split_max_size, "", "");
    table.add("--split-max-tensors", job.split_max_tensors, "", "");
  } else {
    cli::add_text_options(table, job.text, "");
    table.add("--threads", job.threads, "", "");
  }
  if (own.has_state) all["state"] = out.state.text;
  nlohmann::json part = nlohmann::json::object();  // the rest has been read above
  for (const cli::Option& option : table.options())
    if (const auto given = all.find(std::string(option.key())); given != all.end())
      part[given.key()] = given.value();
  QF_ANSWER_TRY(table.read_json(part));
  if (own.has_objective) QF_ANSWER_TRY(cli::make_request(job));
  if (own.has_text) QF_ANSWER_TRY(cli::make_text_request(job.text));
  if (command == "quantize" || command == "plan") QF_ANSWER_TRY(cli::check_targets(job));
  if (command == "evaluate" && !job.text.given())
    return invalid("a text is needed: --text FILE, one that the files were not calibrated with");
  return out;
}

std::vector<std::string> words_of(const CommandOptions& options) {
  const cli::Command command = known(options.command).make();
  std::vector<std::string> words = {options.command};
  for (const cli::Option& option : command.table.options()) {
    const auto value = options.options.find(std::string(option.key()));
    if (value == options.options.end()) continue;
    if (option.is_flag()) {
      if (value->get<bool>()) words.push_back(option.name);
      continue;
    }
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& item : list) {
      if (!option.positional) words.push_back(option.name);
      words.push_back(text_of(item));
    }
  }
  return words;
}

}  // namespace quantfit::service

// A request's options as a command of the program: the same options, spelled the same, with files named
// beneath the roots.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/job_options.h"
#include "cli/service/roots.h"

namespace quantfit::service {

enum class OptionUse {
  Job,     // a job runs the command
  Answer,  // answered at once: nothing is written
};

// The commands that a job may run.
[[nodiscard]] std::vector<std::string_view> job_commands();

// JSON Schema of the options of a command that may be given here.
[[nodiscard]] nlohmann::ordered_json options_schema(std::string_view command, OptionUse use);

// Options that were checked one by one, with every file beneath a root.
struct CommandOptions {
  std::string command;
  nlohmann::ordered_json options;  // by the full spelling of each key; files that are made left out
  cli::JobOptions job;             // the same, as the commands read them
  FileName model;                  // the original; `tune` and `evaluate` call it otherwise
  FileName quantized;              // of `tune`
  FileName state;                  // the given one, or the model's own; none of commands that need none
  // Option with dashes, and the name of a file in the folder of the job; empty: the folder itself.
  std::vector<std::pair<std::string, std::string>> outputs;
};

// What the command line says about options without meaning, as InvalidArgument; NotFound for files that are
// not there. The state file need not exist.
[[nodiscard]] Answer<CommandOptions> read_options(const Roots& roots, std::string_view command,
                                                  const nlohmann::json& options, OptionUse use);

// The words behind "quantfit" that give these options, without outputs.
[[nodiscard]] std::vector<std::string> words_of(const CommandOptions& options);

// The state file of a model where none is named: beside it, or in the folder states of the first root that
// may be written to.
[[nodiscard]] Answer<FileName> default_state(const Roots& roots, const FileName& model);

}  // namespace quantfit::service

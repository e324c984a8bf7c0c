// Every subcommand: its options and what it does. One source file per command.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/console.h"
#include "cli/option_table.h"

namespace quantfit::cli {

// A command with options of its own, or one that only leads to others.
struct Command {
  std::string name;
  std::string sentence;
  std::vector<std::string>
      notes;  // paragraphs below the options; those that start with a blank are shown as they are
  OptionTable table;
  std::shared_ptr<ConsoleOptions> console = std::make_shared<ConsoleOptions>();
  std::function<int(Console&)> run;  // returns the exit status; empty where `commands` are to choose from
  std::vector<Command> commands = {};
};

// In the order in which help lists them.
[[nodiscard]] std::vector<Command> all_commands();

[[nodiscard]] Command make_quantize_command();
[[nodiscard]] Command make_plan_command();
[[nodiscard]] Command make_frontier_command();
[[nodiscard]] Command make_measure_command();
[[nodiscard]] Command make_calibrate_command();
[[nodiscard]] Command make_tune_command();
[[nodiscard]] Command make_evaluate_command();
[[nodiscard]] Command make_inspect_command();
[[nodiscard]] Command make_diff_command();
[[nodiscard]] Command make_state_command();
[[nodiscard]] Command make_publish_command();
[[nodiscard]] Command make_report_command();
[[nodiscard]] Command make_serve_command();
[[nodiscard]] Command make_completion_command();
[[nodiscard]] Command make_manual_command();

}  // namespace quantfit::cli

#include "cli/commands.h"

namespace quantfit::cli {

std::vector<Command> all_commands() {
  std::vector<Command> commands;
  commands.push_back(make_quantize_command());
  commands.push_back(make_plan_command());
  commands.push_back(make_frontier_command());
  commands.push_back(make_measure_command());
  commands.push_back(make_calibrate_command());
  commands.push_back(make_tune_command());
  commands.push_back(make_evaluate_command());
  commands.push_back(make_publish_command());
  commands.push_back(make_inspect_command());
  commands.push_back(make_diff_command());
  commands.push_back(make_state_command());
  commands.push_back(make_report_command());
  commands.push_back(make_serve_command());
  commands.push_back(make_completion_command());
  commands.push_back(make_manual_command());
  return commands;
}

}  // namespace quantfit::cli

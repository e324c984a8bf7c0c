#include "cli/commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "cli/console.h"
#include "cli/exit_code.h"

namespace quantfit::cli {

void register_commands(CLI::App& app, int& status) {
  add_quantize_command(app, status);
  add_plan_command(app, status);
  add_frontier_command(app, status);
  add_inspect_command(app, status);
  add_diff_command(app, status);
}

int report(const Error& error) {
  const bool color = ConsoleStyle::detect().color;
  fmt::print(stderr, "{}error:{} {}\n", color ? "\x1b[31m" : "", color ? "\x1b[0m" : "", error.message);
  return exit_code_of(error.code);
}

}  // namespace quantfit::cli

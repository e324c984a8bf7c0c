// Every subcommand: its options and what it does. One source file per command.
#pragma once

#include "core/error.h"

namespace CLI {
class App;
}

namespace quantfit::cli {

// Adds all subcommands to `app`. The one that is parsed runs and leaves its exit status in `status`.
void register_commands(CLI::App& app, int& status);

void add_quantize_command(CLI::App& app, int& status);
void add_plan_command(CLI::App& app, int& status);
void add_inspect_command(CLI::App& app, int& status);
void add_frontier_command(CLI::App& app, int& status);
void add_diff_command(CLI::App& app, int& status);

// Prints an error to standard error ("error: ...") and returns its exit status.
int report(const Error& error);

}  // namespace quantfit::cli

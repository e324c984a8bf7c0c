// The command line: parses, calls, reports.
#pragma once

namespace quantfit::cli {

// Runs one command and returns the exit status (cli/exit_code.h).
[[nodiscard]] int run(int argc, char** argv);

}  // namespace quantfit::cli

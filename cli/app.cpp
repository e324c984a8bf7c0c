#include "cli/app.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/exit_code.h"

namespace quantfit::cli {
namespace {

constexpr const char* kDescription =
    "quantfit fits a language model into an exact number of bits.\n"
    "\n"
    "It measures what every GGUF format costs every tensor, chooses the best mix for your\n"
    "size, proves how near to optimal that is, and writes a file that llama.cpp loads:\n"
    "\n"
    "  quantfit quantize model-F16.gguf --imatrix imatrix.gguf --target-bpw 4.5 \\\n"
    "           --state model.qfstate -o model-4.5bpw.gguf\n";

constexpr const char* kFooter =
    "\nExit status: 0 done, 1 failed, 2 bad usage, 3 target infeasible (the reachable range is\n"
    "printed), 130 interrupted (run the same command again to continue).\n"
    "Results go to standard output, progress and warnings to standard error.\n"
    "'quantfit COMMAND --help' explains each command.";

}  // namespace

int run(int argc, char** argv) {
  CLI::App app{kDescription, "quantfit"};
  app.set_version_flag("--version", "quantfit " QUANTFIT_VERSION);
  app.footer(kFooter);
  app.require_subcommand(1);
  app.fallthrough(false);

  int status = kDone;
  register_commands(app, status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version are "errors" with exit code 0 to the parser.
    return app.exit(error) == 0 ? kDone : kBadUsage;
  } catch (const std::exception& error) {  // out of memory and the like, from libraries that throw
    fmt::print(stderr, "error: {}\n", error.what());
    return kFailed;
  }
  return status;
}

}  // namespace quantfit::cli

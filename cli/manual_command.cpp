// `quantfit completion` and `quantfit manual`: what is installed beside the program, written by itself.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/manual.h"
#include "cli/suggest.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

struct ManualOptions {
  std::string shell;
  std::vector<std::string> command;
  bool markdown = false;
  bool names = false;
};

int print_completion(const ManualOptions& options, Console& console) {
  const std::vector<Command> commands = all_commands();
  if (options.shell == "bash") console.print(bash_completion(commands));
  if (options.shell == "zsh") console.print(zsh_completion(commands));
  if (options.shell == "fish") console.print(fish_completion(commands));
  return kDone;
}

int print_manual(const ManualOptions& options, Console& console) {
  const std::vector<Command> commands = all_commands();
  const std::vector<std::string> paths = manual_paths(commands);
  if (options.markdown) {
    console.print(markdown_reference(commands));
    return kDone;
  }
  if (options.names) {
    for (const std::string& path : paths) console.print(page_name(path) + '\n');
    return kDone;
  }
  const std::string path = fmt::format("{}", fmt::join(options.command, " "));
  if (std::ranges::find(paths, path) == paths.end())
    return console.fail(fail(ErrorCode::InvalidArgument, "there is no command {}", printable(path)));
  console.print(man_page(commands, path));
  return kDone;
}

}  // namespace

Command make_completion_command() {
  auto options = std::make_shared<ManualOptions>();
  Command command;
  command.name = "completion";
  command.sentence = "Print a script that makes a shell complete quantfit's commands and options";
  command.table.add("shell", options->shell, "SHELL", "bash, zsh or fish")
      .needed()
      .one_of({"bash", "zsh", "fish"});
  command.notes = {"Installed packages bring these scripts along. By hand, for bash:",
                   "  source <(quantfit completion bash)"};
  command.run = [options](Console& console) { return print_completion(*options, console); };
  return command;
}

Command make_manual_command() {
  auto options = std::make_shared<ManualOptions>();
  Command command;
  command.name = "manual";
  command.sentence = "Print a page for man(1), or the whole reference in Markdown";
  command.table.add("command", options->command, "COMMAND", "page of this command (default: of the program)");
  command.table.flag("--markdown", options->markdown, "all commands as one document in Markdown");
  command.table.flag("--names", options->names, "the names of all pages").not_with("--markdown");
  command.notes = {"To read a page:", "  quantfit manual quantize | man -l -"};
  command.run = [options](Console& console) { return print_manual(*options, console); };
  return command;
}

}  // namespace quantfit::cli

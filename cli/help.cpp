#include "cli/help.h"

#include <fmt/format.h>

#include "cli/wrap.h"

namespace quantfit::cli {
namespace {

constexpr std::string_view kPurpose[] = {
    "quantfit fits a language model into an exact number of bits.",
    "",
    ("It measures what every GGUF format costs every tensor, chooses the best mix for your size, proves how "
     "near "
     "to optimal that is, and writes a file that llama.cpp loads:"),
    "",
    "  quantfit quantize model-F16.gguf --imatrix imatrix.gguf --target-bpw 4.5 \\",
    "           --state model.qfstate -o model-4.5bpw.gguf",
};
constexpr std::string_view kStatus[] = {
    "'quantfit COMMAND --help' explains each command.",
    "",
    "Results go to standard output, progress and warnings to standard error.",
    "",
    ("Exit status: 0 done, 1 failed, 2 bad usage, 3 target infeasible (the reachable range is printed), 130 "
     "interrupted, 143 ended by SIGTERM (run the same command again to continue)."),
};

// Paragraphs; those that start with a blank are shown as they are.
template <class Lines>
std::string paragraphs(const Lines& lines, std::size_t width) {
  std::string text;
  for (const std::string_view line : lines)
    text += line.empty() || line.front() == ' ' ? std::string(line) + '\n' : wrapped(line, 0, width);
  return text;
}

std::string command_list(std::span<const Command> commands, std::size_t width) {
  std::string text = "\nCommands:\n";
  for (const Command& command : commands) text += hanging("  " + command.name, command.sentence, 14, width);
  return text;
}

}  // namespace

std::span<const std::string_view> purpose() {
  return kPurpose;
}
std::span<const std::string_view> exit_statuses() {
  return kStatus;
}

std::string usage(const Command& command, const std::string& path) {
  std::string text = "quantfit " + path;
  if (!command.commands.empty()) return text + " COMMAND [options]";
  for (const Option& option : command.table.options())
    if (option.positional && !option.hidden)
      text += ' ' + (option.required ? option.placeholder : '[' + option.placeholder + ']') +
              (option.repeatable ? " ..." : "");
  return text + " [options]";
}

std::string program_help(std::span<const Command> commands, std::size_t width) {
  return paragraphs(kPurpose, width) + "\nUsage: quantfit COMMAND [options]\n" +
         command_list(commands, width) + "\nOptions:\n" + hanging("  -h, --help", "this text", 26, width) +
         hanging("  -V, --version", "the program's version", 26, width) + '\n' + paragraphs(kStatus, width);
}

std::string command_help(const Command& command, const std::string& path, std::size_t width) {
  std::string text = wrapped(command.sentence, 0, width) + "\nUsage: " + usage(command, path) + '\n';
  if (!command.commands.empty()) text += command_list(command.commands, width);
  text += command.table.help_text(width);
  if (!command.notes.empty()) text += '\n' + paragraphs(command.notes, width);
  return text;
}

}  // namespace quantfit::cli

#include "cli/app.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/exit_code.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/run_command.h"
#include "cli/streams.h"
#include "cli/suggest.h"
#include "core/text.h"
#include "optimizer/llama_cpp/static_recipes.h"

namespace quantfit::cli {
namespace {

constexpr std::size_t kWidestHelp = 100;
constexpr std::size_t kNarrowestHelp = 40;

int print_text(const std::string& text) {
  if (auto printed = print(text); !printed) {
    say_error(printed.error().message);
    return kFailed;
  }
  return kDone;
}

std::size_t help_width() {
  return std::clamp(columns_of_terminal(STDOUT_FILENO, kWidestHelp), kNarrowestHelp, kWidestHelp);
}

bool asks_for_help(std::string_view word) {
  return word == "--help" || word == "-h" || word == "help";
}

// What of the console's options matters to words that could not be read.
ConsoleOptions console_of(const std::vector<std::string>& words) {
  ConsoleOptions options;
  for (std::size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    if (words[i] == "--json") options.json = true;
    if (words[i] == "--progress=json" ||
        (words[i] == "--progress" && i + 1 < words.size() && words[i + 1] == "json"))
      options.progress = "json";
  }
  return options;
}

int bad_usage(const std::string& message, const std::string& path, const ConsoleOptions& options) {
  Console console(options);
  const int status = console.fail(fail(ErrorCode::InvalidArgument, "{}", message));
  console.tell(fmt::format("'quantfit{}{} --help' explains", path.empty() ? "" : " ", path));
  return console.finish(status);
}

// The commands that a word could have meant.
std::string unknown_command(const std::string& word, const std::vector<Command>& commands) {
  std::vector<std::string_view> names;
  names.reserve(commands.size());
  for (const Command& command : commands) names.push_back(command.name);
  return fmt::format("there is no command {}{}; there are {}", printable(word), suggestion(word, names),
                     fmt::join(names, ", "));
}

int run_command(const Command& command) {
  const ConsoleOptions& options = *command.console;
  Console console(options);
  const InterruptHandler interrupt(console.token(), options.progress == "json");
  if (!options.log_file.empty())
    if (auto opened = console.display().open_log(options.log_file); !opened)
      return console.finish(console.fail(opened.error()));
  console.logger().log(LogLevel::Debug, fmt::format("quantfit {}: {}", QUANTFIT_VERSION, options.command));
  return console.finish(command.run(console));
}

// Runs what `words` name among `commands`; `path` led there.
int dispatch(const std::vector<Command>& commands, std::vector<std::string> words, const std::string& path) {
  const auto command = std::ranges::find(commands, words.front(), &Command::name);
  const ConsoleOptions seen = console_of(words);
  if (command == commands.end()) return bad_usage(unknown_command(words.front(), commands), path, seen);
  const std::string here = path.empty() ? command->name : path + ' ' + command->name;
  words.erase(words.begin());
  if (!command->commands.empty()) {
    if (words.empty()) {
      say(command_help(*command, here, help_width()));
      return kBadUsage;
    }
    if (asks_for_help(words.front())) return print_text(command_help(*command, here, help_width()));
    return dispatch(command->commands, std::move(words), here);
  }
  for (const std::string& word : words) {
    if (word == "--") break;
    if (word == "--help" || word == "-h") return print_text(command_help(*command, here, help_width()));
  }
  if (auto read = command->table.read_arguments(words); !read)
    return bad_usage(read.error().message, here, seen);
  command->console->json = seen.json;
  command->console->command = "quantfit " + here + ' ' + shell_text(words);
  return run_command(*command);
}

// llama-quantize's form has no command: [options] in.gguf [out.gguf] TYPE [threads].
bool is_llama_quantize(const std::vector<std::string>& words) {
  const bool model =
      std::ranges::any_of(words, [](const std::string& word) { return word.ends_with(".gguf"); });
  return model && std::ranges::any_of(words, [](const std::string& word) {
           return optimizer::parse_file_type(word).has_value();
         });
}

int run_words(std::vector<std::string> words) {
  const std::vector<Command> commands = all_commands();
  if (words.empty()) {
    say(program_help(commands, help_width()));
    return kBadUsage;
  }
  if (words.front() == "--version" || words.front() == "-V" || words.front() == "version")
    return print_text("quantfit " QUANTFIT_VERSION "\n");
  if (asks_for_help(words.front())) {
    words.erase(words.begin());
    if (words.empty()) return print_text(program_help(commands, help_width()));
    words.push_back("--help");
  }
  const bool command = std::ranges::find(commands, words.front(), &Command::name) != commands.end();
  if (!command && is_llama_quantize(words)) words.insert(words.begin(), "quantize");
  if (words.front().starts_with('-'))
    return bad_usage(fmt::format("a command is needed before {}", printable(words.front())), "",
                     console_of(words));
  return dispatch(commands, std::move(words), "");
}

}  // namespace

int run(int argc, char** argv) {
  secure_standard_streams();
  try {
    return run_words({argv + std::min(argc, 1), argv + argc});
  } catch (const std::bad_alloc&) {
    say_error("out of memory");
  } catch (const std::exception& error) {  // from libraries that throw
    say_error(error.what());
  }
  return kFailed;
}

}  // namespace quantfit::cli

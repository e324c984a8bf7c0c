#include "cli/manual.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/help.h"

namespace quantfit::cli {
namespace {

// One command and the words that lead to it.
struct Leaf {
  std::string path;
  const Command* command;
};

void collect(std::span<const Command> commands, const std::string& path, std::vector<Leaf>& leaves) {
  for (const Command& command : commands) {
    const std::string here = path.empty() ? command.name : path + ' ' + command.name;
    leaves.push_back({here, &command});
    collect(command.commands, here, leaves);
  }
}

std::vector<Leaf> leaves_of(std::span<const Command> commands) {
  std::vector<Leaf> leaves;
  collect(commands, "", leaves);
  return leaves;
}

std::string replaced(std::string_view text, char what, std::string_view by) {
  std::string result;
  for (const char letter : text)
    if (letter == what)
      result += by;
    else
      result += letter;
  return result;
}

// The sentence of an option with its values and default, as help shows it.
std::string explained(const Option& option) {
  std::string text = option.sentence;
  if (!option.choices.empty() && text.find(option.choices.back()) == std::string::npos)
    text += fmt::format(": {}", fmt::join(option.choices, ", "));
  if (!option.default_text.empty() && !option.is_flag())
    text += fmt::format(" (default: {})", option.default_text);
  return text;
}

std::vector<std::string> spellings(const Option& option) {
  std::vector<std::string> all = {option.name};
  all.insert(all.end(), option.aliases.begin(), option.aliases.end());
  return all;
}

// ---- roff

std::string roff(std::string_view text) {
  std::string result;
  for (const char letter : text)
    if (letter == '\\')
      result += "\\e";
    else if (letter == '-')
      result += "\\-";
    else
      result += letter;
  // A line that begins with a dot or a quote would be a request.
  if (result.starts_with('.') || result.starts_with('\'')) result.insert(0, "\\&");
  return result;
}

void add_notes(std::string& page, const std::vector<std::string>& notes) {
  for (const std::string& note : notes) {
    if (note.empty())
      page += ".PP\n";
    else if (note.front() == ' ')
      page += fmt::format(".br\n.B {}\n.br\n", roff(note.substr(note.find_first_not_of(' '))));
    else
      page += fmt::format(".PP\n{}\n", roff(note));
  }
}

void add_options(std::string& page, const OptionTable& table) {
  const auto entry = [&](const Option& option) {
    std::string head;
    for (const std::string& spelling :
         option.positional ? std::vector{option.placeholder} : spellings(option))
      head += fmt::format("{}\\fB{}\\fR", head.empty() ? "" : ", ", roff(spelling));
    if (!option.is_flag() && !option.positional) head += fmt::format(" \\fI{}\\fR", roff(option.placeholder));
    page += fmt::format(".TP\n{}\n{}\n", head, roff(explained(option)));
  };
  for (const OptionTable::Group& group : table.groups()) {
    bool any = false;
    for (const Option& option : table.options()) {
      if (option.hidden || option.group != group.title) continue;
      if (!any) {
        page += fmt::format(".SH {}\n", roff(group.title.empty() ? "OPTIONS" : group.title));
        if (!group.sentence.empty()) page += roff(group.sentence) + ".\n";
      }
      any = true;
      entry(option);
    }
  }
}

// ---- shells

// Inside single quotes of a POSIX shell or zsh.
std::string shell_quoted(std::string_view text) {
  return '\'' + replaced(text, '\'', "'\\''") + '\'';
}

// Inside single quotes of fish, where a backslash escapes quotes and itself.
std::string fish_quoted(std::string_view text) {
  return '\'' + replaced(replaced(text, '\\', "\\\\"), '\'', "\\'") + '\'';
}

// What stands between the brackets of a specification for zsh's _arguments.
std::string zsh_sentence(std::string_view text) {
  std::string result;
  for (const char letter : text) {
    if (letter == '[' || letter == ']' || letter == ':' || letter == '\\') result += '\\';
    result += letter;
  }
  return result;
}

std::vector<std::string> values_of(const Option& option) {
  return option.choices.empty() ? option.offers : option.choices;
}

std::string zsh_action(const Option& option) {
  if (option.completion == Completion::File) return "_files";
  if (option.completion == Completion::Folder) return "_files -/";
  const std::vector<std::string> values = values_of(option);
  return values.empty() ? " " : fmt::format("({})", fmt::join(values, " "));
}

std::vector<const Option*> shown_options(const OptionTable& table) {
  std::vector<const Option*> options;
  for (const Option& option : table.options())
    if (!option.hidden && !option.positional) options.push_back(&option);
  return options;
}

std::string names_of(std::span<const Command> commands) {
  std::string names;
  for (const Command& command : commands) names += (names.empty() ? "" : " ") + command.name;
  return names;
}

}  // namespace

std::vector<std::string> manual_paths(std::span<const Command> commands) {
  std::vector<std::string> paths = {""};
  for (const Leaf& leaf : leaves_of(commands)) paths.push_back(leaf.path);
  return paths;
}

std::string page_name(const std::string& path) {
  return path.empty() ? "quantfit" : "quantfit-" + replaced(path, ' ', "-");
}

std::string man_page(std::span<const Command> commands, const std::string& path) {
  const std::vector<Leaf> leaves = leaves_of(commands);
  const auto leaf = std::ranges::find(leaves, path, &Leaf::path);
  std::string title = page_name(path);
  std::ranges::transform(title, title.begin(), [](char letter) {
    return letter >= 'a' && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter;
  });
  std::string page = fmt::format(".TH {} 1 \"\" \"quantfit {}\" \"quantfit\"\n.SH NAME\n{} \\- ", roff(title),
                                 QUANTFIT_VERSION, roff(page_name(path)));
  if (leaf == leaves.end()) {
    page +=
        "fit a language model into an exact number of bits\n.SH SYNOPSIS\n.B quantfit\n"
        ".I COMMAND\n[options]\n.SH DESCRIPTION\n";
    for (const std::string_view paragraph : purpose())
      page += paragraph.empty() ? ".PP\n" : fmt::format("{}\n.br\n", roff(paragraph));
    page += ".SH COMMANDS\n";
    for (const Command& command : commands)
      page += fmt::format(".TP\n.B {}\n{}\n", roff(command.name), roff(command.sentence));
    page += ".SH EXIT STATUS\n";
    for (const std::string_view paragraph : exit_statuses())
      page += paragraph.empty() ? ".PP\n" : fmt::format("{}\n", roff(paragraph));
    page += ".SH SEE ALSO\n";
    for (const Leaf& other : leaves)
      page += fmt::format(".BR {} (1){}\n", roff(page_name(other.path)), &other == &leaves.back() ? "" : ",");
    return page;
  }
  const Command& command = *leaf->command;
  page += roff(command.sentence) + "\n.SH SYNOPSIS\n.B " + roff(usage(command, path)) + '\n';
  if (!command.commands.empty()) {
    page += ".SH COMMANDS\n";
    for (const Command& part : command.commands)
      page += fmt::format(".TP\n.B {}\n{}\n", roff(part.name), roff(part.sentence));
  }
  add_options(page, command.table);
  if (!command.notes.empty()) {
    page += ".SH NOTES\n";
    add_notes(page, command.notes);
  }
  return page + ".SH SEE ALSO\n.BR quantfit (1)\n";
}

std::string markdown_reference(std::span<const Command> commands) {
  const auto cell = [](std::string_view text) { return replaced(replaced(text, '|', "\\|"), '<', "&lt;"); };
  std::string text =
      "# Reference\n\nWritten by `quantfit manual --markdown` from the program's own tables; a test keeps it "
      "so.\n";
  for (const Leaf& leaf : leaves_of(commands)) {
    const Command& command = *leaf.command;
    text += fmt::format("\n## {}\n\n{}.\n\n    {}\n", leaf.path, cell(command.sentence),
                        usage(command, leaf.path));
    for (const OptionTable::Group& group : command.table.groups()) {
      bool any = false;
      for (const Option& option : command.table.options()) {
        if (option.hidden || option.group != group.title) continue;
        if (!any) {
          if (!group.title.empty())
            text += fmt::format("\n### {}{}{}\n", group.title, group.sentence.empty() ? "" : ": ",
                                cell(group.sentence));
          text += "\n| option | what it does |\n|---|---|\n";
        }
        any = true;
        std::string head;
        for (const std::string& spelling :
             option.positional ? std::vector{option.placeholder} : spellings(option))
          head += fmt::format("{}`{}`", head.empty() ? "" : ", ", cell(spelling));
        if (!option.is_flag() && !option.positional) head += fmt::format(" `{}`", cell(option.placeholder));
        text += fmt::format("| {} | {} |\n", head, cell(explained(option)));
      }
    }
    bool example = false;
    if (!command.notes.empty()) text += '\n';
    for (const std::string& note : command.notes) {
      if (note.empty()) continue;
      const bool literal = note.front() == ' ';
      if (literal && !example) text += '\n';
      text += (literal ? "    " : example ? "\n" : "") + note + '\n';
      example = literal;
    }
  }
  return text;
}

std::string bash_completion(std::span<const Command> commands) {
  std::string enter, value, offer;
  enter += fmt::format("      {}) path=$word ;;\n", [&] {
    std::string patterns;
    for (const Command& command : commands)
      patterns += fmt::format("{}' {}'", patterns.empty() ? "" : " | ", command.name);
    return patterns;
  }());
  offer += fmt::format("    '') words='{} --help --version' ;;\n", names_of(commands));
  for (const Leaf& leaf : leaves_of(commands)) {
    const Command& command = *leaf.command;
    if (!command.commands.empty()) {
      for (const Command& part : command.commands)
        enter += fmt::format("      '{0} {1}') path='{0} {1}' ;;\n", leaf.path, part.name);
      offer += fmt::format("    '{}') words='{} --help' ;;\n", leaf.path, names_of(command.commands));
      continue;
    }
    std::string words = "--help";
    for (const Option* option : shown_options(command.table)) {
      std::string patterns;
      for (const std::string& spelling : spellings(*option)) {
        words += ' ' + spelling;
        patterns += fmt::format("{}'{} {}'", patterns.empty() ? "" : " | ", leaf.path, spelling);
      }
      if (option->is_flag()) continue;
      const std::vector<std::string> values = values_of(*option);
      std::string action = "return";
      if (option->completion == Completion::File) action = "_quantfit_files -f; return";
      if (option->completion == Completion::Folder) action = "_quantfit_files -d; return";
      if (!values.empty())
        action = fmt::format("_quantfit_words {}; return",
                             shell_quoted(fmt::format("{}", fmt::join(values, " "))));
      value += fmt::format("    {}) {} ;;\n", patterns, action);
    }
    offer += fmt::format("    '{}') words='{}' files=-f ;;\n", leaf.path, words);
  }
  return "# bash completion for quantfit; written by 'quantfit completion bash'\n"
         "_quantfit_files() {\n  compopt -o filenames 2>/dev/null\n  mapfile -t COMPREPLY < <(compgen \"$1\" "
         "-- "
         "\"$cur\")\n}\n"
         "_quantfit_words() { mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$cur\"); }\n"
         "_quantfit() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= word words= files= i\n"
         "  COMPREPLY=()\n"
         "  # bash splits --option=value at the sign.\n"
         "  if [[ $cur == = ]]; then cur=\n"
         "  elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
         "  for ((i = 1; i < COMP_CWORD; ++i)); do\n    word=${COMP_WORDS[i]}\n"
         "    case \"$path $word\" in\n" +
         enter + "    esac\n  done\n  case \"$path $prev\" in\n" + value + "  esac\n  case \"$path\" in\n" +
         offer +
         "  esac\n  if [[ $cur == -* || -z $files ]]; then _quantfit_words \"$words\"; else _quantfit_files "
         "\"$files\"; fi\n}\ncomplete -F _quantfit quantfit\n";
}

std::string zsh_completion(std::span<const Command> commands) {
  std::string text =
      "#compdef quantfit\n# zsh completion for quantfit; written by 'quantfit completion zsh'\n";
  const auto name_of_function = [](const std::string& path) {
    return "_" + replaced(page_name(path), '-', "_");
  };
  const auto chooser = [&](const std::string& path, std::span<const Command> parts) {
    std::string body = fmt::format(
        "{}() {{\n  local -a parts\n  local line state\n  _arguments -C '1:command:->command' "
        "'*::argument:->argument'\n  case $state in\n    command)\n      parts=(\n",
        name_of_function(path));
    for (const Command& part : parts)
      body +=
          fmt::format("        {}\n", shell_quoted(part.name + ':' + replaced(part.sentence, ':', "\\:")));
    body += "      )\n      _describe command parts ;;\n    argument)\n      case $line[1] in\n";
    for (const Command& part : parts)
      body += fmt::format("        {}) {} ;;\n", part.name,
                          name_of_function(path.empty() ? part.name : path + ' ' + part.name));
    return body + "      esac ;;\n  esac\n}\n";
  };
  for (const Leaf& leaf : leaves_of(commands)) {
    if (!leaf.command->commands.empty()) {
      text += chooser(leaf.path, leaf.command->commands);
      continue;
    }
    text += fmt::format("{}() {{\n  _arguments \\\n", name_of_function(leaf.path));
    for (const Option* option : shown_options(leaf.command->table))
      for (const std::string& spelling : spellings(*option)) {
        std::string spec =
            fmt::format("{}{}[{}]", option->repeatable ? "*" : "", spelling, zsh_sentence(option->sentence));
        if (!option->is_flag())
          spec += fmt::format(":{}:{}", zsh_sentence(option->placeholder), zsh_action(*option));
        text += fmt::format("    {} \\\n", shell_quoted(spec));
      }
    text += "    '--help[explain]' \\\n    '*:file:_files'\n}\n";
  }
  return text + chooser("", commands) + "_quantfit \"$@\"\n";
}

std::string fish_completion(std::span<const Command> commands) {
  std::string text =
      "# fish completion for quantfit; written by 'quantfit completion fish'\ncomplete -c quantfit -f\n";
  for (const Command& command : commands)
    text += fmt::format("complete -c quantfit -n __fish_use_subcommand -a {} -d {}\n", command.name,
                        fish_quoted(command.sentence));
  text += "complete -c quantfit -l help -s h -d 'explain'\n";
  for (const Leaf& leaf : leaves_of(commands)) {
    std::string condition;
    for (std::string_view rest = leaf.path; !rest.empty();) {
      const std::size_t blank = std::min(rest.find(' '), rest.size());
      condition += fmt::format("{}__fish_seen_subcommand_from {}", condition.empty() ? "" : "; and ",
                               rest.substr(0, blank));
      rest.remove_prefix(std::min(blank + 1, rest.size()));
    }
    if (!leaf.command->commands.empty()) {
      for (const Command& part : leaf.command->commands)
        text +=
            fmt::format("complete -c quantfit -n '{}; and not __fish_seen_subcommand_from {}' -a {} -d {}\n",
                        condition, names_of(leaf.command->commands), part.name, fish_quoted(part.sentence));
      continue;
    }
    text += fmt::format("complete -c quantfit -n '{}' -F\n", condition);
    for (const Option* option : shown_options(leaf.command->table)) {
      std::string line = fmt::format("complete -c quantfit -n '{}'", condition);
      for (const std::string& spelling : spellings(*option))
        line += spelling.starts_with("--") ? " -l " + spelling.substr(2)
                                           : (spelling.size() == 2 ? " -s " : " -o ") + spelling.substr(1);
      if (!option->is_flag()) {
        const std::vector<std::string> values = values_of(*option);
        line += option->completion == Completion::File ? " -r -F" : " -x";
        if (option->completion == Completion::Folder)
          line += " -a '(__fish_complete_directories)'";
        else if (!values.empty())
          line += " -a " + fish_quoted(fmt::format("{}", fmt::join(values, " ")));
      }
      text += line + " -d " + fish_quoted(option->sentence) + '\n';
    }
  }
  return text;
}

}  // namespace quantfit::cli

// What `--help` shows, rendered from the commands and their option tables.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/commands.h"

namespace quantfit::cli {

// Paragraphs about the program and its exit status; lines that start with a blank are shown as they are.
[[nodiscard]] std::span<const std::string_view> purpose();
[[nodiscard]] std::span<const std::string_view> exit_statuses();

// How a command is called: "quantfit plan MODEL.gguf [options]".
[[nodiscard]] std::string usage(const Command& command, const std::string& path);

// The program as a whole.
[[nodiscard]] std::string program_help(std::span<const Command> commands, std::size_t width);

// One command; `path` are the words that lead to it: "state merge".
[[nodiscard]] std::string command_help(const Command& command, const std::string& path, std::size_t width);

}  // namespace quantfit::cli

// What `--help` shows, rendered from the commands and their option tables.
#pragma once

#include <span>
#include <string>

#include "cli/commands.h"

namespace quantfit::cli {

// The program as a whole.
[[nodiscard]] std::string program_help(std::span<const Command> commands, std::size_t width);

// One command; `path` are the words that lead to it: "state merge".
[[nodiscard]] std::string command_help(const Command& command, const std::string& path, std::size_t width);

}  // namespace quantfit::cli

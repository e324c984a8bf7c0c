// The manual and what shells complete, rendered from the commands and their option tables.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/commands.h"

namespace quantfit::cli {

// A page for man(1), in roff; `path` are the words that lead to the command ("state merge"), empty for the
// program as a whole. Holds no date: the same program writes the same bytes.
[[nodiscard]] std::string man_page(std::span<const Command> commands, const std::string& path);
// Every `path` that has a page, the empty one first.
[[nodiscard]] std::vector<std::string> manual_paths(std::span<const Command> commands);
// "quantfit-state-merge" of "state merge".
[[nodiscard]] std::string page_name(const std::string& path);

// All commands and options as one document in Markdown.
[[nodiscard]] std::string markdown_reference(std::span<const Command> commands);

// Scripts that make a shell complete commands, options, names of files and values.
[[nodiscard]] std::string bash_completion(std::span<const Command> commands);
[[nodiscard]] std::string zsh_completion(std::span<const Command> commands);
[[nodiscard]] std::string fish_completion(std::span<const Command> commands);

}  // namespace quantfit::cli

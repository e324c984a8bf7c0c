// How a written file is run: the words that start llama.cpp's server as the plan foresaw it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "optimizer/job/target.h"

namespace quantfit::cli {

// For a memory target with its context (`ctx_size` tokens), cache types, sequences and placement; otherwise
// with the file alone. `overrides` are the rules of placement as they were given.
[[nodiscard]] std::vector<std::string> llama_server_command(const optimizer::Target& target,
                                                            std::uint64_t ctx_size,
                                                            std::span<const std::string> overrides,
                                                            const std::string& file);

// The words as a POSIX shell reads them back; those with other characters than letters, digits and a few
// harmless ones between single quotes.
[[nodiscard]] std::string shell_text(std::span<const std::string> words);

}  // namespace quantfit::cli

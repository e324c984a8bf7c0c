// Standard output and standard error. Results go to the first, and losing them is a failure; messages go to
// the second, and whether anybody reads them never matters to the work.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"

namespace quantfit::cli {

// Descriptors 0 to 2 that are closed are opened on something harmless, so that no file which is opened later
// takes their place; writing to a pipe that nobody reads becomes an error instead of the end. Call it first.
void secure_standard_streams();

// Writes to standard error, whole or not at all. Never fails.
void say(std::string_view text) noexcept;

// Writes to standard output. Io or NoSpace when not all of it could be written.
[[nodiscard]] Result<void> print(std::string_view text);

// Writes everything; 0, or the errno that kept it from that. A descriptor that would block is waited for.
int write_all(int descriptor, std::string_view text) noexcept;

// "error: ..." on standard error, in red on a terminal.
void say_error(std::string_view message);

// Columns of the terminal behind the descriptor, or of the environment's COLUMNS; `otherwise` without either.
[[nodiscard]] std::size_t columns_of_terminal(int descriptor, std::size_t otherwise);

}  // namespace quantfit::cli

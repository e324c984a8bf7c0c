// UTF-8, as the state file stores it.
#pragma once

#include <string>
#include <string_view>

namespace quantfit::state {

// True for well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF) without
// zero bytes, which the sqlite3 shell would take for the end.
[[nodiscard]] bool is_storable_text(std::string_view text);

// The text with every byte that keeps it from being storable replaced by U+FFFD.
[[nodiscard]] std::string to_storable_text(std::string_view text);

}  // namespace quantfit::state

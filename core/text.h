// Text that comes from files and from people: is it UTF-8, and how it is shown so that it can do no harm.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quantfit {

// True for well-formed UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF) without
// zero bytes, which databases and C libraries take for the end.
[[nodiscard]] bool is_utf8(std::string_view text);

// The text with every byte that keeps it from being UTF-8 in that sense replaced by U+FFFD.
[[nodiscard]] std::string to_utf8(std::string_view text);

// At most `max_bytes` of the text, cut where no UTF-8 sequence is torn.
[[nodiscard]] std::string_view cut_utf8(std::string_view text, std::size_t max_bytes);

// One line fit for a terminal, a log or a message: what could move the cursor, change colours, end the line
// or turn the direction of writing stands as \n, \t, \x1b or \u{202e}, bytes that are no UTF-8 as \xff.
// Everything that files or people named goes through here before it is printed. Backslashes stay as they are,
// so that patterns and paths remain readable; the result is for eyes, not for reading back.
[[nodiscard]] std::string escaped(std::string_view text);

// The same between single quotes and cut after 100 bytes: a name inside a message.
[[nodiscard]] std::string printable(std::string_view text);

// The same whole, for between the tags of HTML or SVG: <, > and & as entities.
[[nodiscard]] std::string markup_escaped(std::string_view text);

// One field of a CSV record (RFC 4180): escaped as above, quoted where it holds a comma, a quote or a blank
// at an end.
[[nodiscard]] std::string csv_field(std::string_view text);

// A JSON document with what terminals obey written as \u escapes inside its strings: serializers escape only
// what the JSON grammar asks for. `document` must be JSON in UTF-8; it means the same afterwards.
[[nodiscard]] std::string printable_json(std::string_view document);

// ASCII letters compare equal in either case; all other bytes must be the same.
[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);

// ASCII letters in lower case, all other bytes as they are.
[[nodiscard]] std::string to_lower(std::string_view text);

}  // namespace quantfit

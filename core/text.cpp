#include "core/text.h"

#include <fmt/format.h>

#include <boost/algorithm/string/case_conv.hpp>
#include <boost/algorithm/string/predicate.hpp>
#include <cstdint>
#include <locale>

namespace quantfit {
namespace {

constexpr std::size_t kShown = 100;  // bytes of a name inside a message
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the well-formed sequence at the start of `text`, 0 when there is none. `text` is not empty.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t index) { return static_cast<std::uint8_t>(text[index]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return lead == 0 ? 0 : 1;
  // RFC 3629, section 4: the second byte's range depends on the first; later ones are 80..BF.
  std::size_t length = 0;
  std::uint8_t low = 0x80;
  std::uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  if (length == 0 || text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (std::size_t index = 2; index < length; ++index)
    if ((byte(index) & 0xC0) != 0x80) return 0;
  return length;
}

// The code point of a well-formed sequence.
std::uint32_t code_point(std::string_view sequence) {
  const auto lead = static_cast<std::uint8_t>(sequence[0]);
  if (sequence.size() == 1) return lead;
  std::uint32_t code = lead & (0x7FU >> sequence.size());
  for (const char c : sequence.substr(1)) code = code << 6 | (static_cast<std::uint8_t>(c) & 0x3FU);
  return code;
}

// Controls, marks that turn the direction of writing, separators of lines, invisible operators and tags. The
// two joiners (U+200C, U+200D), which scripts and emoji need, are none of them.
bool is_dangerous(std::uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code <= 0x9F) || code == 0x061C || code == 0x200B ||
         code == 0x200E || code == 0x200F || (code >= 0x2028 && code <= 0x202E) ||
         (code >= 0x2060 && code <= 0x206F) || code == 0xFEFF || (code >= 0xFFF9 && code <= 0xFFFB) ||
         (code >= 0xE0000 && code <= 0xE007F);
}

std::string escape_of(std::uint32_t code) {
  if (code == '\n') return "\\n";
  if (code == '\r') return "\\r";
  if (code == '\t') return "\\t";
  return code < 0x80 ? fmt::format("\\x{:02x}", code) : fmt::format("\\u{{{:04x}}}", code);
}

// Walks over `text`: `good` gets each well-formed sequence, `bad` each byte that belongs to none.
template <class Good, class Bad>
void for_each_sequence(std::string_view text, Good good, Bad bad) {
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    if (length == 0)
      bad(static_cast<std::uint8_t>(text[0]));
    else
      good(text.substr(0, length));
    text.remove_prefix(length == 0 ? 1 : length);
  }
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string to_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for_each_sequence(
      text, [&](std::string_view sequence) { result += sequence; },
      [&](std::uint8_t) { result += kReplacement; });
  return result;
}

std::string_view cut_utf8(std::string_view text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  // A sequence has at most four bytes: one that is torn begins in the last three that stay.
  for (std::size_t back = 1; back <= 3 && back <= max_bytes; ++back) {
    const std::size_t length = sequence_length(text.substr(max_bytes - back));
    if (length > back) return text.substr(0, max_bytes - back);
  }
  return text.substr(0, max_bytes);
}

std::string escaped(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for_each_sequence(
      text,
      [&](std::string_view sequence) {
        const std::uint32_t code = code_point(sequence);
        if (is_dangerous(code))
          result += escape_of(code);
        else
          result += sequence;
      },
      [&](std::uint8_t byte) { result += fmt::format("\\x{:02x}", byte); });
  return result;
}

std::string printable(std::string_view text) {
  const std::string_view shown = cut_utf8(text, kShown);
  return fmt::format("'{}{}'", escaped(shown), shown.size() < text.size() ? "..." : "");
}

std::string markup_escaped(std::string_view text) {
  std::string result;
  for (const char letter : escaped(text)) switch (letter) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      default:
        result += letter;
    }
  return result;
}

std::string csv_field(std::string_view text) {
  std::string field = escaped(text);
  const bool quote =
      field.find_first_of(",\"") != std::string::npos || field.starts_with(' ') || field.ends_with(' ');
  if (!quote) return field;
  std::string result = "\"";
  for (const char c : field) {
    if (c == '"') result += '"';
    result += c;
  }
  return result + '"';
}

std::string printable_json(std::string_view document) {
  std::string result;
  result.reserve(document.size());
  for_each_sequence(
      document,
      [&](std::string_view sequence) {
        const std::uint32_t code = code_point(sequence);
        if (code < 0x20 || !is_dangerous(code))
          result += sequence;  // below 0x20 only the layout's own line ends and blanks are left
        else if (code < 0x10000)
          result += fmt::format("\\u{:04x}", code);
        else
          result += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((code - 0x10000) >> 10),
                                0xDC00 + ((code - 0x10000) & 0x3FF));
      },
      [&](std::uint8_t) { result += kReplacement; });
  return result;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return boost::iequals(a, b, std::locale::classic());
}

std::string to_lower(std::string_view text) {
  return boost::to_lower_copy(std::string(text), std::locale::classic());
}

}  // namespace quantfit

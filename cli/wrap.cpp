#include "cli/wrap.h"

#include <algorithm>

namespace quantfit::cli {

std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string wrapped(std::string_view text, std::size_t indent, std::size_t width) {
  const std::string margin(indent, ' ');
  std::string result, line;
  std::size_t used = 0;
  while (!text.empty()) {
    const std::size_t blank = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, blank);
    text.remove_prefix(std::min(blank + 1, text.size()));
    if (word.empty()) continue;
    const std::size_t columns = columns_of(word);
    if (used != 0 && indent + used + 1 + columns > width) {
      result += margin + line + '\n';
      line.clear();
      used = 0;
    }
    if (used != 0) {
      line += ' ';
      ++used;
    }
    line += word;
    used += columns;
  }
  if (used != 0) result += margin + line + '\n';
  return result;
}

std::string hanging(std::string_view head, std::string_view text, std::size_t column, std::size_t width) {
  std::string lines = wrapped(text, column, width);
  const std::size_t taken = columns_of(head);
  if (lines.empty()) return std::string(head) + '\n';
  if (taken + 2 > column) return std::string(head) + '\n' + lines;
  return std::string(head) + lines.substr(taken);
}

}  // namespace quantfit::cli

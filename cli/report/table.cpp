#include "cli/report/table.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <utility>

#include "cli/wrap.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

bool looks_numeric(const std::string& text) {
  return text.empty() || std::isdigit(static_cast<unsigned char>(text[0])) != 0 || text[0] == '-' ||
         text[0] == '+' || text[0] == '.';
}

}  // namespace

void Table::add(std::vector<std::string> row) {
  for (std::string& cell : row) cell = escaped(cell);
  rows_.push_back(std::move(row));
}

std::string Table::to_text() const {
  std::vector<std::size_t> widths;
  std::vector<bool> numeric;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    widths.resize(std::max(widths.size(), rows_[r].size()), 0);
    numeric.resize(widths.size(), true);
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      widths[c] = std::max(widths[c], columns_of(rows_[r][c]));
      if (r > 0 && !looks_numeric(rows_[r][c])) numeric[c] = false;
    }
  }
  std::string text;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string gap(widths[c] - columns_of(rows_[r][c]), ' ');
      line += (c == 0 ? "" : "  ") + (numeric[c] ? gap + rows_[r][c] : rows_[r][c] + gap);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
    if (r == 0) {
      for (std::size_t c = 0; c < widths.size(); ++c) {
        if (c != 0) text += "  ";
        for (std::size_t i = 0; i < widths[c]; ++i) text += "─";
      }
      text += '\n';
    }
  }
  return text;
}

}  // namespace quantfit::cli

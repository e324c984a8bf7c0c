// Plain text tables whose columns line up, for terminals and logs.
#pragma once

#include <string>
#include <vector>

namespace quantfit::cli {

// First row is the header. Cells that begin with a digit, sign or dot are right-aligned; others left-aligned
// by the header's column. UTF-8 widths are counted in code points.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  // Cells may hold foreign text: they are escaped.
  void add(std::vector<std::string> row);
  // Lines with trailing newline; a rule under the header.
  [[nodiscard]] std::string to_text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace quantfit::cli

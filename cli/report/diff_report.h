// What two files or recipes store differently, as plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "optimizer/output/recipe_io.h"

namespace quantfit::cli {

struct DiffReport {
  struct Change {
    std::string tensor;
    std::optional<std::string> before, after;  // formats; nothing: the tensor is absent
    double bpw_change = 0;                     // where both are there
  };
  std::vector<Change> changes;
  std::uint64_t same = 0;  // tensors with one format in both
  // Two models: of the tensors with one format and shape, those whose bytes differ. Nothing: recipes have
  // none.
  std::optional<std::vector<std::string>> other_bytes;
  std::uint64_t equal_bytes = 0;   // of those tensors, the others
  std::uint64_t not_compared = 0;  // likewise, those whose data are missing: a header alone
};

[[nodiscard]] DiffReport make_diff_report(const optimizer::RecipeDiff& diff);

}  // namespace quantfit::cli

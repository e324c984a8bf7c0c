// Which format every tensor gets, and what that choice was computed from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/format.h"

namespace quantfit {

struct RecipeEntry {
  std::string tensor;
  Format format = Format::F32;

  friend bool operator==(const RecipeEntry&, const RecipeEntry&) = default;
};

struct Recipe {
  std::vector<RecipeEntry> entries;  // every tensor of the model, in file order
  // Model, importance matrix, target, objective, bound, version.
  std::map<std::string, std::string> provenance;

  // Null when the tensor is not part of the recipe. Linear: for tests and small lookups.
  [[nodiscard]] const RecipeEntry* find(const std::string& tensor) const {
    for (const RecipeEntry& entry : entries)
      if (entry.tensor == tensor) return &entry;
    return nullptr;
  }
};

}  // namespace quantfit

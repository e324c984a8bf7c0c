// One text per identity and one identity per text: what the file's unique columns hold.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "state/records.h"

namespace quantfit::state {

// Every value is preceded by its length in bytes: "importance=4:bb22 effort=7:default ...".
[[nodiscard]] std::string canonical_key(const RunParameters& parameters);
[[nodiscard]] std::string canonical_key(const SensitivityScope& scope);

[[nodiscard]] std::string_view to_string(SensitivityUnit unit);

// A recipe as the file holds it: formats by name, so that one unknown to this program counts too.
struct RecipeText {
  std::string target;
  std::uint64_t budget_bytes = 0;
  std::uint64_t bytes = 0;
  double objective = 0;
  double lower_bound = 0;
  std::vector<std::pair<std::string, std::string>> entries;  // tensor, format
  std::map<std::string, std::string> provenance;
};

// 32 hexadecimal digits over all of it; the time when it was saved does not count.
[[nodiscard]] std::string recipe_fingerprint(const RecipeText& recipe);
[[nodiscard]] std::string recipe_fingerprint(const SavedRecipe& recipe);

}  // namespace quantfit::state

#include "state/keys.h"

#include <fmt/format.h>

#include <bit>
#include <initializer_list>

#include "core/digest.h"

namespace quantfit::state {
namespace {

using Field = std::pair<std::string_view, std::string_view>;

std::string joined(std::initializer_list<Field> fields) {
  std::string key;
  for (const auto& [name, value] : fields)
    key += fmt::format("{}{}={}:{}", key.empty() ? "" : " ", name, value.size(), value);
  return key;
}

}  // namespace

std::string_view to_string(SensitivityUnit unit) {
  return unit == SensitivityUnit::Nats ? "nats" : "relative";
}

std::string canonical_key(const RunParameters& parameters) {
  return joined({{"importance", parameters.importance_fingerprint},
                 {"effort", parameters.effort},
                 {"encoder", fmt::to_string(parameters.encoder_version)},
                 {"sampling", parameters.sampling},
                 {"metric", parameters.metric},
                 {"unit", parameters.unit}});
}

std::string canonical_key(const SensitivityScope& scope) {
  return joined({{"unit", to_string(scope.unit)},
                 {"method", scope.method},
                 {"text", scope.text_fingerprint},
                 {"importance", scope.importance_fingerprint},
                 {"metric", scope.metric},
                 {"program", scope.program_version},
                 {"engine", fmt::to_string(scope.engine_version)},
                 {"tokens", fmt::to_string(scope.tokens)}});
}

std::string recipe_fingerprint(const RecipeText& recipe) {
  Digest digest;
  digest.text("quantfit recipe 1");
  digest.text(recipe.target);
  digest.number(recipe.budget_bytes);
  digest.number(recipe.bytes);
  // SQLite gives -0.0 back as 0.0.
  digest.number(std::bit_cast<std::uint64_t>(recipe.objective + 0.0));
  digest.number(std::bit_cast<std::uint64_t>(recipe.lower_bound + 0.0));
  digest.number(recipe.entries.size());
  for (const auto& [tensor, format] : recipe.entries) {
    digest.text(tensor);
    digest.text(format);
  }
  digest.number(recipe.provenance.size());
  for (const auto& [key, value] : recipe.provenance) {
    digest.text(key);
    digest.text(value);
  }
  return digest.hex();
}

std::string recipe_fingerprint(const SavedRecipe& recipe) {
  RecipeText text{recipe.target,           recipe.budget_bytes, recipe.bytes,
                  recipe.objective,        recipe.lower_bound,  {},
                  recipe.recipe.provenance};
  for (const RecipeEntry& entry : recipe.recipe.entries)
    text.entries.emplace_back(entry.tensor, name_of(entry.format));
  return recipe_fingerprint(text);
}

}  // namespace quantfit::state

// Recipes as text: the form that llama-quantize reads, quantfit's own commented form,
// and the difference of two.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "core/recipe.h"
#include "core/tensor_info.h"
#include "optimizer/llama_cpp/static_recipes.h"

namespace quantfit::optimizer {

// A larger file is no recipe.
inline constexpr std::uint64_t kMaxRecipeBytes = std::uint64_t{64} << 20;

// A type's name as ggml spells it: "q4_K", "iq2_xxs", "bf16".
[[nodiscard]] std::string ggml_name(Format format);

// For llama-quantize's `--tensor-type-file`: one line `^blk\.0\.ffn_down\.weight$=q4_K` per tensor that may
// be quantized, in the recipe's order, without comments, which it does not know. `tensors` are the model's,
// in the recipe's order. Run it with the name of dominant_file_type() as its file type and nothing else is
// left to it. ShapeMismatch when recipe and tensors are not of one model; Unsupported for a tensor name with
// white space, which that form cannot carry.
[[nodiscard]] Result<std::string> to_tensor_type_file(const Recipe& recipe,
                                                      std::span<const TensorInfo> tensors);

// The same rules joined by commas, for tools that take `--custom-q`.
[[nodiscard]] Result<std::string> to_custom_q(const Recipe& recipe, std::span<const TensorInfo> tensors);

// quantfit's own form: a first line "# quantfit recipe 1", one line "# key: value" per
// provenance entry, sorted by key, then the lines of to_tensor_type_file(). Removing the lines
// that start with '#' gives that form.
[[nodiscard]] Result<std::string> to_recipe_text(const Recipe& recipe, std::span<const TensorInfo> tensors);

// What a text says before it meets a model.
struct RecipeText {
  std::vector<FormatPin> rules;                   // the first pattern found in a name counts
  std::map<std::string, std::string> provenance;  // empty for foreign texts
};

// Reads either form, and hand-written ones: rules separated by white space, lines that start with '#' are
// comments (after a first line "# quantfit recipe 1", provenance). InvalidArgument naming line and cause;
// Unsupported for a later version of the form.
[[nodiscard]] Result<RecipeText> parse_recipe_text(std::string_view text);

struct AppliedRecipe {
  Recipe recipe;  // one entry per tensor, in order; kept tensors with their own format
  std::vector<Substitution> substitutions;  // formats that did not fit a row length
  std::vector<std::string> unused;          // patterns that no tensor took, as text
  std::vector<std::string> uncovered;       // tensors that took `otherwise`
};

// The recipe that a text means for a model. Tensors that no rule covers get `otherwise`, where the row length
// allows; InvalidArgument naming the first of them when there is no `otherwise`.
[[nodiscard]] Result<AppliedRecipe> apply_recipe_text(const RecipeText& text,
                                                      std::span<const TensorInfo> tensors,
                                                      std::optional<Format> otherwise = std::nullopt);

// The formats that a model's tensors have: for comparing files.
[[nodiscard]] Recipe recipe_of(std::span<const TensorInfo> tensors);

struct RecipeChange {
  std::string tensor;
  std::optional<Format> before;  // nothing: only in the second recipe
  std::optional<Format> after;   // nothing: only in the first

  friend bool operator==(const RecipeChange&, const RecipeChange&) = default;
};

struct RecipeDiff {
  std::vector<RecipeChange>
      changes;             // in the first recipe's order, then what only the second has, in its order
  std::uint64_t same = 0;  // tensors with one format in both
};

// A tensor that a recipe lists twice counts with its first entry.
[[nodiscard]] RecipeDiff diff_recipes(const Recipe& before, const Recipe& after);

}  // namespace quantfit::optimizer

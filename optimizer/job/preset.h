// Recipes that are given instead of searched for: llama.cpp's named mixtures and recipe files, with the rules
// that can apply to them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "optimizer/job/inputs.h"
#include "optimizer/job/request.h"
#include "optimizer/job/target.h"
#include "optimizer/llama_cpp/static_recipes.h"
#include "optimizer/output/recipe_io.h"

namespace quantfit::optimizer {

struct GivenRecipe {
  RecipeTarget target;
  std::vector<std::string> notes;  // what deviates from the mixture or file, and why
};

// What the mixture would make of the model, with pins, explicit formats of head and embedding, a head left
// alone and raised state-space tensors as llama.cpp's own program applies them. InvalidArgument for an
// unknown name and, by name, for rules that leave a choice and so cannot apply (pools, floors, ceilings,
// ties, speed, shares to fill); Infeasible, naming tensors, where formats need importance data that are not
// there and may not do without.
[[nodiscard]] Result<GivenRecipe> preset_recipe(const JobInputs& inputs, const JobRequest& request,
                                                std::string_view name);

// Likewise for a recipe file: the rules come before those of the file. `name` is for people.
[[nodiscard]] Result<GivenRecipe> file_recipe(const JobInputs& inputs, const JobRequest& request,
                                              std::string_view name, const RecipeText& text);

// The mixture alone, without anybody's rules but the preset's.
[[nodiscard]] Result<StaticRecipe> plain_preset(const JobInputs& inputs, const Preset& preset);

// The mixture with the rules of `request` that can apply.
[[nodiscard]] Result<StaticRecipe> ruled_preset(const JobInputs& inputs, const ConstraintRules& rules,
                                                const Preset& preset);

}  // namespace quantfit::optimizer

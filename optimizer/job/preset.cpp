#include "optimizer/job/preset.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "optimizer/llama_cpp/quantize_rules.h"

namespace quantfit::optimizer {
namespace {

// Names that a sentence lists before it breaks off.
constexpr std::size_t kNames = 4;

std::string listed(std::span<const std::string> names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNames); ++i)
    text += fmt::format("{}'{}'", i == 0 ? "" : ", ", names[i]);
  return names.size() > kNames ? text + fmt::format(", ... ({} in all)", names.size()) : text;
}

// Rules that choose among formats have nothing to choose from where every format is given.
Result<void> refuse_choices(const JobRequest& request, std::string_view recipe) {
  const ConstraintRules& rules = request.policy.rules;
  const RuleNames& names = rules.names;
  const std::pair<bool, const std::string*> given[] = {
      {!rules.pool.empty(), &names.pool},
      {!rules.excluded.empty(), &names.excluded},
      {!rules.floors.empty(), &names.floor},
      {!rules.ceilings.empty(), &names.ceiling},
      {!rules.ties.empty(), &names.tie},
      {rules.runtime.has_value(), &names.runtime},
      {request.speed_weight > 0, &names.speed_weight},
      {request.min_fill.has_value(), &names.min_fill},
  };
  for (const auto& [is_given, name] : given)
    if (is_given)
      return fail(ErrorCode::InvalidArgument, "{} cannot apply to {}: it gives every format already", *name,
                  recipe);
  if (rules.leave_output_tensor && rules.output_format)
    return fail(ErrorCode::Infeasible, "{} contradicts {} {}", names.leave_output_tensor, names.output_format,
                name_of(*rules.output_format));
  return outcome::success();
}

void note_unused_pins(std::span<const TensorInfo> tensors, const ConstraintRules& rules,
                      std::vector<std::string>& notes) {
  for (const FormatPin& pin : rules.pins)
    if (std::ranges::none_of(tensors, [&](const TensorInfo& t) { return pin.pattern.found_in(t.name); }))
      notes.push_back(fmt::format("{} '{}={}' applies to no tensor",
                                  pin.given_as.empty() ? rules.names.pin : pin.given_as, pin.pattern.text(),
                                  name_of(pin.format)));
}

void note_substitutions(std::span<const Substitution> substitutions, std::vector<std::string>& notes) {
  std::size_t listed_ones = 0;
  for (const Substitution& one : substitutions) {
    if (listed_ones++ == kNames) {
      notes.push_back(fmt::format("{} more tensors have rows that do not fit the wanted format",
                                  substitutions.size() - kNames));
      break;
    }
    notes.push_back(fmt::format("tensor '{}': its rows are no whole number of {} blocks; {} instead",
                                one.tensor, name_of(one.wanted), name_of(one.instead)));
  }
}

Result<void> check_importance(std::span<const std::string> missing, const ConstraintRules& rules,
                              std::string_view recipe, std::vector<std::string>& notes) {
  if (missing.empty()) return outcome::success();
  if (!rules.low_bits_without_importance)
    return fail(
        ErrorCode::Infeasible,
        "{} needs importance data, and there are none for {}; give an importance matrix that has them, "
        "or insist ({})",
        recipe, listed(missing), rules.names.low_bits);
  notes.push_back(fmt::format("without importance data, in formats that need them: {}", listed(missing)));
  return outcome::success();
}

StaticRecipeRequest request_of(const JobInputs& inputs, const Preset& preset) {
  StaticRecipeRequest request;
  request.file_type = preset.type;
  request.has_importance = inputs.importance.has_value();
  request.importance = inputs.has_importance;
  request.output_format = preset.output_format;
  request.embedding_format = preset.embedding_format;
  return request;
}

}  // namespace

Result<StaticRecipe> plain_preset(const JobInputs& inputs, const Preset& preset) {
  return resolve_static_recipe(inputs.traits, inputs.model.tensors(), request_of(inputs, preset));
}

Result<StaticRecipe> ruled_preset(const JobInputs& inputs, const ConstraintRules& rules,
                                  const Preset& preset) {
  StaticRecipeRequest request = request_of(inputs, preset);
  if (rules.output_format) request.output_format = rules.output_format;
  if (rules.embedding_format) request.embedding_format = rules.embedding_format;
  request.pins = rules.pins;
  request.leave_output_tensor = rules.leave_output_tensor;
  request.raise_state_space = rules.raise_state_space;
  return resolve_static_recipe(inputs.traits, inputs.model.tensors(), request);
}

Result<GivenRecipe> preset_recipe(const JobInputs& inputs, const JobRequest& request, std::string_view name) {
  const Preset* preset = find_preset(name);
  if (preset == nullptr) {
    std::string known;
    for (const Preset& one : all_presets()) known += fmt::format("{}{}", known.empty() ? "" : ", ", one.name);
    return fail(ErrorCode::InvalidArgument, "there is no mixture '{}'; known are {}", name, known);
  }
  const ConstraintRules& rules = request.policy.rules;
  QF_TRY(refuse_choices(request, preset->name));
  QF_ASSIGN(StaticRecipe resolved, ruled_preset(inputs, rules, *preset));
  GivenRecipe given;
  note_unused_pins(inputs.model.tensors(), rules, given.notes);
  QF_TRY(check_importance(resolved.missing_importance, rules, preset->name, given.notes));
  note_substitutions(resolved.substitutions, given.notes);
  for (const std::string& refused : resolved.refused_by_llama_cpp)
    given.notes.push_back(fmt::format("llama.cpp itself would refuse this: {}", refused));
  given.target = {std::string(preset->name), std::move(resolved.recipe)};
  return given;
}

Result<GivenRecipe> file_recipe(const JobInputs& inputs, const JobRequest& request, std::string_view name,
                                const RecipeText& text) {
  const ConstraintRules& rules = request.policy.rules;
  const auto tensors = inputs.model.tensors();
  QF_TRY(refuse_choices(request, name));
  RecipeText ruled = text;
  std::vector<FormatPin> first;
  const auto pin = [&first](std::string_view tensor, Format format) -> Result<void> {
    QF_ASSIGN(Pattern pattern, Pattern::compile(fmt::format("^{}$", escape_pattern(tensor))));
    first.push_back({std::move(pattern), format});
    return outcome::success();
  };
  const bool head_is_embedding = inputs.traits.tied && rules.output_format && !rules.embedding_format;
  if (rules.embedding_format) QF_TRY(pin("token_embd.weight", *rules.embedding_format));
  if (rules.output_format) QF_TRY(pin("output.weight", *rules.output_format));
  std::ranges::copy(rules.pins, std::back_inserter(first));
  if (head_is_embedding) QF_TRY(pin("token_embd.weight", *rules.output_format));
  ruled.rules.insert(ruled.rules.begin(), first.begin(), first.end());
  QF_ASSIGN(AppliedRecipe applied, apply_recipe_text(ruled, tensors));

  GivenRecipe given;
  note_unused_pins(tensors, rules, given.notes);
  const std::size_t unused = std::ranges::count_if(applied.unused, [&](const std::string& pattern) {
    return std::ranges::find(text.rules, pattern,
                             [](const FormatPin& rule) { return rule.pattern.text(); }) != text.rules.end();
  });
  if (unused != 0)
    given.notes.push_back(
        fmt::format("{} rules of {} apply to no tensor: {}", unused, name, listed(applied.unused)));
  note_substitutions(applied.substitutions, given.notes);
  std::vector<std::string> missing;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    RecipeEntry& entry = applied.recipe.entries[i];
    const bool left_alone = rules.leave_output_tensor && tensors[i].name == "output.weight";
    const bool raised =
        rules.raise_state_space && stays_in_state_space(tensors[i].name) && !is_quantized(tensors[i].format);
    if (left_alone || raised) entry.format = tensors[i].format;
    const bool covered = i < inputs.has_importance.size() && inputs.has_importance[i];
    if (entry.format != tensors[i].format && !covered && needs_importance(entry.format, tensors[i].name))
      missing.push_back(tensors[i].name);
  }
  QF_TRY(check_importance(missing, rules, name, given.notes));
  given.target = {std::string(name), std::move(applied.recipe)};
  return given;
}

}  // namespace quantfit::optimizer

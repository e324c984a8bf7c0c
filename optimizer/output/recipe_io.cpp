#include "optimizer/output/recipe_io.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <unordered_set>

#include "core/text.h"
#include "optimizer/llama_cpp/pin_index.h"
#include "optimizer/llama_cpp/quantize_rules.h"

namespace quantfit::optimizer {
namespace {

constexpr std::string_view kHeader = "# quantfit recipe ";
constexpr std::string_view kVersion = "1";

Result<std::vector<std::string>> rules_of(const Recipe& recipe, std::span<const TensorInfo> tensors) {
  if (recipe.entries.size() != tensors.size())
    return fail(ErrorCode::ShapeMismatch, "a recipe of {} tensors for a model of {}", recipe.entries.size(),
                tensors.size());
  std::vector<std::string> rules;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    if (recipe.entries[i].tensor != name)
      return fail(ErrorCode::ShapeMismatch, "entry {} of the recipe is for tensor '{}', the model's is '{}'",
                  i + 1, recipe.entries[i].tensor, name);
    if (!quantizability(tensors[i]).quantizable) continue;
    if (name.find_first_of(" \t\r\n\v\f") != std::string::npos)
      return fail(ErrorCode::Unsupported,
                  "tensor '{}': a name with white space cannot be part of a recipe text", name);
    rules.push_back(fmt::format("^{}$={}", escape_pattern(name), ggml_name(recipe.entries[i].format)));
  }
  return rules;
}

// Provenance values stay on one line; keys hold no ": " of their own.
std::string escaped(std::string_view value, bool is_key) {
  std::string text;
  for (const char c : value) {
    if (c == '\\')
      text += "\\\\";
    else if (c == '\n')
      text += "\\n";
    else if (c == '\r')
      text += "\\r";
    else if (c == ':' && is_key)
      text += "\\c";
    else
      text += c;
  }
  return text;
}

std::string unescaped(std::string_view value) {
  std::string text;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (value[i] != '\\' || i + 1 == value.size()) {
      text += value[i];
      continue;
    }
    const char c = value[++i];
    if (c == 'n')
      text += '\n';
    else if (c == 'r')
      text += '\r';
    else if (c == 'c')
      text += ':';
    else
      text += c;
  }
  return text;
}

}  // namespace

std::string ggml_name(Format format) {
  std::string name = to_lower(name_of(format));
  if (name.ends_with("_k")) name.back() = 'K';
  return name;
}

Result<std::string> to_tensor_type_file(const Recipe& recipe, std::span<const TensorInfo> tensors) {
  QF_ASSIGN(const auto rules, rules_of(recipe, tensors));
  return fmt::format("{}\n", fmt::join(rules, "\n"));
}

Result<std::string> to_custom_q(const Recipe& recipe, std::span<const TensorInfo> tensors) {
  QF_ASSIGN(const auto rules, rules_of(recipe, tensors));
  return fmt::format("{}", fmt::join(rules, ","));
}

Result<std::string> to_recipe_text(const Recipe& recipe, std::span<const TensorInfo> tensors) {
  QF_ASSIGN(const std::string body, to_tensor_type_file(recipe, tensors));
  std::string text = fmt::format("{}{}\n", kHeader, kVersion);
  for (const auto& [key, value] : recipe.provenance)
    text += fmt::format("# {}: {}\n", escaped(key, true), escaped(value, false));
  return text + body;
}

Result<RecipeText> parse_recipe_text(std::string_view text) {
  RecipeText answer;
  bool own = false;
  std::size_t number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++number;
    if (number == 1 && line.starts_with(kHeader)) {
      if (line.substr(kHeader.size()) != kVersion)
        return fail(ErrorCode::Unsupported, "line 1: recipe version '{}', expected {}",
                    line.substr(kHeader.size()), kVersion);
      own = true;
      continue;
    }
    if (line.starts_with('#')) {
      const std::size_t colon = line.find(": ");
      if (own && line.starts_with("# ") && colon != std::string_view::npos && colon > 2)
        answer.provenance.insert_or_assign(unescaped(line.substr(2, colon - 2)),
                                           unescaped(line.substr(colon + 2)));
      continue;
    }
    auto rules = parse_format_pins(line);
    if (!rules) {
      std::string_view cause = rules.error().message;
      if (cause.starts_with("line 1: ")) cause.remove_prefix(8);  // the number counts lines of the whole text
      return fail(rules.error().code, "line {}: {}", number, cause);
    }
    std::ranges::move(rules.value(), std::back_inserter(answer.rules));
  }
  return answer;
}

Result<AppliedRecipe> apply_recipe_text(const RecipeText& text, std::span<const TensorInfo> tensors,
                                        std::optional<Format> otherwise) {
  AppliedRecipe answer;
  answer.recipe.provenance = text.provenance;
  std::vector<bool> used(text.rules.size(), false);
  const PinIndex rules(text.rules);
  for (const TensorInfo& tensor : tensors) {
    answer.recipe.entries.push_back({tensor.name, tensor.format});
    if (!quantizability(tensor).quantizable) continue;
    std::optional<Format> wanted = otherwise;
    if (const auto rule = rules.first_in(tensor.name)) {
      used[*rule] = true;
      wanted = text.rules[*rule].format;
    } else {
      answer.uncovered.push_back(tensor.name);
    }
    if (!wanted)
      return fail(ErrorCode::InvalidArgument,
                  "the recipe says nothing about tensor '{}', and no type for the rest was "
                  "given",
                  tensor.name);
    const FittedFormat fitted = fit_row_length(*wanted, tensor.row_length());
    if (fitted.substituted) answer.substitutions.push_back({tensor.name, *wanted, fitted.format});
    answer.recipe.entries.back().format = fitted.format;
  }
  for (std::size_t i = 0; i < used.size(); ++i)
    if (!used[i]) answer.unused.push_back(text.rules[i].pattern.text());
  return answer;
}

Recipe recipe_of(std::span<const TensorInfo> tensors) {
  Recipe recipe;
  recipe.entries.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) recipe.entries.push_back({tensor.name, tensor.format});
  return recipe;
}

RecipeDiff diff_recipes(const Recipe& before, const Recipe& after) {
  std::unordered_map<std::string_view, Format> second;
  for (const RecipeEntry& entry : after.entries) second.emplace(entry.tensor, entry.format);
  RecipeDiff diff;
  std::unordered_set<std::string_view> seen;
  for (const RecipeEntry& entry : before.entries) {
    if (!seen.insert(entry.tensor).second) continue;
    const auto found = second.find(entry.tensor);
    if (found == second.end())
      diff.changes.push_back({entry.tensor, entry.format, std::nullopt});
    else if (found->second == entry.format)
      ++diff.same;
    else
      diff.changes.push_back({entry.tensor, entry.format, found->second});
  }
  for (const RecipeEntry& entry : after.entries)
    if (seen.insert(entry.tensor).second) diff.changes.push_back({entry.tensor, std::nullopt, entry.format});
  return diff;
}

}  // namespace quantfit::optimizer

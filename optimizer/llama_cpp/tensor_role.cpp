#include "optimizer/llama_cpp/tensor_role.h"

#include <array>
#include <charconv>

namespace quantfit::optimizer {
namespace {

struct RoleRule {
  RecipeRole role;
  bool whole_name;
  std::string_view text;
};

// The first match counts.
constexpr std::array kRoleRules = {
    RoleRule{RecipeRole::Output, true, "output.weight"},
    RoleRule{RecipeRole::Embed, true, "token_embd.weight"},
    RoleRule{RecipeRole::Embed, true, "per_layer_token_embd.weight"},
    RoleRule{RecipeRole::Qkv, false, "attn_qkv.weight"},
    RoleRule{RecipeRole::Kvb, false, "attn_kv_b.weight"},
    RoleRule{RecipeRole::V, false, "attn_v.weight"},
    RoleRule{RecipeRole::K, false, "attn_k.weight"},
    RoleRule{RecipeRole::Q, false, "attn_q.weight"},
    RoleRule{RecipeRole::O, false, "attn_output.weight"},
    RoleRule{RecipeRole::Up, false, "ffn_up"},
    RoleRule{RecipeRole::Gate, false, "ffn_gate"},
    RoleRule{RecipeRole::Down, false, "ffn_down"},
};

struct LayerPrefix {
  std::uint32_t layer = 0;
  std::size_t length = 0;  // of "blk.N."
};

std::optional<LayerPrefix> layer_prefix(std::string_view name) {
  constexpr std::string_view kBlock = "blk.";
  if (!name.starts_with(kBlock)) return std::nullopt;
  LayerPrefix prefix;
  const char* const start = name.data() + kBlock.size();
  const char* const end = name.data() + name.size();
  const auto [after, error] = std::from_chars(start, end, prefix.layer);
  if (error != std::errc() || after == end || *after != '.') return std::nullopt;
  prefix.length = static_cast<std::size_t>(after + 1 - name.data());
  return prefix;
}

}  // namespace

RecipeRole recipe_role(std::string_view name) {
  for (const RoleRule& rule : kRoleRules)
    if (rule.whole_name ? name == rule.text : name.find(rule.text) != std::string_view::npos)
      return rule.role;
  return RecipeRole::Other;
}

std::optional<std::uint32_t> layer_of(std::string_view name) {
  const auto prefix = layer_prefix(name);
  if (!prefix) return std::nullopt;
  return prefix->layer;
}

std::string_view tensor_role(std::string_view name) {
  for (const std::string_view part : {"enc.", "dec.", "v.", "a."}) {
    if (!name.starts_with(part) || !layer_prefix(name.substr(part.size()))) continue;
    name.remove_prefix(part.size());
    break;
  }
  if (const auto prefix = layer_prefix(name)) name.remove_prefix(prefix->length);
  constexpr std::string_view kWeight = ".weight";
  if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  return name;
}

bool is_routed_experts(std::string_view name) {
  return tensor_role(name).ends_with("_exps");
}

}  // namespace quantfit::optimizer

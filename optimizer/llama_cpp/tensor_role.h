// What a tensor does in the model, read from its name.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace quantfit::optimizer {

// The roles that llama.cpp's static recipes distinguish.
enum class RecipeRole : std::uint8_t { Output, Embed, Qkv, Kvb, V, K, Q, O, Up, Gate, Down, Other };

[[nodiscard]] RecipeRole recipe_role(std::string_view name);

// V, Qkv and Kvb follow the same rules in static recipes.
[[nodiscard]] inline bool is_value_role(RecipeRole role) {
  return role == RecipeRole::V || role == RecipeRole::Qkv || role == RecipeRole::Kvb;
}

// N of a name that starts with "blk.N."; nothing for other names and for numbers beyond 32 bits.
[[nodiscard]] std::optional<std::uint32_t> layer_of(std::string_view name);

// The finer role that sensitivities are known by: the name without its layer prefix ("blk.N.", also behind
// "enc.", "dec.", "v." or "a.") and without ".weight": "attn_q", "ffn_down_exps", "ssm_out", "token_embd". A
// part of `name`.
[[nodiscard]] std::string_view tensor_role(std::string_view name);

// True for weights of routed experts stacked in one tensor ("ffn_up_exps", "ffn_gate_up_exps").
[[nodiscard]] bool is_routed_experts(std::string_view name);

}  // namespace quantfit::optimizer

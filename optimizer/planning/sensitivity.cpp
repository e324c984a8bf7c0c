#include "optimizer/planning/sensitivity.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

// clang-format off
// role_alpha.csv, line by line; a test compares the two.
constexpr std::array kRoleAlphas = {
    RoleAlpha{SensitivityGroup::DenseUntied, "output", 56.957, 41.152, 75.531, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "token_embd", 10.891, 8.867, 14.658, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "ffn_down", 1.267, 1.201, 1.402, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "ffn_up", 1.148, 1.092, 1.257, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "ffn_gate", 1.000, 1.000, 1.000, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "attn_output", 0.923, 0.839, 1.155, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "ssm_out", 0.762, 0.696, 0.852, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "attn_qkv", 0.751, 0.704, 0.826, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "attn_q", 0.708, 0.652, 0.783, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "attn_v", 0.566, 0.535, 0.613, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "attn_gate", 0.527, 0.510, 0.549, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "attn_k", 0.280, 0.255, 0.294, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "ssm_beta", 0.074, 0.061, 0.087, 4},
    RoleAlpha{SensitivityGroup::DenseUntied, "ssm_alpha", 0.054, 0.039, 0.064, 4},
    RoleAlpha{SensitivityGroup::DenseTied, "token_embd", 126.689, 75.851, 265.599, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "ffn_down", 1.524, 1.407, 1.632, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "ffn_up", 1.393, 1.289, 1.569, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "ssm_out", 1.157, 0.864, 1.377, 3},
    RoleAlpha{SensitivityGroup::DenseTied, "attn_output", 1.009, 0.534, 1.895, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "attn_qkv", 1.005, 0.853, 1.230, 3},
    RoleAlpha{SensitivityGroup::DenseTied, "ffn_gate", 1.000, 1.000, 1.000, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "attn_v", 0.725, 0.552, 1.073, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "attn_gate", 0.719, 0.641, 0.904, 3},
    RoleAlpha{SensitivityGroup::DenseTied, "attn_q", 0.583, 0.324, 0.929, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "attn_k", 0.457, 0.313, 0.621, 5},
    RoleAlpha{SensitivityGroup::DenseTied, "ssm_beta", 0.045, 0.037, 0.058, 3},
    RoleAlpha{SensitivityGroup::DenseTied, "ssm_alpha", 0.023, 0.014, 0.034, 3},
    RoleAlpha{SensitivityGroup::Moe, "output", 49.029, 38.239, 57.726, 4},
    RoleAlpha{SensitivityGroup::Moe, "token_embd", 17.295, 9.038, 69.611, 4},
    RoleAlpha{SensitivityGroup::Moe, "attn_output", 1.558, 1.377, 1.788, 4},
    RoleAlpha{SensitivityGroup::Moe, "attn_q", 1.486, 1.212, 2.308, 4},
    RoleAlpha{SensitivityGroup::Moe, "attn_qkv", 1.416, 1.299, 1.570, 4},
    RoleAlpha{SensitivityGroup::Moe, "ssm_out", 1.289, 1.148, 1.424, 4},
    RoleAlpha{SensitivityGroup::Moe, "attn_gate", 1.132, 1.016, 1.216, 4},
    RoleAlpha{SensitivityGroup::Moe, "ffn_down_exps", 1.115, 1.036, 1.192, 4},
    RoleAlpha{SensitivityGroup::Moe, "attn_v", 1.070, 0.900, 1.327, 4},
    RoleAlpha{SensitivityGroup::Moe, "ffn_up_exps", 1.006, 0.969, 1.046, 4},
    RoleAlpha{SensitivityGroup::Moe, "ffn_gate_exps", 1.000, 1.000, 1.000, 4},
    RoleAlpha{SensitivityGroup::Moe, "ffn_down_shexp", 0.936, 0.581, 1.488, 4},
    RoleAlpha{SensitivityGroup::Moe, "ffn_up_shexp", 0.911, 0.556, 1.391, 4},
    RoleAlpha{SensitivityGroup::Moe, "ffn_gate_shexp", 0.778, 0.446, 0.976, 4},
    RoleAlpha{SensitivityGroup::Moe, "attn_k", 0.667, 0.593, 0.787, 4},
    RoleAlpha{SensitivityGroup::Moe, "ssm_beta", 0.396, 0.323, 0.530, 4},
    RoleAlpha{SensitivityGroup::Moe, "ssm_alpha", 0.360, 0.275, 0.536, 4},
};

// Families whose measured values differ from the groups above. Relative to their own ffn_gate; an
// architecture belongs to a family when its name starts with the family's.
struct FamilyAlpha {
  std::string_view family;
  std::string_view role;
  double alpha;
};
constexpr std::array kFamilyAlphas = {
    // Gemma-4-31B. Gemma models norm every branch before adding it, so their tied embedding weighs less.
    FamilyAlpha{"gemma", "token_embd", 10.5},
    FamilyAlpha{"gemma", "attn_output", 1.05},
    FamilyAlpha{"gemma", "attn_k", 0.87},
    FamilyAlpha{"gemma", "attn_v", 0.87},
    FamilyAlpha{"gemma", "attn_q", 0.73},
    // Kimi-K2.5, the architecture of DeepSeek-V2 and V3.
    FamilyAlpha{"deepseek2", "output", 24},
    FamilyAlpha{"deepseek2", "attn_output", 1.18},
    FamilyAlpha{"deepseek2", "attn_v_b", 1.27},
    FamilyAlpha{"deepseek2", "attn_kv_a_mqa", 1.16},
    // GLM-4.7.
    FamilyAlpha{"glm4moe", "output", 56},
    FamilyAlpha{"glm4moe", "attn_output", 1.53},
};

// Unmeasured roles that do the work of a measured one: the first of these that the group knows.
struct RoleAlias {
  std::string_view role;
  std::string_view like;
};
constexpr std::array kRoleAliases = {
    RoleAlias{"attn_q_a", "attn_q"}, RoleAlias{"attn_q_b", "attn_q"},
    RoleAlias{"attn_k_b", "attn_k"}, RoleAlias{"attn_v_b", "attn_v"}, RoleAlias{"attn_kv_b", "attn_v"},
    RoleAlias{"attn_kv_a_mqa", "attn_qkv"},
    RoleAlias{"ssm_in", "attn_qkv"}, RoleAlias{"ssm_ba", "ssm_beta"},
    RoleAlias{"ffn_gate_up", "ffn_up"}, RoleAlias{"ffn_gate_up_exps", "ffn_up_exps"},
};
// clang-format on

// A dense feed-forward network in front of the first expert layer: 2 to 7 in GLM and Kimi models, the
// geometric middle here.
constexpr double kFirstDenseFeedForward = 3.7;
// The last layer's ffn_down: two to three times its role's median.
constexpr double kLastDown = 2.5;
// That of the first two layers: one to two times, the geometric middle here.
constexpr double kFirstDown = 1.4;
constexpr std::uint32_t kFirstLayerCount = 2;
// Next-token-prediction layers leave the model's own output as it is; they decide how
// many drafted tokens are kept.
constexpr double kNextTokenLayers = 0.1;

const RoleAlpha* find_alpha(SensitivityGroup group, std::string_view role) {
  const auto found = std::ranges::find_if(
      kRoleAlphas, [&](const RoleAlpha& line) { return line.group == group && line.role == role; });
  return found == kRoleAlphas.end() ? nullptr : &*found;
}

bool is_down(std::string_view role) {
  return role.starts_with("ffn_down");
}

bool is_dense_feed_forward(std::string_view role) {
  return role == "ffn_gate" || role == "ffn_up" || role == "ffn_down" || role == "ffn_gate_up";
}

// The prior of single tensors of one model.
class Prior {
 public:
  Prior(const ModelTraits& model, std::span<const TensorInfo> tensors)
      : model_(model), group_(sensitivity_group(model)) {
    for (const TensorInfo& tensor : tensors)
      if (const auto layer = layer_of(tensor.name); layer && is_routed_experts(tensor.name))
        expert_layers_.insert(*layer);
    layers_ = model.block_count - std::min(model.block_count, model.nextn_layers);
  }

  TensorSensitivity of(std::string_view name) const {
    const std::string_view role = tensor_role(name);
    const auto layer = layer_of(name);
    TensorSensitivity answer = of_role(role, layer);
    const auto times = [&answer](double factor, std::string_view why) {
      answer.value *= factor;
      answer.obtained += fmt::format(", {} x{}", why, factor);
    };
    if (!layer) return answer;
    if (*layer >= layers_) {
      times(kNextTokenLayers, "next-token prediction");
    } else if (is_down(role) && *layer + 1 == layers_) {
      times(kLastDown, "last layer");
    } else if (is_down(role) && *layer < kFirstLayerCount) {
      times(kFirstDown, "first layers");
    }
    return answer;
  }

 private:
  TensorSensitivity of_role(std::string_view role, std::optional<std::uint32_t> layer) const {
    for (const FamilyAlpha& line : kFamilyAlphas)
      if (model_.architecture.starts_with(line.family) && line.role == role)
        return {line.alpha, fmt::format("prior {}/{}", line.family, role)};
    // In a tied model the embedding is the head too. Tied expert models were not
    // measured: dense ones stand in.
    const bool tied_embedding = role == "token_embd" && model_.tied;
    if (const RoleAlpha* line = find_alpha(tied_embedding ? SensitivityGroup::DenseTied : group_, role))
      return {line->alpha, fmt::format("prior {}/{}", to_string(line->group), role)};
    if (group_ == SensitivityGroup::Moe && layer && is_dense_feed_forward(role))
      return of_dense_part(role, *layer);
    for (const RoleAlias& alias : kRoleAliases) {
      if (alias.role != role) continue;
      if (const RoleAlpha* line = find_alpha(group_, alias.like))
        return {line->alpha, fmt::format("prior {}/{} for {}", to_string(group_), alias.like, role)};
    }
    // Per-layer embeddings never serve as head: like an untied embedding in every model.
    if (role == "per_layer_token_embd")
      return {find_alpha(SensitivityGroup::DenseUntied, "token_embd")->alpha,
              "prior dense_untied/token_embd for per_layer_token_embd"};
    return {unknown_role_alpha(group_), fmt::format("prior {}, mean of layer roles", to_string(group_))};
  }

  // Dense feed-forward networks of expert models: in front of the expert layers, or beside the experts.
  TensorSensitivity of_dense_part(std::string_view role, std::uint32_t layer) const {
    const bool in_front =
        !expert_layers_.contains(layer) && (expert_layers_.empty() || layer < *expert_layers_.begin());
    if (in_front) return {kFirstDenseFeedForward, "prior moe/first dense feed-forward"};
    const RoleAlpha* shared = find_alpha(SensitivityGroup::Moe, std::string(role) + "_shexp");
    if (expert_layers_.contains(layer) && shared != nullptr)
      return {shared->alpha, fmt::format("prior moe/{} for {}", shared->role, role)};
    return {unknown_role_alpha(group_), "prior moe, mean of layer roles"};
  }

  const ModelTraits& model_;
  SensitivityGroup group_;
  std::set<std::uint32_t> expert_layers_;
  std::uint32_t layers_ = 0;  // next-token-prediction layers not counted
};

}  // namespace

std::string_view to_string(SensitivityGroup group) {
  switch (group) {
    case SensitivityGroup::DenseUntied:
      return "dense_untied";
    case SensitivityGroup::DenseTied:
      return "dense_tied";
    case SensitivityGroup::Moe:
      return "moe";
  }
  return "unknown";
}

SensitivityGroup sensitivity_group(const ModelTraits& model) {
  if (model.expert_count > 0) return SensitivityGroup::Moe;
  return model.tied ? SensitivityGroup::DenseTied : SensitivityGroup::DenseUntied;
}

std::span<const RoleAlpha> role_alphas() {
  return kRoleAlphas;
}

double unknown_role_alpha(SensitivityGroup group) {
  double sum = 0;
  int count = 0;
  for (const RoleAlpha& line : kRoleAlphas) {
    if (line.group != group || line.role == "output" || line.role == "token_embd") continue;
    if (line.role == "ssm_alpha" || line.role == "ssm_beta") continue;  // a few rows per layer, nearly idle
    sum += std::log(line.alpha);
    ++count;
  }
  return std::exp(sum / count);
}

Result<RoleWeight> parse_role_weight(std::string_view text) {
  const std::size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0)
    return fail(ErrorCode::InvalidArgument, "role weight '{}': expected pattern=number", text);
  const std::string_view number = text.substr(equals + 1);
  RoleWeight answer;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), answer.weight);
  if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(answer.weight) ||
      answer.weight < 0)
    return fail(ErrorCode::InvalidArgument,
                "role weight '{}': expected a finite number of at least 0 after '='", text);
  QF_ASSIGN(answer.pattern, Pattern::compile(text.substr(0, equals)));
  return answer;
}

std::vector<TensorSensitivity> default_sensitivities(const ModelTraits& model,
                                                     std::span<const TensorInfo> tensors,
                                                     std::span<const RoleWeight> role_weights) {
  const Prior prior(model, tensors);
  std::vector<TensorSensitivity> answer;
  answer.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) {
    const auto chosen = std::ranges::find_if(
        role_weights, [&](const RoleWeight& weight) { return weight.pattern.found_in(tensor.name); });
    if (chosen != role_weights.end())
      answer.push_back({chosen->weight, fmt::format("role weight '{}'", chosen->pattern.text())});
    else
      answer.push_back(prior.of(tensor.name));
  }
  return answer;
}

}  // namespace quantfit::optimizer

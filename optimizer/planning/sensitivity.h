// The default sensitivity s_t of a tensor: nats of KL divergence per unit of relative output error, by role.
// A prior from public measurements (role_alpha.csv); a sensitivity measured on the model itself replaces it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tensor_info.h"
#include "optimizer/llama_cpp/model_traits.h"
#include "optimizer/llama_cpp/pattern.h"

namespace quantfit::optimizer {

// The groups of models that were measured apart.
enum class SensitivityGroup : std::uint8_t { DenseUntied, DenseTied, Moe };
[[nodiscard]] std::string_view to_string(SensitivityGroup group);  // as role_alpha.csv spells them

// Moe when the model has experts, else by whether the embedding serves as output head.
[[nodiscard]] SensitivityGroup sensitivity_group(const ModelTraits& model);

// One line of role_alpha.csv: alpha relative to ffn_gate (ffn_gate_exps of MoE models) of the same layer.
struct RoleAlpha {
  SensitivityGroup group;
  std::string_view role;  // see tensor_role()
  double alpha;           // geometric mean over the measured models
  double min;
  double max;
  std::uint32_t models;
};
[[nodiscard]] std::span<const RoleAlpha> role_alphas();

// Geometric mean of the group's matrices inside layers, the tiny state-space gates left out: what an
// unmeasured role gets (0.73 dense untied, 0.90 dense tied, 1.07 MoE).
[[nodiscard]] double unknown_role_alpha(SensitivityGroup group);

// s_t = weight, in units of the prior, for tensors whose name the pattern is found in; the first such pattern
// counts.
struct RoleWeight {
  Pattern pattern;
  double weight = 1;
  std::string given_as = "role weight";  // the name of the option or field it came from
};
// InvalidArgument when the text is not `pattern=number` with a finite number of at least 0.
[[nodiscard]] Result<RoleWeight> parse_role_weight(std::string_view text);

struct TensorSensitivity {
  double value = 1;
  std::string
      obtained;  // how, for reports: "prior moe/ffn_down_exps, last layer x2.5", "role weight 'attn_v'"
};

// One value per tensor, in the order given; tensors that are never quantized get one too. Sensitivities are
// per tensor: neither its size nor its number of experts enters. See README.md, "Sensitivity", for what is
// assumed about other model families, first and last layers, and dense layers of expert models.
[[nodiscard]] std::vector<TensorSensitivity> default_sensitivities(
    const ModelTraits& model, std::span<const TensorInfo> tensors,
    std::span<const RoleWeight> role_weights = {});

}  // namespace quantfit::optimizer

#include "optimizer/llama_cpp/model_traits.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "core/hyperparameters.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
Result<ModelTraits> model_traits(const GgufMetadata& metadata, std::span<const TensorInfo> tensors) {
  ModelTraits traits;
  Hyperparameters hyperparameters(metadata);
  traits.architecture = hyperparameters.architecture();
  std::uint32_t layers = 0;
  traits.tied = true;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.name == "output.weight") traits.tied = false;
    if (const auto layer = layer_of(tensor.name))
      layers = std::max(layers, *layer == std::numeric_limits<std::uint32_t>::max() ? *layer : *layer + 1);
  }
  const auto value = [&](std::string_view suffix, std::uint32_t absent) {
    return static_cast<std::uint32_t>(hyperparameters.value(suffix, absent));
  };
  traits.block_count = value("block_count", layers);
  traits.nextn_layers = value("nextn_predict_layers", 0);
  traits.head_count = value("attention.head_count", 0);
  traits.head_count_kv = value("attention.head_count_kv", traits.head_count);
  traits.expert_count = value("expert_count", 0);
  traits.expert_used_count = value("expert_used_count", 0);
  QF_TRY(hyperparameters.check());
  return traits;
}

}  // namespace quantfit::optimizer

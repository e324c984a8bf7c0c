#include "optimizer/llama_cpp/model_traits.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

// A scalar, or the first element where the key holds one value per layer; `absent` without the key.
Result<std::uint32_t> first_value(const GgufMetadata& metadata, const std::string& key,
                                  std::uint32_t absent) {
  const GgufKeyValue* found = metadata.find(key);
  if (found == nullptr) return absent;
  std::optional<std::uint64_t> value = found->as_uint();
  if (const auto array = found->as_int_array(); array && !array->empty() && array->front() >= 0)
    value = static_cast<std::uint64_t>(array->front());
  if (!value || *value > std::numeric_limits<std::uint32_t>::max())
    return fail(ErrorCode::Malformed, "metadata key '{}': expected an unsigned integer of 32 bits", key);
  return static_cast<std::uint32_t>(*value);
}

}  // namespace

Result<ModelTraits> model_traits(const GgufMetadata& metadata, std::span<const TensorInfo> tensors) {
  ModelTraits traits;
  traits.architecture = std::string(metadata.string("general.architecture").value_or(""));
  const std::string prefix = traits.architecture + ".";
  std::uint32_t layers = 0;
  traits.tied = true;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.name == "output.weight") traits.tied = false;
    if (const auto layer = layer_of(tensor.name))
      layers = std::max(layers, *layer == std::numeric_limits<std::uint32_t>::max() ? *layer : *layer + 1);
  }
  QF_ASSIGN(traits.block_count, first_value(metadata, prefix + "block_count", layers));
  QF_ASSIGN(traits.nextn_layers, first_value(metadata, prefix + "nextn_predict_layers", 0));
  QF_ASSIGN(traits.head_count, first_value(metadata, prefix + "attention.head_count", 0));
  QF_ASSIGN(traits.head_count_kv,
            first_value(metadata, prefix + "attention.head_count_kv", traits.head_count));
  QF_ASSIGN(traits.expert_count, first_value(metadata, prefix + "expert_count", 0));
  return traits;
}

}  // namespace quantfit::optimizer

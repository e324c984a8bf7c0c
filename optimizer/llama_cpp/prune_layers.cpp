#include "optimizer/llama_cpp/prune_layers.h"

#include <algorithm>
#include <utility>

#include "core/text.h"
#include "optimizer/llama_cpp/model_traits.h"
#include "optimizer/llama_cpp/tensor_role.h"

namespace quantfit::optimizer {
namespace {

// Keys by which every n-th layer is of another kind.
constexpr std::string_view kPeriods[] = {"full_attention_interval", "attention.sliding_window_pattern",
                                         "interleave_moe_layer_step", "attention.layer_indices"};

std::uint32_t removed_before(std::uint32_t layer, std::span<const std::uint32_t> layers) {
  return static_cast<std::uint32_t>(std::ranges::lower_bound(layers, layer) - layers.begin());
}

GgufKeyValue without_elements(const GgufKeyValue& array, std::span<const std::uint32_t> layers) {
  const std::uint64_t size = fixed_size(array.element_type);
  std::vector<std::byte> left;
  for (std::uint64_t i = 0; i < array.count; ++i)
    if (!std::ranges::binary_search(layers, i))
      left.insert(left.end(), array.bytes.begin() + i * size, array.bytes.begin() + (i + 1) * size);
  GgufKeyValue shorter = array;
  shorter.count = array.count - layers.size();
  shorter.bytes = SharedBytes(std::move(left));
  return shorter;
}

GgufMetadata metadata_without(const Model& model, std::uint32_t blocks, std::span<const std::uint32_t> layers,
                              std::vector<std::string>& warnings) {
  const std::string prefix = std::string(model.architecture()) + ".";
  GgufMetadata metadata = model.metadata();
  const auto set_count = [&](std::string_view suffix, std::uint64_t value) {
    const std::string key = prefix + std::string(suffix);
    if (metadata.find(key) != nullptr)
      metadata.set(GgufKeyValue::of_uint32(key, static_cast<std::uint32_t>(value)));
  };
  for (const GgufKeyValue& pair : model.metadata().all())
    if (pair.key.starts_with(prefix) && pair.type == GgufType::Array && pair.count == blocks &&
        fixed_size(pair.element_type) != 0)
      metadata.set(without_elements(pair, layers));
  set_count("block_count", blocks - layers.size());
  const auto leading = metadata.uint(prefix + "leading_dense_block_count").value_or(0);
  set_count(
      "leading_dense_block_count",
      leading - removed_before(static_cast<std::uint32_t>(std::min<std::uint64_t>(leading, blocks)), layers));
  const std::uint64_t last =
      std::min<std::uint64_t>(metadata.uint(prefix + "nextn_predict_layers").value_or(0), blocks);
  set_count("nextn_predict_layers",
            last - (layers.size() - removed_before(static_cast<std::uint32_t>(blocks - last), layers)));
  for (const std::string_view suffix : kPeriods)
    if (const GgufKeyValue* key = metadata.find(prefix + std::string(suffix));
        key != nullptr && key->type != GgufType::Array)
      warnings.push_back(
          fmt::format("pruned layers: {} makes a layer's kind follow from its number, and the "
                      "layers behind a pruned one move up: the model may not run",
                      printable(key->key)));
  return metadata;
}

}  // namespace

std::string name_without_layers(const std::string& name, std::span<const std::uint32_t> layers) {
  const auto layer = layer_of(name);
  if (!layer) return name;
  if (std::ranges::binary_search(layers, *layer)) return {};
  return fmt::format("blk.{}{}", *layer - removed_before(*layer, layers), name.substr(name.find('.', 4)));
}

Result<Model> prune_layers(Model model, std::vector<std::uint32_t> layers,
                           std::vector<std::string>& warnings) {
  if (layers.empty()) return model;
  std::ranges::sort(layers);
  if (const auto twice = std::ranges::adjacent_find(layers); twice != layers.end())
    return fail(ErrorCode::InvalidArgument, "layer {} is to be pruned twice", *twice);
  QF_ASSIGN(const ModelTraits traits, model_traits(model.metadata(), model.tensors()));
  if (layers.back() >= traits.block_count)
    return fail(ErrorCode::InvalidArgument, "layer {} cannot be pruned: there are {}, counted from 0",
                layers.back(), traits.block_count);
  if (layers.size() == traits.block_count)
    return fail(ErrorCode::InvalidArgument, "all {} layers are to be pruned", traits.block_count);
  GgufMetadata metadata = metadata_without(model, traits.block_count, layers, warnings);
  std::vector<std::string> names;
  for (const TensorInfo& tensor : model.tensors()) names.push_back(name_without_layers(tensor.name, layers));
  return Model::renamed(std::move(model), std::move(metadata), names);
}

}  // namespace quantfit::optimizer

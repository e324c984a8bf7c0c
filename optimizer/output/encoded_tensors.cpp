#include "optimizer/output/encoded_tensors.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/digest.h"
#include "core/text.h"

namespace quantfit::optimizer {
namespace {

std::vector<std::uint64_t> numbers_of(const GgufMetadata& metadata, std::string_view key) {
  const GgufKeyValue* found = metadata.find(key);
  if (found == nullptr || found->type != GgufType::Array || found->element_type != GgufType::UInt64)
    return {};
  std::vector<std::uint64_t> numbers(found->bytes.size() / sizeof(std::uint64_t));
  if (!numbers.empty())
    std::memcpy(numbers.data(), found->bytes.data(), numbers.size() * sizeof(std::uint64_t));
  return numbers;
}

// What a file and the one to be written differ in, and what that means for its tensors.
struct Difference {
  std::string_view key, sentence;
};
constexpr Difference kDifferences[] = {
    {"quantfit.encoder_version", "other encoders made it: all tensors are encoded anew"},
    {"quantfit.effort", "its encoders searched with another --effort: all tensors are encoded anew"},
    {kMetricKey,
     "errors were weighed in another way (--kappa, error feedback, its text): all tensors are encoded anew"},
    {"quantfit.source_fingerprint", "it was made from another source: what differs there is encoded anew"},
    {"quantfit.importance_fingerprint",
     "it was made with another importance matrix: what differs there is encoded anew"},
};

bool same_value(const GgufKeyValue* a, const GgufKeyValue* b) {
  if (a == nullptr || b == nullptr) return a == b;
  return a->type == b->type && a->bytes == b->bytes;
}

bool same_shape(const TensorInfo& a, const TensorInfo& b) {
  return a.format == b.format && a.ne == b.ne && a.bytes == b.bytes;
}

}  // namespace

GgufKeyValue uint64_array(std::string_view key, std::span<const std::uint64_t> values) {
  return {std::string(key), GgufType::Array, GgufType::UInt64, values.size(), std::as_bytes(values)};
}

std::vector<GgufKeyValue> tensor_digest_keys(std::size_t tensors) {
  const std::vector<std::uint64_t> none(tensors);
  return {uint64_array(kTensorInputs, none), uint64_array(kTensorData, none)};
}

Result<EncodedTensors> EncodedTensors::open(const ReuseSources& sources, std::span<const GgufKeyValue> keys) {
  EncodedTensors opened;
  for (const std::filesystem::path& path : sources.files) {
    QF_ASSIGN(Model model, Model::open(path));
    auto source = std::make_shared<Source>(std::move(model));
    const GgufMetadata& metadata = source->model.metadata();
    source->inputs = numbers_of(metadata, kTensorInputs);
    source->data = numbers_of(metadata, kTensorData);
    const std::size_t tensors = source->model.tensors().size();
    if (source->inputs.size() != tensors || source->data.size() != tensors) {
      opened.notes_.push_back(
          fmt::format("{}: it does not say what its tensors were made from (another program made it, or "
                      "--no-provenance was given): all tensors are encoded anew",
                      path.string()));
      continue;
    }
    for (const auto& [key, sentence] : kDifferences) {
      const auto wanted = std::ranges::find(keys, key, &GgufKeyValue::key);
      if (same_value(metadata.find(key), wanted == keys.end() ? nullptr : &*wanted)) continue;
      opened.notes_.push_back(fmt::format("{}: {}", path.string(), sentence));
      break;
    }
    opened.sources_.push_back(std::move(source));
  }
  if (!sources.cache.empty()) {
    QF_ASSIGN(opened.cache_, TensorCache::open(sources.cache, sources.cache_bytes));
  }
  return opened;
}

bool EncodedTensors::may_have(const TensorInfo& wanted) const {
  return cache_ || std::ranges::any_of(sources_, [&](const std::shared_ptr<const Source>& source) {
           const TensorInfo* found = source->model.find(wanted.name);
           return found != nullptr && same_shape(*found, wanted);
         });
}

std::optional<EncodedTensor> EncodedTensors::find_in(const std::shared_ptr<const Source>& source,
                                                     const TensorInfo& wanted, std::uint64_t inputs) {
  const Model& model = source->model;
  const TensorInfo* found = model.find(wanted.name);
  if (found == nullptr || !same_shape(*found, wanted)) return std::nullopt;
  const auto place = static_cast<std::size_t>(found - model.tensors().data());
  if (source->inputs[place] != inputs) return std::nullopt;
  EncodedTensor tensor{std::shared_ptr<const Model>(source, &model), model.data(*found), source->data[place]};
  model.will_need(tensor.bytes);
  Digest digest;
  digest.bytes(tensor.bytes);
  if (digest.value() == tensor.digest) return tensor;
  notes_.push_back(fmt::format("{}: tensor {} is damaged: it is encoded anew",
                               model.shards().front().path.string(), printable(wanted.name)));
  return std::nullopt;
}

std::optional<EncodedTensor> EncodedTensors::find(const TensorInfo& wanted, std::uint64_t inputs) {
  for (const std::shared_ptr<const Source>& source : sources_)
    if (auto tensor = find_in(source, wanted, inputs)) return tensor;
  if (!cache_) return std::nullopt;
  auto entry = cache_->find(inputs);
  if (!entry) return std::nullopt;
  const auto source = std::make_shared<Source>(std::move(*entry));
  source->inputs = numbers_of(source->model.metadata(), kTensorInputs);
  source->data = numbers_of(source->model.metadata(), kTensorData);
  if (source->model.tensors().size() == 1 && source->inputs.size() == 1 && source->data.size() == 1)
    if (auto tensor = find_in(source, wanted, inputs)) return tensor;
  cache_->forget(inputs);
  return std::nullopt;
}

}  // namespace quantfit::optimizer

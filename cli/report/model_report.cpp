#include "cli/report/model_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "optimizer/llama_cpp/tensor_role.h"
#include "optimizer/output/model_writer.h"

namespace quantfit::cli {
namespace {

constexpr std::size_t kLongestText = 80;  // bytes of a string on one line
constexpr std::size_t kLongestArray = 8;  // numbers of an array on one line

ModelReport::Entry entry_of(const GgufKeyValue& value) {
  ModelReport::Entry entry;
  entry.key = value.key;
  if (const auto text = value.as_string()) {
    entry.value = std::string(*text);
    entry.text = text->substr(0, kLongestText);
    if (text->size() > kLongestText) entry.text += fmt::format("... ({} bytes)", text->size());
  } else if (value.type == GgufType::Array) {
    // A long array is not unpacked to be counted.
    const auto numbers = value.count <= kLongestArray ? value.as_int_array() : std::nullopt;
    entry.text =
        numbers ? fmt::format("[{}]", fmt::join(*numbers, ", ")) : fmt::format("array of {}", value.count);
  } else if (const auto flag = value.as_bool(); flag && value.type == GgufType::Bool) {
    entry.value = *flag;
    entry.text = *flag ? "true" : "false";
  } else if (const auto number = value.as_int()) {
    entry.value = *number;
    entry.text = std::to_string(*number);
  } else if (const auto real = value.as_double()) {
    entry.value = *real;
    entry.text = fmt::format("{:.9g}", *real);
  } else {
    entry.text = "?";
  }
  return entry;
}

}  // namespace

ModelReport make_model_report(const Model& model) {
  ModelReport report;
  for (const GgufShard& shard : model.shards()) {
    report.files.push_back({shard.path.string(), shard.file_bytes});
    report.file_bytes += shard.file_bytes;
  }
  report.gguf_version = model.shards()[0].version;
  report.architecture = model.architecture();
  if (const auto name = model.metadata().string("general.name")) report.name = std::string(*name);
  report.elements = model.total_elements();
  report.tensor_bytes = model.total_tensor_bytes();
  report.bpw = bits_per_element(report.tensor_bytes, report.elements);
  report.formats = formats_used(model.tensors());
  for (const TensorInfo& tensor : model.tensors()) {
    ModelReport::Tensor row;
    row.name = tensor.name;
    row.role = optimizer::tensor_role(tensor.name);
    row.layer = optimizer::layer_of(tensor.name);
    row.shape.assign(tensor.ne.begin(), tensor.ne.begin() + std::max<std::uint32_t>(tensor.n_dims, 1));
    row.format = name_of(tensor.format);
    row.elements = tensor.elements();
    row.bytes = tensor.bytes;
    row.shard = static_cast<std::uint32_t>(tensor.shard);
    report.tensors.push_back(std::move(row));
  }
  for (const GgufKeyValue& value : model.metadata().all()) {
    report.metadata.push_back(entry_of(value));
    if (value.key.starts_with(optimizer::kOwnKeys)) report.provenance.push_back(report.metadata.back());
  }
  return report;
}

}  // namespace quantfit::cli

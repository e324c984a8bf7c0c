#include "optimizer/calibration/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

namespace quantfit::calibration {
namespace {

constexpr std::string_view kType = "quantfit.checkpoint";
constexpr std::string_view kStates = "layer_input";
constexpr std::string_view kSquares = ".in_sum2", kSums = ".in_sum", kCounts = ".counts";

GgufMetadata metadata_of(const CheckpointIdentity& identity, std::uint32_t layer) {
  GgufMetadata out;
  out.add(GgufKeyValue::of_string("general.type", kType));
  out.add(GgufKeyValue::of_string("checkpoint.model", identity.model));
  out.add(GgufKeyValue::of_string("checkpoint.text", identity.text));
  out.add(GgufKeyValue::of_uint32("checkpoint.engine_version", identity.engine_version));
  out.add(GgufKeyValue::of_uint32("checkpoint.layer", layer));
  return out;
}

template <class T>
std::vector<T> values_of(const Model& file, const TensorInfo& tensor) {
  const std::span<const std::byte> bytes = file.data(tensor);
  std::vector<T> out(bytes.size() / sizeof(T));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
  return out;
}

}  // namespace

std::optional<Checkpoint> Checkpoint::open(const std::filesystem::path& path,
                                           const CheckpointIdentity& identity) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return std::nullopt;
  auto file = Model::open(path);
  if (!file) return std::nullopt;
  Checkpoint out(std::move(file).value());
  const GgufMetadata& metadata = out.file_.metadata();
  const TensorInfo* states = out.file_.find(kStates);
  if (metadata.string("general.type") != kType || metadata.string("checkpoint.model") != identity.model ||
      metadata.string("checkpoint.text") != identity.text ||
      metadata.uint("checkpoint.engine_version") != identity.engine_version || states == nullptr ||
      states->format != Format::F32 || states->ne[0] != identity.width || states->rows() != identity.tokens)
    return std::nullopt;
  const std::optional<std::uint64_t> layer = metadata.uint("checkpoint.layer");
  if (!layer || *layer > 0xFFFFFFFFU) return std::nullopt;
  out.layer_ = static_cast<std::uint32_t>(*layer);
  for (const TensorInfo& tensor : out.file_.tensors()) {
    if (!tensor.name.ends_with(kSquares)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSquares.size());
    const TensorInfo* sums = out.file_.find(name + std::string(kSums));
    const TensorInfo* counts = out.file_.find(name + std::string(kCounts));
    if (tensor.format != Format::F64 || sums == nullptr || sums->format != Format::F64 || counts == nullptr ||
        counts->format != Format::I64 || sums->elements() != tensor.elements() || counts->elements() == 0 ||
        tensor.elements() % counts->elements() != 0)
      return std::nullopt;
    out.sums_.emplace(
        name, ImportanceSums{values_of<double>(out.file_, tensor), values_of<double>(out.file_, *sums),
                             values_of<std::uint64_t>(out.file_, *counts)});
  }
  return out;
}

Result<void> Checkpoint::layer_input(std::uint64_t first_token, kernels::MatrixView<float> rows) const {
  const TensorInfo& states = *file_.find(kStates);
  for (std::size_t t = 0; t < rows.rows; ++t) {
    const std::span<const std::byte> row = file_.row(states, first_token + t);
    std::memcpy(rows.row(t), row.data(), row.size());
  }
  return outcome::success();
}

Result<CheckpointWriter> CheckpointWriter::create(const std::filesystem::path& path,
                                                  const CheckpointIdentity& identity, std::uint32_t layer,
                                                  const FinishedSums& sums) {
  std::vector<TensorInfo> infos;
  const auto add = [&](std::string name, Format format, std::uint64_t columns, std::uint64_t rows) {
    TensorInfo info;
    info.name = std::move(name);
    info.n_dims = 2;
    info.ne = {columns, rows, 1, 1};
    info.format = format;
    infos.push_back(std::move(info));
  };
  for (const auto& [name, one] : sums) {
    const std::uint64_t matrices = one.counts.size();
    const std::uint64_t columns = one.sum_squares.size() / matrices;
    add(name + std::string(kSquares), Format::F64, columns, matrices);
    add(name + std::string(kSums), Format::F64, columns, matrices);
    add(name + std::string(kCounts), Format::I64, 1, matrices);
  }
  add(std::string(kStates), Format::F32, identity.width, identity.tokens);
  QF_ASSIGN(GgufWriter writer, GgufWriter::create(path, metadata_of(identity, layer), infos));
  for (const auto& [name, one] : sums) {
    QF_TRY(writer.append(std::as_bytes(std::span(one.sum_squares))));
    QF_TRY(writer.append(std::as_bytes(std::span(one.sums))));
    QF_TRY(writer.append(std::as_bytes(std::span(one.counts))));
  }
  return CheckpointWriter(std::move(writer), identity.tokens);
}

Result<void> CheckpointWriter::append(kernels::MatrixView<const float> rows) {
  for (std::size_t t = 0; t < rows.rows; ++t)
    QF_TRY(writer_.append(std::as_bytes(std::span(rows.row(t), rows.columns))));
  left_ -= std::min<std::uint64_t>(left_, rows.rows);
  return left_ == 0 ? writer_.commit() : outcome::success();
}

}  // namespace quantfit::calibration

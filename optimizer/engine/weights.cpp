#include "optimizer/engine/weights.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "kernels/validate.h"

namespace quantfit::engine {
namespace {

const FormatTraits& traits_of(const TensorInfo& tensor) {
  return traits(tensor.format);
}

}  // namespace

std::span<const std::byte> Weights::data(const TensorInfo& tensor) const {
  if (!replaced_.empty())
    if (const auto found = replaced_.find(&tensor); found != replaced_.end()) return found->second;
  return model_->data(tensor);
}

kernels::WeightRows Weights::rows(const Matrix& matrix, std::uint32_t index, std::size_t first,
                                  std::size_t rows) const {
  const TensorInfo& tensor = *matrix.tensor;
  const FormatTraits& format = traits_of(tensor);
  kernels::WeightRows out;
  out.row_bytes = tensor.ne[0] / format.block_len * format.block_bytes;
  out.data = data(tensor).data() + (std::size_t{index} * matrix.rows + first) * out.row_bytes;
  out.rows = rows;
  out.columns = tensor.ne[0];
  out.block_columns = format.block_len;
  out.block_bytes = format.block_bytes;
  out.decode = kernels_->decode[static_cast<std::size_t>(tensor.format)];
  out.rounding = rounding_of(tensor.format, arithmetic_);
  return out;
}

void Weights::decode(const TensorInfo& tensor, std::uint64_t row, float* out) const {
  const FormatTraits& format = traits_of(tensor);
  const std::uint64_t row_bytes = tensor.ne[0] / format.block_len * format.block_bytes;
  kernels_->decode[static_cast<std::size_t>(tensor.format)](data(tensor).data() + row * row_bytes,
                                                            tensor.ne[0], out);
}

Result<void> Weights::validate(std::span<const TensorInfo* const> tensors, Workers& workers,
                               const CancellationToken& cancel) const {
  struct Piece {
    const TensorInfo* tensor;
    std::uint64_t first, rows;
  };
  std::vector<Piece> pieces;
  for (const TensorInfo* tensor : tensors) {
    const std::uint64_t row_size =
        std::max<std::uint64_t>(1, tensor->bytes / std::max<std::uint64_t>(1, tensor->rows()));
    const std::uint64_t step = std::max<std::uint64_t>(1, (1U << 20) / row_size);
    for (std::uint64_t first = 0; first < tensor->rows(); first += step)
      pieces.push_back({tensor, first, std::min(step, tensor->rows() - first)});
  }
  // The first bad piece in file order, whatever the threads did.
  std::atomic<std::size_t> bad{std::numeric_limits<std::size_t>::max()};
  workers.for_each(pieces.size(), [&](std::size_t i, float*) {
    if (cancel.cancelled() || i > bad.load(std::memory_order_relaxed)) return;
    const Piece& piece = pieces[i];
    const std::uint64_t row_size = piece.tensor->bytes / piece.tensor->rows();
    const auto bytes = data(*piece.tensor).subspan(piece.first * row_size, piece.rows * row_size);
    if (!kernels::first_invalid_block(piece.tensor->format, bytes)) return;
    std::size_t seen = bad.load();
    while (i < seen && !bad.compare_exchange_weak(seen, i)) {
    }
  });
  if (cancel.cancelled()) return fail(ErrorCode::Interrupted, "interrupted");
  if (bad.load() == std::numeric_limits<std::size_t>::max()) return outcome::success();
  const Piece& piece = pieces[bad.load()];
  for (std::uint64_t row = piece.first; row < piece.first + piece.rows; ++row) {
    const std::uint64_t row_size = piece.tensor->bytes / piece.tensor->rows();
    if (!kernels::first_invalid_block(piece.tensor->format,
                                      data(*piece.tensor).subspan(row * row_size, row_size)))
      continue;
    return fail(ErrorCode::Malformed, "{}: tensor '{}', row {}: a weight is not a finite number",
                model_->shards()[piece.tensor->shard].path.string(), piece.tensor->name, row);
  }
  return fail(ErrorCode::Internal, "tensor '{}' changed while it was read", piece.tensor->name);
}

void Weights::will_need(std::span<const TensorInfo* const> tensors) const {
  for (const TensorInfo* tensor : tensors)
    if (!replaced_.contains(tensor)) model_->will_need(model_->data(*tensor));
}

void Weights::done_with(std::span<const TensorInfo* const> tensors) const {
  for (const TensorInfo* tensor : tensors)
    if (!replaced_.contains(tensor)) model_->done_with(model_->data(*tensor));
}

const float* Parameters::values(const TensorInfo* tensor) {
  if (tensor == nullptr) return nullptr;
  std::vector<float>& out = decoded_[tensor];
  if (out.empty()) {
    out.resize(tensor->elements());
    for (std::uint64_t row = 0; row < tensor->rows(); ++row)
      weights_->decode(*tensor, row, out.data() + row * tensor->ne[0]);
  }
  return out.data();
}

const float* Parameters::taps(const TensorInfo* tensor, std::size_t taps, std::size_t slice) {
  const float* stored = values(tensor);
  std::vector<float>& out = transposed_[tensor];
  if (out.empty()) {
    const std::size_t channels = tensor->elements() / taps;
    out.resize(tensor->elements());
    for (std::size_t begin = 0; begin < channels; begin += slice) {
      const std::size_t width = std::min(slice, channels - begin);
      for (std::size_t j = 0; j < taps; ++j)
        for (std::size_t c = 0; c < width; ++c)
          out[begin * taps + j * width + c] = stored[(begin + c) * taps + j];
    }
  }
  return out.data();
}

}  // namespace quantfit::engine

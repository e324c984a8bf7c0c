#include "core/fingerprint.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "core/digest.h"

namespace quantfit {
namespace {

constexpr std::uint64_t kPieceBytes = 4096;
constexpr std::uint64_t kPieces = 24;  // per tensor
// At a time, where all of a tensor is read.
constexpr std::size_t kReadBytes = std::size_t{16} << 20;

// The pieces of a tensor's data that are hashed: all of it when it is small.
std::vector<std::span<const std::byte>> pieces_of(std::span<const std::byte> data) {
  if (data.size() <= kPieces * kPieceBytes) return {data};
  std::vector<std::span<const std::byte>> pieces;
  const std::uint64_t last = data.size() - kPieceBytes;  // where the last piece begins
  const std::uint64_t whole = last / (kPieces - 1);
  const std::uint64_t rest = last % (kPieces - 1);
  for (std::uint64_t i = 0; i < kPieces; ++i)  // floor(i * last / (kPieces - 1)) without overflow
    pieces.push_back(data.subspan(i * whole + i * rest / (kPieces - 1), kPieceBytes));
  return pieces;
}

}  // namespace

std::string fingerprint(const Model& model) {
  const auto tensors = model.tensors();
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) -> std::string_view { return tensors[i].name; });

  const auto request = [&](std::size_t rank) {
    if (rank >= order.size()) return;
    for (const auto piece : pieces_of(model.data(tensors[order[rank]]))) model.will_need(piece);
  };
  // Requests run this many tensors ahead, so that the disk has many reads to order at a time.
  constexpr std::size_t kAhead = 4;
  for (std::size_t rank = 0; rank < kAhead; ++rank) request(rank);

  Digest digest;
  digest.text("quantfit model 1");
  digest.number(tensors.size());
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    request(rank + kAhead);
    const TensorInfo& tensor = tensors[order[rank]];
    digest.text(tensor.name);
    for (const std::uint64_t extent : tensor.ne) digest.number(extent);
    digest.number(static_cast<std::uint64_t>(tensor.format));
    const auto data = model.data(tensor);
    digest.number(data.size());
    for (const auto piece : pieces_of(data)) digest.bytes(piece);
  }
  return digest.hex();
}

void WeightsDigest::add(const TensorInfo& tensor, std::string_view bytes) {
  Digest digest;
  digest.text(tensor.name);
  for (const std::uint64_t extent : tensor.ne) digest.number(extent);
  digest.number(static_cast<std::uint64_t>(tensor.format));
  digest.text(bytes);
  tensors_.insert_or_assign(tensor.name, digest.hex());
}

std::string WeightsDigest::hex() const {
  Digest digest;
  digest.text("quantfit weights 1");
  digest.number(tensors_.size());
  for (const auto& [name, tensor] : tensors_) digest.text(tensor);
  return digest.hex();
}

std::string data_digest(const Model& model, const TensorInfo& tensor) {
  Digest digest;
  const auto all = model.data(tensor);
  const auto piece = [&](std::size_t begin) {
    return all.subspan(begin, std::min<std::size_t>(kReadBytes, all.size() - begin));
  };
  model.will_need(piece(0));
  for (std::size_t begin = 0; begin < all.size(); begin += kReadBytes) {
    if (begin + kReadBytes < all.size()) model.will_need(piece(begin + kReadBytes));
    digest.bytes(piece(begin));
    model.done_with(piece(begin));
  }
  return digest.hex();
}

Result<std::string> weights_digest(const Model& model, ProgressSink& progress,
                                   const CancellationToken& cancel) {
  const ModelWatch watch(model);
  progress.begin("reading", model.total_elements());
  WeightsDigest digest;
  for (const TensorInfo& tensor : model.tensors()) {
    if (cancel.cancelled()) break;
    if (tensor.bytes != 0) digest.add(tensor, data_digest(model, tensor));
    progress.advance(tensor.elements(), tensor.name);
  }
  progress.end();
  if (cancel.cancelled())
    return fail(ErrorCode::Interrupted, "interrupted while reading {}", model.shards().front().path.string());
  QF_TRY(watch.check());
  return digest.hex();
}

std::string fingerprint(const ImportanceMatrix& importance) {
  Digest digest;
  digest.text("quantfit importance 1");
  digest.number(importance.entries().size());
  for (const auto& [name, entry] : importance.entries()) {
    digest.text(name);
    digest.number(entry.matrices);
    digest.number(entry.sum_squares.size());
    digest.bytes(entry.sum_squares.bytes());
    digest.number(entry.sums.size());
    digest.bytes(entry.sums.bytes());
    digest.values(entry.counts);
  }
  return digest.hex();
}

}  // namespace quantfit

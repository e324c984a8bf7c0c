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

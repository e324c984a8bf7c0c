#include "core/fingerprint.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

namespace quantfit {
namespace {

constexpr std::uint64_t kPieceBytes = 4096;
constexpr std::uint64_t kPieces = 24;  // per tensor

class Hash {
 public:
  Hash() : state_(XXH3_createState()) { XXH3_128bits_reset(state_.get()); }

  void bytes(std::span<const std::byte> data) { XXH3_128bits_update(state_.get(), data.data(), data.size()); }
  void number(std::uint64_t value) { bytes(std::as_bytes(std::span(&value, 1))); }
  void text(std::string_view value) {
    number(value.size());
    bytes(std::as_bytes(std::span(value)));
  }
  template <class T>
  void values(const std::vector<T>& all) {
    number(all.size());
    bytes(std::as_bytes(std::span(all)));
  }

  [[nodiscard]] std::string digest() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    std::string hex;
    for (const unsigned char byte : canonical.digest) hex += fmt::format("{:02x}", byte);
    return hex;
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

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

  Hash hash;
  hash.text("quantfit model 1");
  hash.number(tensors.size());
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    request(rank + kAhead);
    const TensorInfo& tensor = tensors[order[rank]];
    hash.text(tensor.name);
    for (const std::uint64_t extent : tensor.ne) hash.number(extent);
    hash.number(static_cast<std::uint64_t>(tensor.format));
    const auto data = model.data(tensor);
    hash.number(data.size());
    for (const auto piece : pieces_of(data)) hash.bytes(piece);
  }
  return hash.digest();
}

std::string fingerprint(const ImportanceMatrix& importance) {
  Hash hash;
  hash.text("quantfit importance 1");
  hash.number(importance.entries().size());
  for (const auto& [name, entry] : importance.entries()) {
    hash.text(name);
    hash.number(entry.matrices);
    hash.values(entry.sum_squares);
    hash.values(entry.sums);
    hash.values(entry.counts);
  }
  return hash.digest();
}

}  // namespace quantfit

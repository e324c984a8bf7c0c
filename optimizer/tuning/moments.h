// Adam's two moments of many numbers, whole or in a byte each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace quantfit::tuning {

enum class MomentForm : std::uint8_t {
  Whole,  // binary32
  Bytes,  // a byte each
};

// "whole", "bytes".
[[nodiscard]] std::string_view to_string(MomentForm form);

// In blocks of equal length. In bytes: of a block the exponent of the largest number is kept, and of each
// number how far it lies below: 3 bits of mantissa, and 4 of exponent with a sign for means, 5 without for
// squares. What lies between two such numbers goes to either with the chance that keeps its expectation (an
// unmoved moment of slow decay would be rounded back to itself for ever); the chance follows from step and
// place, so that runs repeat.
class Moments {
 public:
  // `block`: at most 256.
  Moments(std::size_t blocks, std::size_t block, MomentForm form);

  // Where the moments of a block lie; null where they are in bytes: load and store them then.
  struct Whole {
    float *mean, *square;
  };
  [[nodiscard]] Whole whole(std::size_t block) {
    if (!exponents_.empty()) return {nullptr, nullptr};
    return {mean_.data() + block * block_, square_.data() + block * block_};
  }
  void load(std::size_t block, float* mean, float* square) const;
  // `square` is not negative. Blocks may be stored at the same time.
  void store(std::size_t block, const float* mean, const float* square, std::uint64_t step);

  // Everything there is.
  [[nodiscard]] std::vector<std::span<std::byte>> state();
  [[nodiscard]] static std::uint64_t memory(std::size_t blocks, std::size_t block, MomentForm form);

 private:
  std::size_t block_;
  std::vector<float> mean_, square_;                       // whole
  std::vector<std::uint8_t> means_, squares_, exponents_;  // in bytes; two exponents of each block
};

}  // namespace quantfit::tuning

// The codes of a block: what says which level each weight has, apart from scales, minimums and signs. With
// those fixed, w = slope * level + base for every weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/format.h"

namespace quantfit::kernels {

// How a format's codes stand for levels: code c for `group` neighbouring weights that have the levels
// c * group .. of `levels`. Where group is above one, levels are magnitudes above zero, bases are zero and
// signs stand apart.
struct CodeShape {
  std::size_t count = 0;  // of codes; 0: a format whose codes stay as they are (IQ1, ternary ones, Q8_0)
  std::size_t group = 1;
  float spacing = 1;     // usual distance of neighbouring levels
  bool uniform = false;  // level c is c
  std::span<const float> levels;
};

inline constexpr std::size_t kMostBlockWeights = 256;

[[nodiscard]] const CodeShape& code_shape(Format format);

// block_len / group codes of a block, in the order of weights; for formats with codes only.
void get_codes(Format format, const std::byte* block, std::uint16_t* codes);
// Nothing else of the block changes. Codes below `count` are the caller's promise.
void set_codes(Format format, std::byte* block, const std::uint16_t* codes);

}  // namespace quantfit::kernels

// The binary16 numbers of a block that all its weights are linear in: w = sum over k of s_k u_k, where u_k is
// what the block decodes to when s_k is 1 and the others are 0.
#pragma once

#include <cstddef>

#include "core/format.h"

namespace quantfit::kernels {

inline constexpr std::size_t kMostBlockScales = 2;

// How many such numbers a block of the format has: 2 with a minimum or offset, 1 without; 0 for formats whose
// scales are no binary16 numbers (MXFP4, NVFP4) and for those without blocks.
[[nodiscard]] std::size_t block_scales(Format format);

// Number k < block_scales(format) of a block: the scale, then the minimum or offset.
[[nodiscard]] float block_scale(Format format, const std::byte* block, std::size_t k);
// Rounds to nearest even; |value| below 65520, from where it would become infinite, is the caller's promise.
void set_block_scale(Format format, std::byte* block, std::size_t k, float value);

}  // namespace quantfit::kernels

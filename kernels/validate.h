// Whether stored blocks can be decoded to meaningful numbers: the check of a source before it is trusted, and
// of our own output.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/format.h"

namespace quantfit::kernels {

// Index of the first block that breaks its format's rule, or nothing when all are valid. Rules: scales and
// offsets stored as half are finite, an E8M0 exponent is not 255, every F16, BF16, F32 and F64 element is
// finite; integers and NVFP4 are always valid. `bytes` must be a whole number of blocks (a rest is not looked
// at). Q8_1 and Q8_K, which no file holds, are judged by their scales too.
[[nodiscard]] std::optional<std::size_t> first_invalid_block(Format format, std::span<const std::byte> bytes);

// The same as an error: ShapeMismatch when `bytes` is not a whole number of blocks, Malformed naming the
// block when one is invalid. The caller knows which tensor and row the bytes are and adds it to the message.
[[nodiscard]] Result<void> validate_blocks(Format format, std::span<const std::byte> bytes);

}  // namespace quantfit::kernels

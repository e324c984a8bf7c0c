// Arithmetic of the GGUF container that reading and writing share.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "core/format.h"
#include "core/tensor_info.h"

namespace quantfit {

inline constexpr std::array<char, 4> kGgufMagic = {'G', 'G', 'U', 'F'};
inline constexpr std::uint32_t kGgufVersion = 3;
inline constexpr std::uint64_t kGgufHeaderBytes = 24;  // magic, version, two counts
inline constexpr std::uint32_t kGgufDefaultAlignment = 32;
inline constexpr std::uint32_t kGgufMaxAlignment = 1U << 20;
inline constexpr std::uint64_t kGgufMaxNameBytes = 63;
inline constexpr std::uint32_t kGgufMaxDims = 4;
// Of everything before the data section: bounds what reading a header costs, whatever it claims. The largest
// known is below 32 MiB.
inline constexpr std::uint64_t kGgufMaxHeaderBytes = std::uint64_t{256} << 20;
inline constexpr std::uint64_t kGgufMaxLength = std::uint64_t{1}
                                                << 30;  // of strings (bytes) and arrays (elements)
inline constexpr std::string_view kAlignmentKey = "general.alignment";

// Bytes of a tensor of these dims, 0 when one of them is 0. ShapeMismatch when the product of the other dims
// reaches 2^63 (so that no partial product of dims can overflow), when a row is not a whole number of blocks,
// or when the bytes exceed 64 bits.
[[nodiscard]] Result<std::uint64_t> checked_tensor_bytes(Format format,
                                                         const std::array<std::uint64_t, 4>& ne);

}  // namespace quantfit

#include "kernels/validate.h"

#include <cstdint>
#include <cstring>

#include "kernels/blocks.h"

namespace quantfit::kernels {
namespace {

template <class Block>
bool is_valid(const Block& block) {
  return block.d.finite();
}

bool is_valid(const BlockQ4_1& block) {
  return block.d.finite() && block.m.finite();
}
bool is_valid(const BlockQ5_1& block) {
  return block.d.finite() && block.m.finite();
}
bool is_valid(const BlockQ2_K& block) {
  return block.d.finite() && block.dmin.finite();
}
bool is_valid(const BlockQ4_K& block) {
  return block.d.finite() && block.dmin.finite();
}
bool is_valid(const BlockQ5_K& block) {
  return block.d.finite() && block.dmin.finite();
}
bool is_valid(const BlockIQ1_M& block) {
  return (block.d_pattern() & 0x7C00U) != 0x7C00U;
}
bool is_valid(const BlockMXFP4& block) {
  return block.e != 255;
}

bool is_valid(const Half& element) {
  return element.finite();
}
// BF16: the upper half of a binary32.
bool is_valid(const U16& element) {
  return (element.get() & 0x7F80U) != 0x7F80U;
}
bool is_valid(const U32& element) {
  return (element.get() & 0x7F800000U) != 0x7F800000U;
}

struct ElementF64 {
  std::array<std::uint8_t, 8> bytes;
};
bool is_valid(const ElementF64& element) {
  return (element.bytes[7] & 0x7F) != 0x7F || (element.bytes[6] & 0xF0) != 0xF0;
}

// Scale first: half (Q8_1, with the scaled sum behind it) or binary32 (Q8_K).
struct BlockQ8_1 {
  Half d;
  Half s;
  std::array<std::int8_t, 32> qs;
};
static_assert(sizeof(BlockQ8_1) == 36);
bool is_valid(const BlockQ8_1& block) {
  return block.d.finite() && block.s.finite();
}

struct BlockQ8_K {
  U32 d;
  std::array<std::uint8_t, 288> rest;
};
static_assert(sizeof(BlockQ8_K) == 292);
bool is_valid(const BlockQ8_K& block) {
  return is_valid(block.d);
}

template <class Block>
std::optional<std::size_t> first_invalid(std::span<const std::byte> bytes) {
  const auto* blocks = reinterpret_cast<const Block*>(bytes.data());
  const std::size_t count = bytes.size() / sizeof(Block);
  // Chunks without early exit vectorize; only a chunk with an invalid block is looked at again.
  constexpr std::size_t kChunk = 256;
  for (std::size_t begin = 0; begin < count; begin += kChunk) {
    const std::size_t end = begin + kChunk < count ? begin + kChunk : count;
    bool valid = true;
    for (std::size_t b = begin; b < end; ++b) valid &= is_valid(blocks[b]);
    if (valid) continue;
    for (std::size_t b = begin; b < end; ++b) {
      if (!is_valid(blocks[b])) return b;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::size_t> first_invalid_block(Format format, std::span<const std::byte> bytes) {
  switch (format) {
    case Format::F32:
      return first_invalid<U32>(bytes);
    case Format::F16:
      return first_invalid<Half>(bytes);
    case Format::BF16:
      return first_invalid<U16>(bytes);
    case Format::F64:
      return first_invalid<ElementF64>(bytes);
    case Format::Q4_0:
      return first_invalid<BlockQ4_0>(bytes);
    case Format::Q4_1:
      return first_invalid<BlockQ4_1>(bytes);
    case Format::Q5_0:
      return first_invalid<BlockQ5_0>(bytes);
    case Format::Q5_1:
      return first_invalid<BlockQ5_1>(bytes);
    case Format::Q8_0:
      return first_invalid<BlockQ8_0>(bytes);
    case Format::Q8_1:
      return first_invalid<BlockQ8_1>(bytes);
    case Format::Q2_K:
      return first_invalid<BlockQ2_K>(bytes);
    case Format::Q3_K:
      return first_invalid<BlockQ3_K>(bytes);
    case Format::Q4_K:
      return first_invalid<BlockQ4_K>(bytes);
    case Format::Q5_K:
      return first_invalid<BlockQ5_K>(bytes);
    case Format::Q6_K:
      return first_invalid<BlockQ6_K>(bytes);
    case Format::Q8_K:
      return first_invalid<BlockQ8_K>(bytes);
    case Format::IQ2_XXS:
      return first_invalid<BlockIQ2_XXS>(bytes);
    case Format::IQ2_XS:
      return first_invalid<BlockIQ2_XS>(bytes);
    case Format::IQ2_S:
      return first_invalid<BlockIQ2_S>(bytes);
    case Format::IQ3_XXS:
      return first_invalid<BlockIQ3_XXS>(bytes);
    case Format::IQ3_S:
      return first_invalid<BlockIQ3_S>(bytes);
    case Format::IQ1_S:
      return first_invalid<BlockIQ1_S>(bytes);
    case Format::IQ1_M:
      return first_invalid<BlockIQ1_M>(bytes);
    case Format::IQ4_NL:
      return first_invalid<BlockIQ4_NL>(bytes);
    case Format::IQ4_XS:
      return first_invalid<BlockIQ4_XS>(bytes);
    case Format::TQ1_0:
      return first_invalid<BlockTQ1_0>(bytes);
    case Format::TQ2_0:
      return first_invalid<BlockTQ2_0>(bytes);
    case Format::MXFP4:
      return first_invalid<BlockMXFP4>(bytes);
    case Format::Q1_0:
      return first_invalid<BlockQ1_0>(bytes);
    case Format::Q2_0:
      return first_invalid<BlockQ2_0>(bytes);
    case Format::NVFP4:
    case Format::I8:
    case Format::I16:
    case Format::I32:
    case Format::I64:
      return std::nullopt;
  }
  return std::nullopt;
}

Result<void> validate_blocks(Format format, std::span<const std::byte> bytes) {
  const std::size_t block_bytes = traits(format).block_bytes;
  if (bytes.size() % block_bytes != 0)
    return fail(ErrorCode::ShapeMismatch, "{} bytes are not a whole number of {} blocks of {} bytes",
                bytes.size(), name_of(format), block_bytes);
  if (const auto block = first_invalid_block(format, bytes))
    return fail(ErrorCode::Malformed, "{} block {} holds a scale or value that is not a finite number",
                name_of(format), *block);
  return outcome::success();
}

}  // namespace quantfit::kernels

#include "kernels/block_scales.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/half.h"

namespace quantfit::kernels {
namespace {

struct ScaleFields {
  std::size_t count = 0;
  std::array<std::size_t, kMostBlockScales> offset{};
};

template <class Block>
constexpr ScaleFields scale_at() {
  return {1, {offsetof(Block, d)}};
}

// IQ1_M, whose scale is scattered, is not among them.
constexpr ScaleFields fields_of(Format format) {
  switch (format) {
    case Format::Q4_0:
      return scale_at<BlockQ4_0>();
    case Format::Q4_1:
      return {2, {offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m)}};
    case Format::Q5_0:
      return scale_at<BlockQ5_0>();
    case Format::Q5_1:
      return {2, {offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m)}};
    case Format::Q8_0:
      return scale_at<BlockQ8_0>();
    case Format::Q1_0:
      return scale_at<BlockQ1_0>();
    case Format::Q2_0:
      return scale_at<BlockQ2_0>();
    case Format::Q2_K:
      return {2, {offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)}};
    case Format::Q3_K:
      return scale_at<BlockQ3_K>();
    case Format::Q4_K:
      return {2, {offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin)}};
    case Format::Q5_K:
      return {2, {offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin)}};
    case Format::Q6_K:
      return scale_at<BlockQ6_K>();
    case Format::IQ2_XXS:
      return scale_at<BlockIQ2_XXS>();
    case Format::IQ2_XS:
      return scale_at<BlockIQ2_XS>();
    case Format::IQ2_S:
      return scale_at<BlockIQ2_S>();
    case Format::IQ3_XXS:
      return scale_at<BlockIQ3_XXS>();
    case Format::IQ3_S:
      return scale_at<BlockIQ3_S>();
    case Format::IQ1_S:
      return scale_at<BlockIQ1_S>();
    case Format::IQ4_NL:
      return scale_at<BlockIQ4_NL>();
    case Format::IQ4_XS:
      return scale_at<BlockIQ4_XS>();
    case Format::TQ1_0:
      return scale_at<BlockTQ1_0>();
    case Format::TQ2_0:
      return scale_at<BlockTQ2_0>();
    default:
      return {};
  }
}

}  // namespace

std::size_t block_scales(Format format) {
  return format == Format::IQ1_M ? 1 : fields_of(format).count;
}

float block_scale(Format format, const std::byte* block, std::size_t k) {
  if (format == Format::IQ1_M) return reinterpret_cast<const BlockIQ1_M*>(block)->d();
  Half half{};
  std::memcpy(&half, block + fields_of(format).offset[k], sizeof(half));
  return half.get();
}

void set_block_scale(Format format, std::byte* block, std::size_t k, float value) {
  if (format == Format::IQ1_M) {
    auto& one = *reinterpret_cast<BlockIQ1_M*>(block);
    std::array<std::uint8_t, 16> codes{};
    for (std::size_t b = 0; b < codes.size(); ++b) codes[b] = static_cast<std::uint8_t>(one.scale(b));
    one.set_scales(codes.data(), float_to_half(value));
    return;
  }
  Half half{};
  half.set(value);
  std::memcpy(block + fields_of(format).offset[k], &half, sizeof(half));
}

}  // namespace quantfit::kernels

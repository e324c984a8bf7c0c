// Conversions between binary32 and the 16-bit formats, bit for bit as
// block_formats.md section 3 defines them.
#pragma once

#include <bit>
#include <cstdint>

namespace quantfit::kernels {

// Exact; NaN patterns come out quiet with their payload shifted up.
[[nodiscard]] constexpr float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = std::uint32_t{half & 0x8000U} << 16;
  const std::uint32_t magnitude = half & 0x7FFFU;
  if (magnitude < 0x400U) {  // subnormal: mantissa * 2^-24
    const float value = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
  }
  if (magnitude >= 0x7C00U)
    return std::bit_cast<float>(sign | 0x7F800000U | (magnitude > 0x7C00U ? 0x400000U : 0U) |
                                (magnitude << 13));
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112U << 23)));  // the bias grows from 15 to 127
}

// Round to nearest even, gradual underflow, overflow to infinity from 65520 on, every NaN to sign | 0x7E00.
[[nodiscard]] constexpr std::uint16_t float_to_half(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // 65520 and above
  if (magnitude < 0x38800000U) {  // below 2^-14: subnormal half
    // Adding 0.5 * 2^0 aligns the mantissa so that one ulp is 2^-24, rounded to nearest even by the addition.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3F000000U));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

// The value a half field would hold after storing `value`.
[[nodiscard]] constexpr float round_to_half(float value) noexcept {
  return half_to_float(float_to_half(value));
}

[[nodiscard]] constexpr float bfloat16_to_float(std::uint16_t value) noexcept {
  return std::bit_cast<float>(std::uint32_t{value} << 16);
}

// Round to nearest even; NaN keeps its upper payload and becomes quiet.
[[nodiscard]] constexpr std::uint16_t float_to_bfloat16(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace quantfit::kernels

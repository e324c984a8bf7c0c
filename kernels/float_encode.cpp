// Encoders of F16 and BF16: rounding to nearest even. Rows may have any length.
//
// What would round to infinity becomes the largest finite number instead (65504, about 3.39e38): one weight
// beyond the range of the format must not make the whole tensor unusable.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

HWY_INLINE I pattern(std::uint32_t value) {
  return set(static_cast<std::int32_t>(value));
}

// Adds half a unit of the lowest kept bit, less one where that bit is even: ties go to even.
template <int kDropped>
HWY_INLINE I round_off(I magnitude) {
  const I half_less_one = pattern((1U << (kDropped - 1)) - 1U);
  return magnitude + half_less_one + (shift_right<kDropped>(magnitude) & pattern(1));
}

HWY_INLINE I to_half(F x) {
  const I sign = shift_right<16>(bits_of(x)) & pattern(0x8000U);
  const I magnitude = min(bits_of(x) & pattern(0x7FFFFFFFU), pattern(0x477FE000U));  // at most 65504
  const I normal = shift_right<13>(round_off<13>(magnitude) - pattern(0x38000000U));
  // Below 2^-14: adding 0.5 makes one unit in the last place 2^-24, the spacing of subnormal halves, so that
  // the addition itself rounds.
  const I subnormal = bits_of(float_of_bits(magnitude) + set(0.5F)) - pattern(0x3F000000U);
  return sign | select(magnitude < pattern(0x38800000U), subnormal, normal);
}

HWY_INLINE I to_bfloat16(F x) {
  const I sign = shift_right<16>(bits_of(x)) & pattern(0x8000U);
  const I magnitude = min(bits_of(x) & pattern(0x7FFFFFFFU), pattern(0x7F7F0000U));
  return sign | shift_right<16>(round_off<16>(magnitude));
}

// The row is padded with zeros to a multiple of 16; of the last group only the part
// inside the row is written.
template <I (*kConvert)(F)>
void encode(const PreparedRow& row, Effort, std::byte* out) {
  for (std::size_t j = 0; j < row.columns; j += 16) {
    HWY_ALIGN std::uint16_t patterns[16];
    store_u16(kConvert(load(row.x + j)), patterns);
    const std::size_t left = row.columns - j;
    std::memcpy(out + 2 * j, patterns, left < 16 ? 2 * left : sizeof(patterns));
  }
}

}  // namespace

void fill_float_encoders(RowKernels& table) {
  table.encode[static_cast<std::size_t>(Format::F16)] = encode<to_half>;
  table.encode[static_cast<std::size_t>(Format::BF16)] = encode<to_bfloat16>;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

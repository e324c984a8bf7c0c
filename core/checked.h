// Arithmetic on sizes that come from files and requests: what does not fit into 64 bits is nothing, or stays
// at the largest number.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>

namespace quantfit {

// What a saturated sum or product is; no size is.
inline constexpr std::uint64_t kSaturated = std::numeric_limits<std::uint64_t>::max();

[[nodiscard]] constexpr std::optional<std::uint64_t> checked_sum(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

// A factor of 0 makes the product 0, whatever the others.
template <class... Factors>
[[nodiscard]] constexpr std::optional<std::uint64_t> checked_product(Factors... factors) {
  std::uint64_t product = 1;
  bool overflow = false;
  for (const std::uint64_t factor : {static_cast<std::uint64_t>(factors)...}) {
    if (factor == 0) return 0;
    overflow |= __builtin_mul_overflow(product, factor, &product);
  }
  if (overflow) return std::nullopt;
  return product;
}

// The smallest multiple of `unit` (not 0) that is not below `value`.
[[nodiscard]] constexpr std::optional<std::uint64_t> checked_round_up(std::uint64_t value,
                                                                      std::uint64_t unit) {
  const std::uint64_t rest = value % unit;
  return rest == 0 ? value : checked_sum(value, unit - rest);
}

[[nodiscard]] constexpr std::uint64_t saturating_sum(std::uint64_t a, std::uint64_t b) {
  return checked_sum(a, b).value_or(kSaturated);
}
template <class... Factors>
[[nodiscard]] constexpr std::uint64_t saturating_product(Factors... factors) {
  return checked_product(factors...).value_or(kSaturated);
}
[[nodiscard]] constexpr std::uint64_t saturating_round_up(std::uint64_t value, std::uint64_t unit) {
  return checked_round_up(value, unit).value_or(kSaturated);
}

}  // namespace quantfit

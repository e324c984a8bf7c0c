// Sizes and bit rates as people write them, parsed exactly: integers and decimals, never floating point.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"

namespace quantfit {

// "23.5GiB", "24GB", "24G", "512", "1.5 MiB", in any case. K, M, G, T (with or without B) are powers of 1000;
// Ki, Mi, Gi, Ti powers of 1024: the same rule for every size. 1.1GiB is no whole number of bytes and rounds
// down. InvalidArgument for anything else: signs, unknown units, trailing text, fraction digits finer than a
// byte (1.2345KB), 2^63 bytes and more.
[[nodiscard]] Result<std::uint64_t> parse_byte_size(std::string_view text);

// Both ways of counting, rounded to the nearest hundredth: "23.50 GiB (25.23 GB)"; smaller sizes in MiB, KiB
// or bytes.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);

// A non-negative decimal as an exact fraction numerator / 10^digits.
struct Decimal {
  std::uint64_t numerator = 0;
  std::uint32_t digits = 0;  // after the point, at most 12 (14 where it was a percentage)
};
// "4.5678" is 45678 / 10^4. InvalidArgument for signs, exponents, blanks, more than
// 12 digits after the point.
[[nodiscard]] Result<Decimal> parse_decimal(std::string_view text);

// A share of a whole, above 0 and at most 1: "99.99%" or "0.9999", both 9999 / 10^4. InvalidArgument for
// anything else.
[[nodiscard]] Result<Decimal> parse_share(std::string_view text);
// ceil(share * bytes), exact; `share` at most 1.
[[nodiscard]] std::uint64_t share_of(std::uint64_t bytes, const Decimal& share);

// floor(bpw * elements / 8): the bytes that `elements` weights may take at `bpw` bits per weight.
// InvalidArgument when `bpw` is not a decimal above 0 and at most 64.
[[nodiscard]] Result<std::uint64_t> budget_for_bpw(std::uint64_t elements, std::string_view bpw);

}  // namespace quantfit

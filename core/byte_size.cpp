#include "core/byte_size.h"

#include <array>
#include <limits>

#include "core/checked.h"
#include "core/text.h"

namespace quantfit {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint32_t kMaxFractionDigits = 12;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

constexpr std::uint64_t power_of_ten(std::uint32_t exponent) {
  std::uint64_t power = 1;
  while (exponent-- > 0) power *= 10;
  return power;
}

// Splits the leading decimal off `text`.
Result<Decimal> take_decimal(std::string_view& text, std::string_view whole) {
  Decimal decimal;
  std::size_t i = 0;
  bool any = false;
  bool fraction = false;
  for (; i < text.size(); ++i) {
    if (text[i] == '.' && !fraction) {
      fraction = true;
      continue;
    }
    if (!is_digit(text[i])) break;
    any = true;
    if (fraction && decimal.digits == kMaxFractionDigits)
      return fail(ErrorCode::InvalidArgument, "'{}' has more than {} digits after the point", whole,
                  kMaxFractionDigits);
    const auto tenfold = checked_product(decimal.numerator, 10);
    const auto next = tenfold ? checked_sum(*tenfold, static_cast<std::uint64_t>(text[i] - '0')) : tenfold;
    if (!next) return fail(ErrorCode::InvalidArgument, "'{}' is too large", whole);
    decimal.numerator = *next;
    if (fraction) ++decimal.digits;
  }
  if (!any) return fail(ErrorCode::InvalidArgument, "'{}' does not start with a number", whole);
  text.remove_prefix(i);
  return decimal;
}

struct Unit {
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::uint64_t kKi = 1024;
constexpr std::array kUnits = {
    Unit{"", 1},
    Unit{"b", 1},
    Unit{"k", 1000},
    Unit{"kb", 1000},
    Unit{"m", 1000 * 1000},
    Unit{"mb", 1000 * 1000},
    Unit{"g", 1000ULL * 1000 * 1000},
    Unit{"gb", 1000ULL * 1000 * 1000},
    Unit{"t", 1000ULL * 1000 * 1000 * 1000},
    Unit{"tb", 1000ULL * 1000 * 1000 * 1000},
    Unit{"ki", kKi},
    Unit{"kib", kKi},
    Unit{"mi", kKi* kKi},
    Unit{"mib", kKi* kKi},
    Unit{"gi", kKi* kKi* kKi},
    Unit{"gib", kKi* kKi* kKi},
    Unit{"ti", kKi* kKi* kKi* kKi},
    Unit{"tib", kKi* kKi* kKi* kKi},
};

// Whether the last digit after the point, trailing zeros aside, stands for less than a byte.
bool finer_than_a_byte(Decimal decimal, std::uint64_t unit) {
  while (decimal.digits > 0 && decimal.numerator % 10 == 0) {
    decimal.numerator /= 10;
    --decimal.digits;
  }
  return power_of_ten(decimal.digits) > unit;
}

// bytes / unit with two digits after the point, rounded to nearest.
std::string in_units(std::uint64_t bytes, std::uint64_t unit) {
  const auto hundredths = static_cast<std::uint64_t>((Wide{bytes} * 100 + unit / 2) / unit);
  return fmt::format("{}.{:02}", hundredths / 100, hundredths % 100);
}

}  // namespace

Result<std::uint64_t> parse_byte_size(std::string_view text) {
  std::string_view rest = text;
  QF_ASSIGN(const Decimal decimal, take_decimal(rest, text));
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  const std::string unit = to_lower(rest);
  for (const Unit& candidate : kUnits) {
    if (candidate.name != unit) continue;
    if (finer_than_a_byte(decimal, candidate.bytes))
      return fail(ErrorCode::InvalidArgument, "'{}' has more digits after the point than bytes can show",
                  text);
    const Wide bytes = Wide{decimal.numerator} * candidate.bytes / power_of_ten(decimal.digits);
    if (bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return fail(ErrorCode::InvalidArgument, "'{}' is too large", text);
    return static_cast<std::uint64_t>(bytes);
  }
  return fail(ErrorCode::InvalidArgument,
              "'{}': unknown unit '{}'; use B, K, M, G, T (1000) or Ki, Mi, Gi, Ti (1024)", text, rest);
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr std::uint64_t kMi = kKi * kKi;
  constexpr std::uint64_t kGi = kKi * kMi;
  if (bytes >= kGi) return fmt::format("{} GiB ({} GB)", in_units(bytes, kGi), in_units(bytes, 1000000000));
  if (bytes >= kMi) return fmt::format("{} MiB ({} MB)", in_units(bytes, kMi), in_units(bytes, 1000000));
  if (bytes >= kKi) return fmt::format("{} KiB ({} kB)", in_units(bytes, kKi), in_units(bytes, 1000));
  return fmt::format("{} bytes", bytes);
}

Result<Decimal> parse_decimal(std::string_view text) {
  std::string_view rest = text;
  QF_ASSIGN(const Decimal decimal, take_decimal(rest, text));
  if (!rest.empty()) return fail(ErrorCode::InvalidArgument, "'{}' is not a decimal number", text);
  return decimal;
}

Result<Decimal> parse_share(std::string_view text) {
  std::string_view rest = text;
  QF_ASSIGN(Decimal share, take_decimal(rest, text));
  const bool percent = rest == "%" || rest == " %";
  if (percent) share.digits += 2;
  if ((!rest.empty() && !percent) || share.numerator == 0 || share.numerator > power_of_ten(share.digits))
    return fail(ErrorCode::InvalidArgument,
                "'{}' is no share above 0 and at most 100%; write it as 99.99% or 0.9999", text);
  return share;
}

std::uint64_t share_of(std::uint64_t bytes, const Decimal& share) {
  const Wide scale = power_of_ten(share.digits);
  return static_cast<std::uint64_t>((Wide{bytes} * share.numerator + scale - 1) / scale);
}

Result<std::uint64_t> budget_for_bpw(std::uint64_t elements, std::string_view bpw) {
  QF_ASSIGN(const Decimal decimal, parse_decimal(bpw));
  const std::uint64_t scale = power_of_ten(decimal.digits);
  if (decimal.numerator == 0 || decimal.numerator / scale > 64 ||
      (decimal.numerator / scale == 64 && decimal.numerator % scale != 0))
    return fail(ErrorCode::InvalidArgument, "'{}' bits per weight: above 0 and at most 64 is possible", bpw);
  const Wide bytes = Wide{decimal.numerator} * elements / (Wide{scale} * 8);  // below 2^128: both below 2^64
  if (bytes > std::numeric_limits<std::uint64_t>::max())
    return fail(ErrorCode::InvalidArgument, "{} weights at {} bits exceed 64-bit sizes", elements, bpw);
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace quantfit

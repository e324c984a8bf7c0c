#include "core/byte_size.h"

#include <gtest/gtest.h>

#include <limits>

namespace quantfit {
namespace {

constexpr std::uint64_t kGi = std::uint64_t{1} << 30;

TEST(ByteSize, ParsesExactly) {
  const auto parsed = [](std::string_view text) {
    const auto result = parse_byte_size(text);
    EXPECT_TRUE(result) << text << ": " << result.error().message;
    return result ? result.value() : 0;
  };
  EXPECT_EQ(parsed("0"), 0U);
  EXPECT_EQ(parsed("512"), 512U);
  EXPECT_EQ(parsed("512b"), 512U);
  EXPECT_EQ(parsed("24G"), 24000000000U);
  EXPECT_EQ(parsed("24g"), 24000000000U);
  EXPECT_EQ(parsed("24GB"), 24000000000U);
  EXPECT_EQ(parsed("24Gi"), 24 * kGi);
  EXPECT_EQ(parsed("23.5GiB"), 47 * kGi / 2);
  EXPECT_EQ(parsed("23.5 gib"), 47 * kGi / 2);
  EXPECT_EQ(parsed(".5Ki"), 512U);
  EXPECT_EQ(parsed("5.K"), 5000U);
  EXPECT_EQ(parsed("1.000K"), 1000U);
  EXPECT_EQ(parsed("1.0"), 1U);
  EXPECT_EQ(parsed("0.1GB"), 100000000U);  // 0.1 has no exact binary fraction
  EXPECT_EQ(parsed("1.1GiB"), 1181116006U);
  EXPECT_EQ(parsed("1.000000001G"), 1000000001U);
  EXPECT_EQ(parsed("1.000000000001T"), 1000000000001U);
  EXPECT_EQ(parsed("2MB"), 2000000U);
  EXPECT_EQ(parsed("2MiB"), 2097152U);
  EXPECT_EQ(parsed("3TiB"), 3 * 1024 * kGi);
  EXPECT_EQ(parsed("9223372036854775807"), 9223372036854775807U);
}

TEST(ByteSize, RefusesWhatIsNotASize) {
  for (const char* text : {"",
                           "G",
                           "-1",
                           "+1",
                           "1.2.3",
                           ".",
                           "1e9",
                           "24GBx",
                           "24 G B",
                           "24 G ",
                           " 24G",
                           "0x10",
                           "1,5G",
                           "NaN",
                           "inf",
                           "1.5",
                           "1.2345KB",
                           "95%",
                           "1PiB",
                           "24iB",
                           "24Gib7",
                           "9223372036854775808",
                           "99999999999999999999",
                           "8388608TiB",
                           "1.0000000000001T"}) {
    const auto result = parse_byte_size(text);
    ASSERT_FALSE(result) << text << " gave " << result.value();
    EXPECT_EQ(result.error().code, ErrorCode::InvalidArgument);
    EXPECT_FALSE(result.error().message.empty());
  }
}

TEST(ByteSize, PrintsBothWaysOfCounting) {
  EXPECT_EQ(format_bytes(0), "0 bytes");
  EXPECT_EQ(format_bytes(1023), "1023 bytes");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB (1.54 kB)");
  EXPECT_EQ(format_bytes(47 * kGi / 2), "23.50 GiB (25.23 GB)");
  EXPECT_EQ(format_bytes(5 << 20), "5.00 MiB (5.24 MB)");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::uint64_t>::max()),
            "17179869184.00 GiB (18446744073.71 GB)");
}

TEST(ByteSize, DecimalsAreFractions) {
  const auto decimal = parse_decimal("4.5678");
  ASSERT_TRUE(decimal);
  EXPECT_EQ(decimal.value().numerator, 45678U);
  EXPECT_EQ(decimal.value().digits, 4U);
  for (const char* text : {"", "4.5x", "-4", "4e1", " 4", "4.1234567890123", "99999999999999999999"})
    EXPECT_FALSE(parse_decimal(text)) << text;
}

TEST(ByteSize, SharesAreExact) {
  for (const char* text : {"99.99%", "99.99 %", "0.9999"}) {
    const auto share = parse_share(text);
    ASSERT_TRUE(share) << text;
    EXPECT_EQ(share.value().numerator, 9999U);
    EXPECT_EQ(share.value().digits, 4U);
  }
  EXPECT_EQ(share_of(10000, parse_share("99.99%").value()), 9999U);
  EXPECT_EQ(share_of(10001, parse_share("99.99%").value()), 10000U);  // 9999.9999, rounded up
  EXPECT_EQ(share_of(0, parse_share("99.99%").value()), 0U);
  for (const char* all : {"100%", "1", "100.000%", "1.0"})
    EXPECT_EQ(share_of(UINT64_MAX, parse_share(all).value()), UINT64_MAX) << all;
  // No double holds this product.
  EXPECT_EQ(share_of(1000000000000000001U, parse_share("50%").value()), 500000000000000001U);
  EXPECT_EQ(share_of(UINT64_MAX, parse_share("0.000000000001%").value()), 184468U);
  for (const char* bad : {"",
                          "%",
                          "0",
                          "0%",
                          "0.0%",
                          "101%",
                          "100.000000000001%",
                          "1.000000000001",
                          "99.99",
                          "-1%",
                          "+1%",
                          "1e-1",
                          "99,9%",
                          "99.9%%",
                          "99.9 % ",
                          "99.9pct",
                          "nan",
                          "inf",
                          "0x1",
                          "0.0000000000001",
                          "99999999999999999999%"}) {
    const auto share = parse_share(bad);
    ASSERT_FALSE(share) << bad;
    EXPECT_EQ(share.error().code, ErrorCode::InvalidArgument);
  }
}

TEST(ByteSize, BudgetsAreExact) {
  EXPECT_EQ(budget_for_bpw(6819840, "4.5").value(), 3836160U);
  EXPECT_EQ(budget_for_bpw(3, "4.5678").value(), 1U);  // 13.7034 bits
  EXPECT_EQ(budget_for_bpw(8, "2.999999999999").value(), 2U);
  // 0.1 as a double is above 1/10: it would give one byte more here.
  EXPECT_EQ(budget_for_bpw(80000000000000000, "0.1").value(), 1000000000000000U);
  EXPECT_EQ(budget_for_bpw((std::uint64_t{1} << 62) + 7, "8").value(), (std::uint64_t{1} << 62) + 7);
  EXPECT_EQ(budget_for_bpw(0, "4").value(), 0U);
  for (const char* bpw : {"0", "0.000", "65", "64.1", "abc", "-3", "4.5bpw"})
    EXPECT_FALSE(budget_for_bpw(8, bpw)) << bpw;
  EXPECT_TRUE(budget_for_bpw(8, "64"));
  EXPECT_FALSE(budget_for_bpw(std::numeric_limits<std::uint64_t>::max(), "64"));
}

}  // namespace
}  // namespace quantfit

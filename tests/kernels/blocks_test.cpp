// Packing of bit fields: everything that is packed comes back, and the decoders read
// it as the encoders wrote it.
#include "kernels/blocks.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/codebooks.h"
#include "kernels/row_kernels.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

std::array<std::uint8_t, 256> random_codes(std::mt19937& random, unsigned limit) {
  std::array<std::uint8_t, 256> codes{};
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() % limit);
  return codes;
}

template <class Block>
std::array<float, 256> decode(Format format, const Block& block) {
  std::array<float, 256> out{};
  const DecodeRow decoder = runnable_kernels().front().decode[static_cast<std::size_t>(format)];
  decoder(reinterpret_cast<const std::byte*>(&block), 256, out.data());
  return out;
}

TEST(BlocksTest, FieldsAreLittleEndian) {
  U32 word{};
  word.set(0x12345678U);
  EXPECT_EQ(word.bytes, (std::array<std::uint8_t, 4>{0x78, 0x56, 0x34, 0x12}));
  EXPECT_EQ(word.get(), 0x12345678U);
  Half half{};
  half.set(1.0F);
  EXPECT_EQ(half.pattern.get(), 0x3C00U);
  EXPECT_EQ(half.get(), 1.0F);
}

TEST(BlocksTest, PackedCodesComeBack) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    std::array<std::uint8_t, 256> back{};
    std::array<std::uint8_t, 128> bytes{};

    const auto nibbles = random_codes(random, 16);
    for (const std::size_t count : {16U, 32U, 64U, 128U}) {
      pack_nibbles(nibbles.data(), count, bytes.data());
      unpack_nibbles(bytes.data(), count, back.data());
      EXPECT_EQ(std::memcmp(back.data(), nibbles.data(), count), 0) << count;
    }
    pack_4_bit(nibbles.data(), bytes.data());
    unpack_4_bit(bytes.data(), back.data());
    EXPECT_EQ(back, nibbles);

    const auto pairs = random_codes(random, 4);
    pack_2_bit(pairs.data(), bytes.data());
    unpack_2_bit(bytes.data(), back.data());
    EXPECT_EQ(back, pairs);

    const auto five_bits = random_codes(random, 32);
    auto low = five_bits;
    for (std::uint8_t& code : low) code &= 15;
    pack_high_bits(five_bits.data(), 4, bytes.data());
    unpack_high_bits(bytes.data(), 4, low.data());
    EXPECT_EQ(low, five_bits);
    const std::uint32_t fifth = pack_fifth_bits(five_bits.data());
    for (unsigned i = 0; i < 32; ++i) EXPECT_EQ((fifth >> i) & 1U, unsigned{five_bits[i]} >> 4);

    const auto six_bits = random_codes(random, 64);
    BlockQ6_K q6{};
    pack_q6_k(six_bits.data(), q6);
    unpack_q6_k(q6, back.data());
    EXPECT_EQ(back, six_bits);

    std::array<std::uint8_t, 12> scales{};
    pack_scales_minimums(six_bits.data(), six_bits.data() + 8, scales.data());
    unpack_scales_minimums(scales.data(), back.data(), back.data() + 8);
    EXPECT_EQ(std::memcmp(back.data(), six_bits.data(), 16), 0);
    pack_q3_k_scales(six_bits.data(), scales.data());
    unpack_q3_k_scales(scales.data(), back.data());
    EXPECT_EQ(std::memcmp(back.data(), six_bits.data(), 16), 0);

    BlockIQ4_XS iq4{};
    iq4.set_scales(six_bits.data());
    for (std::size_t g = 0; g < 8; ++g) EXPECT_EQ(iq4.scale(g), six_bits[g]);
    const auto three_bits = random_codes(random, 8);
    BlockIQ1_M iq1{};
    const auto pattern = static_cast<std::uint16_t>(random());
    iq1.set_scales(three_bits.data(), pattern);
    EXPECT_EQ(iq1.d_pattern(), pattern);
    for (std::size_t b = 0; b < 16; ++b) EXPECT_EQ(iq1.scale(b), three_bits[b]);
  }
}

TEST(BlocksTest, DecodersReadWhatWasPacked) {
  std::mt19937 random(6);
  for (int round = 0; round < 20; ++round) {
    const auto scales = random_codes(random, 64);
    const auto codes = random_codes(random, 32);
    BlockQ5_K q5{};
    q5.d.set(0.5F);
    q5.dmin.set(0.25F);
    pack_scales_minimums(scales.data(), scales.data() + 8, q5.scales.data());
    pack_4_bit(codes.data(), q5.qs.data());
    pack_high_bits(codes.data(), 4, q5.qh.data());
    const auto q5_out = decode(Format::Q5_K, q5);
    for (std::size_t i = 0; i < 256; ++i)
      EXPECT_EQ(q5_out[i], 0.5F * scales[i / 32] * codes[i] - 0.25F * scales[8 + i / 32]);

    const auto q3_codes = random_codes(random, 8);
    BlockQ3_K q3{};
    q3.d.set(2.0F);
    pack_q3_k_scales(scales.data(), q3.scales.data());
    pack_2_bit(q3_codes.data(), q3.qs.data());
    pack_high_bits(q3_codes.data(), 2, q3.hmask.data());
    const auto q3_out = decode(Format::Q3_K, q3);
    for (std::size_t i = 0; i < 256; ++i)
      EXPECT_EQ(q3_out[i], 2.0F * static_cast<float>((scales[i / 16] - 32) * (q3_codes[i] - 4)));

    const auto trits = random_codes(random, 3);
    BlockTQ1_0 tq1{};
    tq1.d.set(1.5F);
    pack_tq1_0(trits.data(), tq1);
    const auto tq1_out = decode(Format::TQ1_0, tq1);
    for (std::size_t i = 0; i < 256; ++i) EXPECT_EQ(tq1_out[i], 1.5F * static_cast<float>(trits[i] - 1));
  }
}

TEST(BlocksTest, TritsOfEveryCombination) {
  for (unsigned v = 0; v < 243; ++v) {
    const unsigned t[5] = {v / 81, v / 27 % 3, v / 9 % 3, v / 3 % 3, v % 3};
    const std::uint8_t byte = pack_trits(t[0], t[1], t[2], t[3], t[4]);
    for (unsigned n = 0; n < 5; ++n) EXPECT_EQ(unpack_trit(byte, n), t[n]) << v;
  }
}

TEST(CodebooksTest, EntriesAreWhatTheFormatsAllow) {
  const auto check = [](const auto& grid, const std::vector<int>& allowed, bool ascending) {
    for (std::size_t n = 0; n < grid.size(); ++n) {
      if (ascending && n > 0) {
        EXPECT_LT(grid[n - 1], grid[n]);
      }
      for (std::size_t j = 0; j < sizeof(grid[n]); ++j) {
        const auto byte = static_cast<std::int8_t>(grid[n] >> (8 * j));
        EXPECT_NE(std::find(allowed.begin(), allowed.end(), int{byte}), allowed.end()) << n;
      }
    }
  };
  check(kIq2xxsGrid, {8, 25, 43}, true);
  check(kIq2xsGrid, {8, 25, 43}, true);
  check(kIq2sGrid, {8, 25, 43}, true);
  check(kIq3xxsGrid, {4, 12, 20, 28, 36, 44, 52, 62}, true);
  check(kIq3sGrid, {1, 3, 5, 7, 9, 11, 13, 15}, true);
  check(kIq1sGrid, {-1, 0, 1}, false);
  for (std::uint32_t k = 0; k < 128; ++k) {
    EXPECT_EQ(std::popcount(unsigned{sign_pattern(k)}) % 2, 0);
    EXPECT_EQ(sign_pattern(k) & 127U, k);
    for (std::uint32_t n = 0; n < 128; ++n)
      ASSERT_EQ(two_sign_patterns(k, n), sign_pattern(k) | (std::uint32_t{sign_pattern(n)} << 8));
  }
  EXPECT_EQ(kE8m0HalfScale[128], 1.0F);
  EXPECT_EQ(kUe4m3HalfScale[0x38], 0.5F);
  EXPECT_EQ(kUe4m3HalfScale[0x7F], 0.0F);
  EXPECT_EQ(kUe4m3HalfScale[0xFF], 240.0F);
}

// The tables are those of the specification, entry by entry.
TEST(CodebooksTest, SignPatternsAndTritsOfTheSpecification) {
  const auto shared = test::shared_dir();
  if (!shared) GTEST_SKIP() << "the specification's tables are not here; only their properties were checked";
  const auto words = [&](const char* name, int base) {
    const std::vector<std::byte> text = test::read_file(*shared / "formats/codebooks" / name);
    std::string buffer(reinterpret_cast<const char*>(text.data()), text.size());
    std::vector<unsigned long> values;
    for (const char* p = buffer.c_str(); *p != '\0';) {
      char* end = nullptr;
      const unsigned long value = std::strtoul(p, &end, base);
      if (end == p) break;
      values.push_back(value);
      p = end;
    }
    return values;
  };
  const auto signs = words("sign_patterns.txt", 16);
  ASSERT_EQ(signs.size(), 128U);
  for (std::size_t k = 0; k < 128; ++k) EXPECT_EQ(sign_pattern(static_cast<std::uint32_t>(k)), signs[k]);
  const auto packed = words("tq1_pack.txt", 16);
  ASSERT_EQ(packed.size(), 243U);
  for (unsigned v = 0; v < 243; ++v)
    EXPECT_EQ(pack_trits(v / 81, v / 27 % 3, v / 9 % 3, v / 3 % 3, v % 3), packed[v]);
  const auto trits = words("tq1_trits.txt", 10);
  ASSERT_EQ(trits.size(), 1280U);
  for (std::size_t k = 0; k < 1280; ++k)
    EXPECT_EQ(unpack_trit(static_cast<std::uint8_t>(k / 5), static_cast<unsigned>(k % 5)), trits[k]);
}

}  // namespace
}  // namespace quantfit::kernels

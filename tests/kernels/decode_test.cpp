// Decoders against golden vectors, bit for bit, on every instruction set this machine can run.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/half.h"
#include "kernels/row_kernels.h"
#include "kernels/validate.h"
#include "tests/support/test_paths.h"

namespace quantfit::kernels {
namespace {

bool has_decoder(const FormatTraits& format) {
  return format.kind == FormatKind::Float || format.kind == FormatKind::Quantized;
}

std::vector<float> decode(const RowKernels& kernels, Format format, const std::byte* in,
                          std::size_t columns) {
  std::vector<float> out(columns, -7.0F);
  kernels.decode[static_cast<std::size_t>(format)](in, columns, out.data());
  return out;
}

// Index of the first value whose bits differ, or -1. Any two NaN count as equal: their payload depends on the
// order of the operands, and no valid block decodes to one.
std::ptrdiff_t first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return static_cast<std::ptrdiff_t>(std::min(a.size(), b.size()));
  for (std::size_t j = 0; j < a.size(); ++j) {
    if (a[j] != a[j] && b[j] != b[j]) continue;
    if (std::bit_cast<std::uint32_t>(a[j]) != std::bit_cast<std::uint32_t>(b[j]))
      return static_cast<std::ptrdiff_t>(j);
  }
  return -1;
}

// Every kernel's decoding of every format's file equals the stored values.
void check_folder(const std::filesystem::path& folder) {
  std::size_t formats = 0;
  for (const FormatTraits& format : all_formats()) {
    if (!has_decoder(format) || format.format == Format::F32) continue;
    const std::string name(format.name);
    const std::vector<std::byte> blocks = test::read_file(folder / (name + ".blocks"));
    const std::vector<float> expected = test::read_array<float>(folder / (name + ".f32"));
    ASSERT_FALSE(blocks.empty()) << name;
    ASSERT_EQ(blocks.size() / format.block_bytes * format.block_len, expected.size()) << name;
    ++formats;
    EXPECT_FALSE(first_invalid_block(format.format, blocks)) << name;
    for (const RowKernels& kernels : runnable_kernels()) {
      const std::vector<float> decoded = decode(kernels, format.format, blocks.data(), expected.size());
      EXPECT_EQ(first_difference(decoded, expected), -1) << name << " on " << kernels.isa;
    }
  }
  EXPECT_EQ(formats, 27U);
}

TEST(DecodeTest, GoldenVectorsOfTheSourceTree) {
  check_folder(test::data_dir() / "golden/decode");
}

TEST(DecodeTest, AllGoldenVectors) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the complete golden vectors are not here; only the part in tests/data was compared";
  check_folder(*shared / "formats/golden/decode");
}

TEST(DecodeTest, EveryFloatAndQuantizedFormatHasADecoderAndNoOther) {
  for (const RowKernels& kernels : runnable_kernels()) {
    for (const FormatTraits& format : all_formats())
      EXPECT_EQ(kernels.decode[static_cast<std::size_t>(format.format)] != nullptr, has_decoder(format))
          << format.name << " on " << kernels.isa;
  }
}

TEST(DecodeTest, F32IsCopiedBitForBit) {
  const std::vector<std::uint32_t> patterns = {0,           0x80000000U, 1,          0x7F7FFFFFU,
                                               0x3F800000U, 0x80000001U, 0x7FC12345U};
  for (const RowKernels& kernels : runnable_kernels()) {
    std::vector<std::uint32_t> out(patterns.size());
    kernels.decode[0](reinterpret_cast<const std::byte*>(patterns.data()), patterns.size(),
                      reinterpret_cast<float*>(out.data()));
    EXPECT_EQ(out, patterns) << kernels.isa;
  }
}

// Input at any address; and nothing is written behind the row.
TEST(DecodeTest, UnalignedInputAndExactOutputLength) {
  std::mt19937 random(11);
  for (const FormatTraits& format : all_formats()) {
    if (!has_decoder(format)) continue;
    const std::size_t blocks = format.block_len == 1 ? 53 : 3;
    const std::size_t columns = blocks * format.block_len;
    std::vector<std::byte> bytes(blocks * format.block_bytes);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    for (const RowKernels& kernels : runnable_kernels()) {
      const std::vector<float> expected = decode(kernels, format.format, bytes.data(), columns);
      for (const std::size_t shift : {1U, 2U, 3U, 5U, 7U, 31U}) {
        // Allocated without slack behind the row, so that a sanitizer sees reads beyond it.
        std::vector<std::byte> moved(shift + bytes.size());
        std::copy(bytes.begin(), bytes.end(), moved.begin() + static_cast<std::ptrdiff_t>(shift));
        std::vector<float> out(columns + 16, -7.0F);
        kernels.decode[static_cast<std::size_t>(format.format)](moved.data() + shift, columns, out.data());
        EXPECT_TRUE(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(columns), out.end(),
                                [](float v) { return v == -7.0F; }))
            << format.name << " on " << kernels.isa;
        out.resize(columns);
        EXPECT_EQ(first_difference(out, expected), -1)
            << format.name << " on " << kernels.isa << ", shift " << shift;
      }
    }
  }
}

// Any bytes, valid or not, decode to the same numbers on every instruction set.
TEST(DecodeTest, RandomBytesDecodeEquallyEverywhere) {
  std::mt19937 random(7);
  const RowKernels& reference = runnable_kernels().back();
  ASSERT_EQ(reference.isa, "scalar");
  for (const FormatTraits& format : all_formats()) {
    if (!has_decoder(format)) continue;
    const std::size_t blocks = format.block_len == 1 ? 4099 : 8192 / format.block_len;
    const std::size_t columns = blocks * format.block_len;
    std::vector<std::byte> bytes(blocks * format.block_bytes);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    const std::vector<float> expected = decode(reference, format.format, bytes.data(), columns);
    for (const RowKernels& kernels : runnable_kernels())
      EXPECT_EQ(first_difference(decode(kernels, format.format, bytes.data(), columns), expected), -1)
          << format.name << " on " << kernels.isa;
  }
}

TEST(DecodeTest, NoColumnsWritesNothing) {
  for (const RowKernels& kernels : runnable_kernels()) {
    for (const FormatTraits& format : all_formats()) {
      if (!has_decoder(format)) continue;
      float out = 3.0F;
      kernels.decode[static_cast<std::size_t>(format.format)](nullptr, 0, &out);
      EXPECT_EQ(out, 3.0F);
    }
  }
}

// ---- Half and bfloat16
// -----------------------------------------------------------------------------------------

std::uint32_t bits(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

void check_rounding(const std::filesystem::path& folder, const std::string& suffix) {
  const auto in = test::read_array<std::uint32_t>(folder / ("round_in_f32" + suffix));
  const auto halves = test::read_array<std::uint16_t>(folder / ("round_out_f16" + suffix));
  const auto bfloats = test::read_array<std::uint16_t>(folder / ("round_out_bf16" + suffix));
  ASSERT_FALSE(in.empty());
  ASSERT_EQ(in.size(), halves.size());
  ASSERT_EQ(in.size(), bfloats.size());
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const auto value = std::bit_cast<float>(in[i]);
    wrong += float_to_half(value) != halves[i] || float_to_bfloat16(value) != bfloats[i] ? 1U : 0U;
  }
  EXPECT_EQ(wrong, 0U);
}

TEST(HalfTest, GoldenConversionsOfTheSourceTree) {
  const std::filesystem::path folder = test::data_dir() / "golden/convert";
  check_rounding(folder, "_every_307th.bin");
  const auto expected = test::read_array<std::uint32_t>(folder / "f16_to_f32_every_61st.bin");
  ASSERT_EQ(expected.size(), 1075U);
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_EQ(bits(half_to_float(static_cast<std::uint16_t>(61 * i))), expected[i]) << 61 * i;
}

TEST(HalfTest, AllGoldenConversions) {
  const auto shared = test::shared_dir();
  if (!shared)
    GTEST_SKIP() << "the complete conversion vectors are not here; only the part in tests/data was compared";
  const std::filesystem::path folder = *shared / "formats/golden/convert";
  check_rounding(folder, ".bin");
  const auto halves = test::read_array<std::uint32_t>(folder / "f16_to_f32.bin");
  const auto bfloats = test::read_array<std::uint32_t>(folder / "bf16_to_f32.bin");
  ASSERT_EQ(halves.size(), 65536U);
  ASSERT_EQ(bfloats.size(), 65536U);
  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < patterns.size(); ++i)
    wrong +=
        bits(half_to_float(patterns[i])) != halves[i] || bits(bfloat16_to_float(patterns[i])) != bfloats[i]
            ? 1U
            : 0U;
  EXPECT_EQ(wrong, 0U);
  // The decoders too, NaN included.
  const auto* bytes = reinterpret_cast<const std::byte*>(patterns.data());
  for (const RowKernels& kernels : runnable_kernels()) {
    const auto from_half = decode(kernels, Format::F16, bytes, 65536);
    const auto from_bfloat = decode(kernels, Format::BF16, bytes, 65536);
    EXPECT_EQ(std::memcmp(from_half.data(), halves.data(), 4 * 65536), 0) << kernels.isa;
    EXPECT_EQ(std::memcmp(from_bfloat.data(), bfloats.data(), 4 * 65536), 0) << kernels.isa;
  }
}

TEST(HalfTest, EveryHalfSurvivesTheRoundTrip) {
  for (std::uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const auto half = static_cast<std::uint16_t>(pattern);
    if ((half & 0x7C00U) == 0x7C00U && (half & 0x3FFU) != 0) continue;  // NaN lose their payload
    ASSERT_EQ(float_to_half(half_to_float(half)), half);
  }
}

}  // namespace
}  // namespace quantfit::kernels

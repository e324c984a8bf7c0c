#include "kernels/block_codes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/codebooks.h"

namespace quantfit::kernels {
namespace {

// ---- One overload pair per block: codes as bytes, one per weight, or indices of a grid.

template <class Block>
concept Nibbles32 = std::same_as<Block, BlockQ4_0> || std::same_as<Block, BlockQ4_1> ||
    std::same_as<Block, BlockIQ4_NL> || std::same_as<Block, BlockMXFP4>;

void get(const Nibbles32 auto& block, std::uint8_t* codes) {
  unpack_nibbles(block.qs.data(), 32, codes);
}
void set(Nibbles32 auto& block, const std::uint8_t* codes) {
  pack_nibbles(codes, 32, block.qs.data());
}

template <class Block>
concept FiveBits32 = std::same_as<Block, BlockQ5_0> || std::same_as<Block, BlockQ5_1>;

void get(const FiveBits32 auto& block, std::uint8_t* codes) {
  unpack_nibbles(block.qs.data(), 32, codes);
  for (unsigned i = 0; i < 32; ++i)
    codes[i] = static_cast<std::uint8_t>(codes[i] | (((block.qh.get() >> i) & 1U) << 4));
}
void set(FiveBits32 auto& block, const std::uint8_t* codes) {
  pack_nibbles(codes, 32, block.qs.data());
  block.qh.set(pack_fifth_bits(codes));
}

void get(const BlockQ2_0& block, std::uint8_t* codes) {
  for (std::size_t i = 0; i < 64; ++i) codes[i] = (block.qs[i / 4] >> (2 * (i % 4))) & 3;
}
void set(BlockQ2_0& block, const std::uint8_t* codes) {
  for (std::size_t k = 0; k < 16; ++k) {
    unsigned byte = 0;
    for (std::size_t j = 0; j < 4; ++j) byte |= (codes[4 * k + j] & 3U) << (2 * j);
    block.qs[k] = static_cast<std::uint8_t>(byte);
  }
}

void get(const BlockNVFP4& block, std::uint8_t* codes) {
  for (std::size_t s = 0; s < 4; ++s) unpack_nibbles(block.qs.data() + 8 * s, 16, codes + 16 * s);
}
void set(BlockNVFP4& block, const std::uint8_t* codes) {
  for (std::size_t s = 0; s < 4; ++s) pack_nibbles(codes + 16 * s, 16, block.qs.data() + 8 * s);
}

void get(const BlockQ2_K& block, std::uint8_t* codes) {
  unpack_2_bit(block.qs.data(), codes);
}
void set(BlockQ2_K& block, const std::uint8_t* codes) {
  pack_2_bit(codes, block.qs.data());
}

void get(const BlockQ3_K& block, std::uint8_t* codes) {
  unpack_2_bit(block.qs.data(), codes);
  unpack_high_bits(block.hmask.data(), 2, codes);
}
void set(BlockQ3_K& block, const std::uint8_t* codes) {
  pack_2_bit(codes, block.qs.data());
  pack_high_bits(codes, 2, block.hmask.data());
}

void get(const BlockQ4_K& block, std::uint8_t* codes) {
  unpack_4_bit(block.qs.data(), codes);
}
void set(BlockQ4_K& block, const std::uint8_t* codes) {
  pack_4_bit(codes, block.qs.data());
}

void get(const BlockQ5_K& block, std::uint8_t* codes) {
  unpack_4_bit(block.qs.data(), codes);
  unpack_high_bits(block.qh.data(), 4, codes);
}
void set(BlockQ5_K& block, const std::uint8_t* codes) {
  pack_4_bit(codes, block.qs.data());
  pack_high_bits(codes, 4, block.qh.data());
}

void get(const BlockQ6_K& block, std::uint8_t* codes) {
  unpack_q6_k(block, codes);
}
void set(BlockQ6_K& block, const std::uint8_t* codes) {
  pack_q6_k(codes, block);
}

void get(const BlockIQ4_XS& block, std::uint8_t* codes) {
  for (std::size_t g = 0; g < 8; ++g) unpack_nibbles(block.qs.data() + 16 * g, 32, codes + 32 * g);
}
void set(BlockIQ4_XS& block, const std::uint8_t* codes) {
  for (std::size_t g = 0; g < 8; ++g) pack_nibbles(codes + 32 * g, 32, block.qs.data() + 16 * g);
}

void get(const BlockIQ2_XXS& block, std::uint16_t* codes) {
  for (std::size_t t = 0; t < 32; ++t) codes[t] = block.records[t / 4].index[t % 4];
}
void set(BlockIQ2_XXS& block, const std::uint16_t* codes) {
  for (std::size_t t = 0; t < 32; ++t)
    block.records[t / 4].index[t % 4] = static_cast<std::uint8_t>(codes[t]);
}

void get(const BlockIQ2_XS& block, std::uint16_t* codes) {
  for (std::size_t t = 0; t < 32; ++t) codes[t] = block.qs[t].get() & 511U;
}
void set(BlockIQ2_XS& block, const std::uint16_t* codes) {
  for (std::size_t t = 0; t < 32; ++t) block.qs[t].set((block.qs[t].get() & ~511U) | codes[t]);
}

void get(const BlockIQ2_S& block, std::uint16_t* codes) {
  for (std::size_t t = 0; t < 32; ++t)
    codes[t] = static_cast<std::uint16_t>(block.qs[t] | (((block.qh[t / 4] >> (2 * (t % 4))) & 3U) << 8));
}
void set(BlockIQ2_S& block, const std::uint16_t* codes) {
  block.qh = {};
  for (std::size_t t = 0; t < 32; ++t) {
    block.qs[t] = static_cast<std::uint8_t>(codes[t]);
    block.qh[t / 4] = static_cast<std::uint8_t>(block.qh[t / 4] | ((codes[t] >> 8) << (2 * (t % 4))));
  }
}

void get(const BlockIQ3_XXS& block, std::uint16_t* codes) {
  std::copy(block.qs.begin(), block.qs.end(), codes);
}
void set(BlockIQ3_XXS& block, const std::uint16_t* codes) {
  for (std::size_t u = 0; u < 64; ++u) block.qs[u] = static_cast<std::uint8_t>(codes[u]);
}

void get(const BlockIQ3_S& block, std::uint16_t* codes) {
  for (std::size_t u = 0; u < 64; ++u)
    codes[u] = static_cast<std::uint16_t>(block.qs[u] | (((block.qh[u / 8] >> (u % 8)) & 1U) << 8));
}
void set(BlockIQ3_S& block, const std::uint16_t* codes) {
  block.qh = {};
  for (std::size_t u = 0; u < 64; ++u) {
    block.qs[u] = static_cast<std::uint8_t>(codes[u]);
    block.qh[u / 8] = static_cast<std::uint8_t>(block.qh[u / 8] | ((codes[u] >> 8) << (u % 8)));
  }
}

// ---- Formats

// Calls function(Block{}) with the block of a format that has codes.
template <class Function>
void with_block(Format format, const Function& function) {
  switch (format) {
    case Format::Q4_0:
      return function(BlockQ4_0{});
    case Format::Q4_1:
      return function(BlockQ4_1{});
    case Format::Q5_0:
      return function(BlockQ5_0{});
    case Format::Q5_1:
      return function(BlockQ5_1{});
    case Format::Q2_0:
      return function(BlockQ2_0{});
    case Format::IQ4_NL:
      return function(BlockIQ4_NL{});
    case Format::MXFP4:
      return function(BlockMXFP4{});
    case Format::NVFP4:
      return function(BlockNVFP4{});
    case Format::Q2_K:
      return function(BlockQ2_K{});
    case Format::Q3_K:
      return function(BlockQ3_K{});
    case Format::Q4_K:
      return function(BlockQ4_K{});
    case Format::Q5_K:
      return function(BlockQ5_K{});
    case Format::Q6_K:
      return function(BlockQ6_K{});
    case Format::IQ4_XS:
      return function(BlockIQ4_XS{});
    case Format::IQ2_XXS:
      return function(BlockIQ2_XXS{});
    case Format::IQ2_XS:
      return function(BlockIQ2_XS{});
    case Format::IQ2_S:
      return function(BlockIQ2_S{});
    case Format::IQ3_XXS:
      return function(BlockIQ3_XXS{});
    case Format::IQ3_S:
      return function(BlockIQ3_S{});
    default:
      return;
  }
}

// Codes of one weight are bytes.
template <class Block>
concept BytewiseCodes = requires(const Block& block, std::uint8_t* codes) {
  get(block, codes);
};

template <std::size_t kCount>
std::vector<float> table_of(const std::array<std::int8_t, kCount>& table) {
  return {table.begin(), table.end()};
}

template <class Entry, std::size_t kCount>
std::vector<float> grid_of(const std::array<Entry, kCount>& grid) {
  std::vector<float> out;
  for (const Entry entry : grid)
    for (std::size_t j = 0; j < sizeof(Entry); ++j)
      out.push_back(static_cast<float>((entry >> (8 * j)) & 0xFFU));
  return out;
}

struct Shapes {
  std::array<CodeShape, kFormatIdCount> of{};
  std::array<std::vector<float>, kFormatIdCount> levels;

  Shapes() {
    for (const Format format : {Format::Q2_0, Format::Q2_K}) uniform(format, 4);
    uniform(Format::Q3_K, 8);
    for (const Format format : {Format::Q4_0, Format::Q4_1, Format::Q4_K}) uniform(format, 16);
    for (const Format format : {Format::Q5_0, Format::Q5_1, Format::Q5_K}) uniform(format, 32);
    uniform(Format::Q6_K, 64);
    for (const Format format : {Format::IQ4_NL, Format::IQ4_XS}) add(format, 1, 16, table_of(kIq4nlValues));
    for (const Format format : {Format::MXFP4, Format::NVFP4}) add(format, 1, 1, table_of(kFp4Values));
    add(Format::IQ2_XXS, 8, 17, grid_of(kIq2xxsGrid));
    add(Format::IQ2_XS, 8, 17, grid_of(kIq2xsGrid));
    add(Format::IQ2_S, 8, 17, grid_of(kIq2sGrid));
    add(Format::IQ3_XXS, 4, 8, grid_of(kIq3xxsGrid));
    add(Format::IQ3_S, 4, 2, grid_of(kIq3sGrid));
  }

 private:
  CodeShape& add(Format format, std::size_t group, float spacing, std::vector<float> all) {
    const auto id = static_cast<std::size_t>(format);
    levels[id] = std::move(all);
    of[id] = {levels[id].size() / group, group, spacing, false, levels[id]};
    return of[id];
  }
  void uniform(Format format, std::size_t count) {
    std::vector<float> all(count);
    for (std::size_t c = 0; c < count; ++c) all[c] = static_cast<float>(c);
    add(format, 1, 1, std::move(all)).uniform = true;
  }
};

}  // namespace

const CodeShape& code_shape(Format format) {
  static const Shapes shapes;
  return shapes.of[static_cast<std::size_t>(format)];
}

void get_codes(Format format, const std::byte* block, std::uint16_t* codes) {
  with_block(format, [&]<class Block>(const Block&) {
    const auto& one = *reinterpret_cast<const Block*>(block);
    if constexpr (BytewiseCodes<Block>) {
      std::array<std::uint8_t, kMostBlockWeights> bytes{};
      get(one, bytes.data());
      std::copy_n(bytes.begin(), traits(format).block_len, codes);
    } else {
      get(one, codes);
    }
  });
}

void set_codes(Format format, std::byte* block, const std::uint16_t* codes) {
  with_block(format, [&]<class Block>(const Block&) {
    auto& one = *reinterpret_cast<Block*>(block);
    if constexpr (BytewiseCodes<Block>) {
      std::array<std::uint8_t, kMostBlockWeights> bytes{};
      std::transform(codes, codes + traits(format).block_len, bytes.begin(),
                     [](std::uint16_t code) { return static_cast<std::uint8_t>(code); });
      set(one, bytes.data());
    } else {
      set(one, codes);
    }
  });
}

}  // namespace quantfit::kernels

// Codebooks rearranged for exact search (see codebook_encode.cpp).
//
// A vector of the codebook is cut into two halves. Few distinct halves exist (3^4 = 81 or 8^2 = 64 patterns),
// the cost of a vector is the sum of the costs of its halves, and so the best vector with a given first half
// has the cheapest second half among those the first one occurs with: a minimum over a list. Lists have much
// in common. Pairs that occur in many are joined once, to a node of their own, which leaves 977 loads of 2048
// for IQ1_S and 351 of 1024 for IQ2_S.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace quantfit::kernels {

// Levels are numbered upwards. A pattern's id has the level numbers of its elements as digits, first element
// first: base 3 for four elements, base 8 for two.
struct SplitCodebook {
  static constexpr std::size_t kMaxPatterns = 81;
  static constexpr std::size_t kMaxNodes = 224;
  static constexpr int kIdBits = 7;  // patterns fit into seven bits
  // Floats from one pattern's or node's costs to the next one's in the tables of the search.
  // Joins and lists hold offsets instead of ids: the inner loops have as many instructions for
  // addresses as for work otherwise.
  static constexpr std::uint16_t kStride = 32;
  // Nodes that are the minimum of two earlier ones follow the patterns.
  struct Join {
    std::uint16_t to;
    std::uint16_t a;
    std::uint16_t b;
  };
  std::size_t join_count = 0;
  std::array<Join, kMaxNodes - 64> joins{};
  // Per distinct first half: its id, its offset, and the length of its list of second halves. Lists follow
  // each other, the longest first so that loops over them are predictable, and have even lengths: an odd
  // one's last node stands twice.
  std::size_t list_count = 0;
  std::array<std::int32_t, kMaxPatterns> first{};
  std::array<std::uint16_t, kMaxPatterns> first_offset{};
  std::array<std::uint16_t, kMaxPatterns> length{};
  std::array<std::uint16_t, 2048> nodes{};
  // Entry of the codebook by first id << kIdBits | second id; 0xFFFF where there is none.
  std::array<std::uint16_t, kMaxPatterns << kIdBits> entry{};
  // Level numbers of a pattern, element k in byte k.
  std::array<std::int32_t, kMaxPatterns> digits{};
};

// The same codebook as a flat list in its own order, for a search with entries in the lanes. A vector has
// four digits below sixteen: pairs of level numbers (3 a + b) where it has eight elements, level numbers
// where four.
struct FlatCodebook {
  static constexpr std::size_t kMaxEntries = 2048;
  std::size_t count = 0;  // a multiple of sixteen
  std::array<std::array<std::uint8_t, kMaxEntries>, 4> digit{};
  std::array<std::int32_t, kMaxEntries> digits{};  // digit d in bits 4 d to 4 d + 3
};

// Built at the first call; thread-safe.
const SplitCodebook& iq2xxs_split();
const SplitCodebook& iq2xs_split();
const SplitCodebook& iq2s_split();
const SplitCodebook& iq3xxs_split();
const SplitCodebook& iq3s_split();
const SplitCodebook& iq1s_split();
const FlatCodebook& iq2xxs_flat();
const FlatCodebook& iq2xs_flat();
const FlatCodebook& iq2s_flat();
const FlatCodebook& iq3xxs_flat();
const FlatCodebook& iq3s_flat();
const FlatCodebook& iq1s_flat();

}  // namespace quantfit::kernels

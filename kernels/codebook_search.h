// Codebooks rearranged for exact search (see codebook_search-inl.h).
//
// A vector of the codebook is cut into two halves. Few distinct halves exist (3^4 = 81 or 8^2 = 64 patterns),
// the cost of a vector is the sum of the costs of its halves, and so the best vector with a given first half
// has the cheapest second half among those the first one occurs with.
#pragma once

#include <array>
#include <cstdint>

namespace quantfit::kernels {

// Levels are numbered upwards. A pattern's id has the level numbers of its elements as digits, first element
// first: base 3 for four elements, base 8 for two.
struct SplitCodebook {
  static constexpr int kMaxPatterns = 81;
  static constexpr int kIdBits = 7;  // patterns fit into seven bits
  int first_count = 0;               // distinct first halves
  // Per distinct first half: its id, and where its list of second halves begins and ends.
  std::array<std::uint8_t, kMaxPatterns> first{};
  std::array<std::uint16_t, kMaxPatterns + 1> start{};
  std::array<std::uint8_t, 2048> second{};  // ids of the second halves
  // Entry of the codebook by first id << kIdBits | second id; 0xFFFF where there is none.
  std::array<std::uint16_t, kMaxPatterns << kIdBits> entry{};
  // Level numbers of a pattern, element k in byte k.
  std::array<std::int32_t, kMaxPatterns> digits{};
};

// Built at the first call; thread-safe.
const SplitCodebook& iq2xxs_split();
const SplitCodebook& iq2xs_split();
const SplitCodebook& iq2s_split();
const SplitCodebook& iq3xxs_split();
const SplitCodebook& iq3s_split();
const SplitCodebook& iq1s_split();

}  // namespace quantfit::kernels

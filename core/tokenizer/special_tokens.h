// Tokens that are cut out of a text before anything else happens to it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/tokenizer/token.h"
#include "core/tokenizer/vocabulary.h"

namespace quantfit {

// A part of a text: one special token, or what stands between them.
struct TextFragment {
  std::string_view text;  // never empty; for a token its own text
  bool is_token = false;
  TokenId token = 0;
};

// Immutable. Keeps references into the vocabulary, which must outlive it.
class SpecialTokens {
 public:
  explicit SpecialTokens(const Vocabulary& vocabulary);

  // The fragments of `text` in order. Longer tokens are found first, each from left to right; what was cut
  // out is not searched again. Control and unknown tokens count with `parse` only, user-defined ones always.
  [[nodiscard]] std::vector<TextFragment> split(std::string_view text, bool parse) const;

 private:
  struct Entry {
    std::string_view text;
    TokenId id;
    bool always;  // without `parse`, too
    bool strips_right;
  };
  static constexpr std::size_t kPrefix = 4;  // bytes by which candidates are found

  // Entries that may occur in `text`, judged by their first bytes; in the order of entries_.
  [[nodiscard]] std::vector<std::uint32_t> candidates(std::string_view text, bool parse) const;

  std::vector<Entry> entries_;  // longest first, then by id
  std::array<bool, 256> begins_{};
  std::array<bool, kPrefix + 1> prefix_lengths_{};
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> by_prefix_;
};

}  // namespace quantfit

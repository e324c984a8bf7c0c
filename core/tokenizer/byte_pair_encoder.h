// Byte-pair encoding: words are merged pair by pair, the pair of lowest rank first.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/tokenizer/fragment_encoder.h"
#include "core/tokenizer/splitter.h"
#include "core/tokenizer/vocabulary.h"

namespace quantfit {

// Merging knows texts as numbers ("symbols"): every text that a merge joins or makes, and every token. A pair
// of symbols is looked up in one probe, whatever the texts.
class BytePairEncoder : public FragmentEncoder {
 public:
  // `vocabulary` has a pre-tokenizer and must outlive the encoder. Unsupported when there are more texts than
  // 2^32 - 2.
  [[nodiscard]] static Result<std::unique_ptr<const BytePairEncoder>> create(const Vocabulary& vocabulary);

  [[nodiscard]] Result<void> encode(std::string_view fragment, bool after_token,
                                    std::vector<TokenId>& out) const override;

 private:
  using Symbol = std::uint32_t;
  static constexpr Symbol kNoSymbol = 0xFFFFFFFF;  // a character that no merge and no token has
  static constexpr std::uint32_t kNoRank = 0xFFFFFFFF;

  struct PairEntry {
    Symbol left = kNoSymbol, right = kNoSymbol;
    std::uint32_t rank = kNoRank;
    Symbol joined = kNoSymbol;
  };
  // A part of the word being merged; parts form a list.
  struct Part {
    Symbol symbol;
    std::uint32_t begin, length;  // bytes of the word
    std::uint32_t previous, next;
  };
  static constexpr std::uint32_t kEnd = 0xFFFFFFFF;

  BytePairEncoder(const Vocabulary& vocabulary, Splitter splitter);
  void build();
  Symbol intern(std::string_view text);
  [[nodiscard]] Symbol find_symbol(std::string_view text) const;
  [[nodiscard]] const PairEntry* find_pair(Symbol left, Symbol right) const;
  void add_pair(Symbol left, Symbol right, std::uint32_t rank, Symbol joined);

  void merge_word(std::string_view word, std::vector<TokenId>& out) const;
  [[nodiscard]] std::vector<Part> parts_of(std::string_view word) const;
  void merge_short(std::vector<Part>& parts) const;
  void merge_long(std::vector<Part>& parts) const;
  void emit(const Part& part, std::string_view word, std::vector<TokenId>& out) const;

  const Vocabulary& vocabulary_;
  Splitter splitter_;
  bool byte_level_;
  std::deque<std::string> joined_texts_;  // texts that neither tokens nor merges hold
  std::unordered_map<std::string_view, Symbol> symbols_;
  std::vector<std::string_view> symbol_texts_;
  std::vector<std::optional<TokenId>> symbol_tokens_;
  std::vector<PairEntry> pairs_;            // open addressing, a power of two
  std::array<Symbol, 256> byte_symbols_{};  // byte level: of every byte; otherwise: of ASCII characters
  std::array<std::optional<TokenId>, 256> byte_tokens_{};  // where a symbol is no token
};

}  // namespace quantfit

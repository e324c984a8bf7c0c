// Unigram encoding: of all segmentations into tokens, the one with the highest sum of scores.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/byte_trie.h"
#include "core/tokenizer/fragment_encoder.h"
#include "core/tokenizer/vocabulary.h"

namespace quantfit {

class UnigramEncoder : public FragmentEncoder {
 public:
  // `vocabulary` must outlive the encoder. Malformed, with `file`, when its character map is cut short or
  // points outside of itself, or when there is no unknown token.
  [[nodiscard]] static Result<std::unique_ptr<const UnigramEncoder>> create(const Vocabulary& vocabulary,
                                                                            std::string_view file);

  [[nodiscard]] Result<void> encode(std::string_view fragment, bool after_token,
                                    std::vector<TokenId>& out) const override;

 private:
  // One step of normalizing: `bytes` of the text become `text`.
  struct Normalized {
    std::string_view text;
    std::size_t bytes;
  };

  explicit UnigramEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  [[nodiscard]] Result<void> build(std::string_view file);
  [[nodiscard]] std::optional<Normalized> mapped(std::string_view text) const;
  [[nodiscard]] Normalized normalize_at(std::string_view text) const;
  [[nodiscard]] std::string normalize(std::string_view text) const;

  const Vocabulary& vocabulary_;
  ByteTrie tokens_;                 // values are ids
  ByteTrie user_defined_;           // likewise
  std::vector<std::uint32_t> map_;  // units of the double array
  std::string_view replacements_;   // that its values point into, each ended by a zero
  TokenId unknown_ = 0;
  double unknown_score_ = 0;
};

}  // namespace quantfit

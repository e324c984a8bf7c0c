// Byte-pair encoding as SentencePiece does it: of all pairs whose text is a token, the one of highest score
// first.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/tokenizer/fragment_encoder.h"
#include "core/tokenizer/vocabulary.h"

namespace quantfit {

// Two characters that stand side by side in no token are never merged into one part, nor are the parts on
// either side of them. So a text falls into pieces that do not know of each other; natural text, into words.
class SentencePieceEncoder : public FragmentEncoder {
 public:
  // `vocabulary` must outlive the encoder.
  explicit SentencePieceEncoder(const Vocabulary& vocabulary);

  [[nodiscard]] Result<void> encode(std::string_view fragment, bool after_token,
                                    std::vector<TokenId>& out) const override;

 private:
  struct Part {
    std::string_view text;  // empty once it was merged into the part before
    std::uint32_t previous, next;
  };
  static constexpr std::uint32_t kEnd = 0xFFFFFFFF;

  // Whether the characters may stand side by side in a token; true for some that do not.
  [[nodiscard]] bool may_join(std::string_view left, std::string_view right) const;
  [[nodiscard]] std::size_t join_bit(std::string_view left, std::string_view right) const;

  [[nodiscard]] Result<void> merge_piece(std::string_view piece, std::vector<TokenId>& out) const;
  [[nodiscard]] Result<void> emit(std::string_view part, std::vector<TokenId>& out) const;

  const Vocabulary& vocabulary_;
  std::vector<bool> joins_;  // by hash of the two characters, a power of two
  std::array<std::optional<TokenId>, 256> byte_tokens_{};
};

}  // namespace quantfit

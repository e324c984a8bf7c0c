// Text to token ids and back, by the rules in the metadata of a GGUF file.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/tokenizer/fragment_encoder.h"
#include "core/tokenizer/special_tokens.h"
#include "core/tokenizer/token.h"
#include "core/tokenizer/vocabulary.h"

namespace quantfit {

struct EncodeOptions {
  bool add_special = false;    // the beginning and end tokens that the model wants
  bool parse_special = false;  // the texts of control tokens mean these tokens
};

struct DecodeOptions {
  bool special = true;  // control tokens and the like by their texts; otherwise they are left out
};

// Immutable: every method may be called from any thread at any time.
class Tokenizer {
 public:
  // Errors are those of Vocabulary::from_metadata. `file` is what messages call the file.
  [[nodiscard]] static Result<Tokenizer> from_metadata(const GgufMetadata& metadata, std::string_view file);

  Tokenizer(Tokenizer&&) noexcept = default;
  Tokenizer& operator=(Tokenizer&&) noexcept = default;

  // The tokens of `text`, which may be any bytes. Time is O(n log n), memory a small multiple of the text.
  // Malformed when the vocabulary lacks a token that is needed: for a byte, or to begin with. InvalidArgument
  // for texts of 2 GiB or more.
  [[nodiscard]] Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options = {}) const;

  // The bytes that one token stands for, its own text for special tokens. InvalidArgument when it is not in
  // the vocabulary.
  [[nodiscard]] Result<std::string> token_bytes(TokenId id) const;

  // The bytes of the tokens one after another, without the space that the model puts before a text.
  // decode(encode(x)) is x for well-formed x without what encoding loses (bytes without tokens, spaces that a
  // model of type Unigram removes). InvalidArgument for tokens that are not in the vocabulary.
  [[nodiscard]] Result<std::string> decode(std::span<const TokenId> tokens, DecodeOptions options = {}) const;

  [[nodiscard]] std::size_t vocabulary_size() const { return vocabulary_->size(); }
  // The token to put in front of a text, or nothing when the model does not want one (or names none).
  [[nodiscard]] std::optional<TokenId> beginning_token() const;
  // The token to put behind a text, likewise.
  [[nodiscard]] std::optional<TokenId> end_token() const;
  [[nodiscard]] const Vocabulary& vocabulary() const { return *vocabulary_; }

 private:
  Tokenizer() = default;
  [[nodiscard]] Result<void> push_special(const char* key, std::optional<TokenId> token,
                                          std::vector<TokenId>& out) const;

  std::unique_ptr<const Vocabulary> vocabulary_;
  std::unique_ptr<const SpecialTokens> special_tokens_;
  std::unique_ptr<const FragmentEncoder> encoder_;
};

}  // namespace quantfit

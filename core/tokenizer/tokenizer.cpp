#include "core/tokenizer/tokenizer.h"

#include <limits>
#include <utility>

#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/byte_pair_encoder.h"
#include "core/tokenizer/sentence_piece_encoder.h"
#include "core/tokenizer/unigram_encoder.h"
#include "core/tokenizer/visible_space.h"

namespace quantfit {
namespace {

[[nodiscard]] int hexadecimal_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte of a token `<0xHH>`.
[[nodiscard]] std::optional<char> byte_of(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  const int high = hexadecimal_digit(text[3]), low = hexadecimal_digit(text[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

}  // namespace

Result<Tokenizer> Tokenizer::from_metadata(const GgufMetadata& metadata, std::string_view file) {
  Tokenizer tokenizer;
  QF_ASSIGN(Vocabulary vocabulary, Vocabulary::from_metadata(metadata, file));
  tokenizer.vocabulary_ = std::make_unique<const Vocabulary>(std::move(vocabulary));
  tokenizer.special_tokens_ = std::make_unique<const SpecialTokens>(*tokenizer.vocabulary_);
  switch (tokenizer.vocabulary_->model()) {
    case TokenizerModel::BytePair:
    case TokenizerModel::Gemma4: {
      QF_ASSIGN(tokenizer.encoder_, BytePairEncoder::create(*tokenizer.vocabulary_));
      break;
    }
    case TokenizerModel::SentencePiece:
      tokenizer.encoder_ = std::make_unique<const SentencePieceEncoder>(*tokenizer.vocabulary_);
      break;
    case TokenizerModel::Unigram: {
      QF_ASSIGN(tokenizer.encoder_, UnigramEncoder::create(*tokenizer.vocabulary_, file));
      break;
    }
  }
  return tokenizer;
}

Result<void> Tokenizer::push_special(const char* key, std::optional<TokenId> token,
                                     std::vector<TokenId>& out) const {
  if (!token)
    return fail(ErrorCode::Malformed,
                "the model wants a token around its texts, but names none: tokenizer.ggml.{}", key);
  out.push_back(*token);
  return outcome::success();
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > std::size_t{std::numeric_limits<std::int32_t>::max()})
    return fail(ErrorCode::InvalidArgument, "a text of {} bytes, at most 2^31 - 1 are handled at once",
                text.size());
  std::vector<TokenId> tokens;
  tokens.reserve(text.size() / 4 + 16);
  if (options.add_special && vocabulary_->adds_beginning())
    QF_TRY(push_special("bos_token_id", vocabulary_->beginning(), tokens));
  bool after_token = true;
  for (const TextFragment& fragment : special_tokens_->split(text, options.parse_special)) {
    if (fragment.is_token)
      tokens.push_back(fragment.token);
    else
      QF_TRY(encoder_->encode(fragment.text, after_token, tokens));
    after_token = fragment.is_token;
  }
  if (options.add_special && vocabulary_->adds_end())
    QF_TRY(push_special("eos_token_id", vocabulary_->end(), tokens));
  return tokens;
}

Result<std::string> Tokenizer::token_bytes(TokenId id) const {
  if (id >= vocabulary_->size())
    return fail(ErrorCode::InvalidArgument, "token {} is not in the vocabulary of {}", id,
                vocabulary_->size());
  const std::string_view text = vocabulary_->text(id);
  const TokenTraits traits = vocabulary_->traits(id);
  if (traits.special()) return std::string(text);
  const PreTokenizer* rules = vocabulary_->pre_tokenizer();
  if (rules != nullptr && rules->byte_level) return from_byte_alphabet(text);
  // Byte tokens are not always marked as such where merging falls back to them by name.
  if (const auto byte = byte_of(text)) return std::string(1, *byte);
  if (rules != nullptr && !rules->visible_spaces) return std::string(text);
  return without_visible_spaces(text);
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> tokens, DecodeOptions options) const {
  std::string result;
  bool after_token = true;
  for (const TokenId id : tokens) {
    QF_ASSIGN(std::string bytes, token_bytes(id));
    const bool special = vocabulary_->traits(id).special();
    if (vocabulary_->adds_space_prefix() && after_token && !special && bytes.starts_with(' '))
      bytes.erase(0, 1);
    if (!special || options.special || vocabulary_->traits(id).user_defined) result += bytes;
    after_token = special;
  }
  return result;
}

std::optional<TokenId> Tokenizer::beginning_token() const {
  return vocabulary_->adds_beginning() ? vocabulary_->beginning() : std::nullopt;
}

std::optional<TokenId> Tokenizer::end_token() const {
  return vocabulary_->adds_end() ? vocabulary_->end() : std::nullopt;
}

}  // namespace quantfit

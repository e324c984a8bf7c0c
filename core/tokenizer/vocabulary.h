// The tokens of a model and the rules about them, as the metadata of its file give them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/tokenizer/pre_tokenizers.h"
#include "core/tokenizer/token.h"

namespace quantfit {

// `tokenizer.ggml.model`.
enum class TokenizerModel {
  BytePair,       // "gpt2": byte pairs by rank
  SentencePiece,  // "llama": pairs by score, with byte fallback
  Gemma4,         // "gemma4": pairs by rank over characters
  Unigram,        // "t5": the most probable segmentation
};

[[nodiscard]] std::string_view to_string(TokenizerModel model);

// What a token is; more than one may hold.
struct TokenTraits {
  bool unknown : 1 = false;
  bool control : 1 = false;
  bool user_defined : 1 = false;
  bool unused : 1 = false;
  bool byte : 1 = false;
  bool normal : 1 = false;
  bool strips_right : 1 = false;  // white space behind it is dropped

  // Cut out of a text before anything else.
  [[nodiscard]] bool special() const { return unknown || control || user_defined; }
};

class Vocabulary {
 public:
  // Reads and checks every `tokenizer.ggml.*` key that plays a part. Malformed for missing keys, wrong types,
  // arrays of different lengths, repeated tokens, merges without two parts, and scores that are no numbers;
  // Unsupported for tokenizer models and pre-tokenizers that are not known, with their name. `file` is what
  // messages call the file.
  [[nodiscard]] static Result<Vocabulary> from_metadata(const GgufMetadata& metadata, std::string_view file);

  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  [[nodiscard]] std::size_t size() const { return texts_.size(); }
  // `id` is below size() in all of these.
  [[nodiscard]] std::string_view text(TokenId id) const { return texts_[id]; }
  [[nodiscard]] float score(TokenId id) const { return scores_.empty() ? 0.0F : scores_[id]; }
  [[nodiscard]] TokenTraits traits(TokenId id) const { return traits_[id]; }

  [[nodiscard]] std::optional<TokenId> find(std::string_view text) const;
  // The token `<0xHH>` of a byte.
  [[nodiscard]] std::optional<TokenId> byte_token(std::uint8_t byte) const;

  [[nodiscard]] TokenizerModel model() const { return model_; }
  // Of BytePair and Gemma4 models; null otherwise.
  [[nodiscard]] const PreTokenizer* pre_tokenizer() const { return pre_tokenizer_; }

  // Parts of merge `rank`; texts that are no tokens are allowed.
  struct Merge {
    std::string_view left, right;
  };
  [[nodiscard]] std::size_t merge_count() const { return merges_.size(); }
  [[nodiscard]] Merge merge(std::size_t rank) const {
    const std::string_view both = merges_[rank].text;
    return {both.substr(0, merges_[rank].space), both.substr(merges_[rank].space + 1)};
  }

  [[nodiscard]] std::optional<TokenId> beginning() const { return beginning_; }
  [[nodiscard]] std::optional<TokenId> end() const { return end_; }
  [[nodiscard]] std::optional<TokenId> unknown() const { return unknown_; }
  [[nodiscard]] bool adds_beginning() const { return adds_beginning_; }
  [[nodiscard]] bool adds_end() const { return adds_end_; }
  [[nodiscard]] bool adds_space_prefix() const { return adds_space_prefix_; }
  [[nodiscard]] bool removes_extra_spaces() const { return removes_extra_spaces_; }
  // `tokenizer.ggml.precompiled_charsmap` of Unigram models, or empty.
  [[nodiscard]] std::string_view character_map() const { return character_map_; }

  // Sentences about odd but usable metadata.
  [[nodiscard]] std::span<const std::string> warnings() const { return warnings_; }

 private:
  struct MergeText {
    std::string text;
    std::size_t space;
  };
  friend class VocabularyReader;
  Vocabulary() = default;

  TokenizerModel model_ = TokenizerModel::BytePair;
  const PreTokenizer* pre_tokenizer_ = nullptr;
  std::vector<std::string> texts_;
  std::vector<float> scores_;
  std::vector<TokenTraits> traits_;
  std::unordered_map<std::string_view, TokenId> ids_;  // keys lie in texts_
  std::vector<MergeText> merges_;
  std::string character_map_;
  std::optional<TokenId> beginning_, end_, unknown_;
  bool adds_beginning_ = false;
  bool adds_end_ = false;
  bool adds_space_prefix_ = false;
  bool removes_extra_spaces_ = false;
  std::vector<std::string> warnings_;
};

}  // namespace quantfit

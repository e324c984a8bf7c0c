// Cutting tokens into windows as the field's tools for perplexity and importance matrices do, so that figures
// can be laid side by side.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tokenizer/token.h"
#include "core/tokenizer/tokenizer.h"

namespace quantfit {

// Tokens in windows of equal length, each a sequence of its own with positions 0 .. window_tokens - 1. What
// is left over at the end of the text is dropped.
class TokenWindows {
 public:
  // `beginning`: the token that replaces the first one of each window in inputs(), or nothing. `skip`:
  // windows left out at the beginning; `most`: windows kept after these. InvalidArgument when window_tokens
  // is below 2, there are fewer than two windows of tokens (the tools of the field refuse such texts, too),
  // or nothing is left after `skip`.
  [[nodiscard]] static Result<TokenWindows> cut(std::vector<TokenId> tokens, std::size_t window_tokens,
                                                std::optional<TokenId> beginning, std::size_t skip = 0,
                                                std::optional<std::size_t> most = std::nullopt);

  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] std::size_t window_tokens() const { return window_tokens_; }

  // Window `index` as the text has it: what predictions are compared with. Position j predicts element j + 1.
  [[nodiscard]] std::span<const TokenId> text(std::size_t index) const;
  // What the model reads: the same with the first token replaced by the beginning token. window_tokens() ids
  // are written to `out`.
  void inputs(std::size_t index, std::span<TokenId> out) const;

  // Positions whose predictions count for perplexity and KL divergence: those that have seen half a window,
  // and have a next token. first_scored() .. first_scored() + scored() - 1.
  [[nodiscard]] std::size_t first_scored() const { return window_tokens_ / 2; }
  [[nodiscard]] std::size_t scored() const { return window_tokens_ - 1 - window_tokens_ / 2; }

 private:
  TokenWindows() = default;
  std::vector<TokenId> tokens_;  // of the kept windows
  std::size_t window_tokens_ = 0;
  std::size_t count_ = 0;
  std::optional<TokenId> beginning_;
};

// The tokens of a whole text as those tools make them before cutting: with a beginning token when the model
// wants one, without an end token, special tokens as `parse_special` says (they default to false).
[[nodiscard]] Result<std::vector<TokenId>> tokens_of_text(const Tokenizer& tokenizer, std::string_view text,
                                                          bool parse_special = false);

}  // namespace quantfit

#include "core/tokenizer/token_windows.h"

#include <algorithm>
#include <utility>

namespace quantfit {

Result<TokenWindows> TokenWindows::cut(std::vector<TokenId> tokens, std::size_t window_tokens,
                                       std::optional<TokenId> beginning, std::size_t skip,
                                       std::optional<std::size_t> most) {
  if (window_tokens < 2)
    return fail(ErrorCode::InvalidArgument, "windows of {} tokens: at least 2 are needed", window_tokens);
  const std::size_t all = tokens.size() / window_tokens;
  if (all < 2)
    return fail(
        ErrorCode::InvalidArgument,
        "the text has {} tokens: at least two windows of {} are needed; give more text or shorter windows",
        tokens.size(), window_tokens);
  const std::size_t left = all > skip ? all - skip : 0;
  const std::size_t count = std::min(left, most.value_or(left));
  if (count == 0)
    return fail(ErrorCode::InvalidArgument,
                "no window is left: the text has {}, {} are skipped, at most {} kept", all, skip,
                most.value_or(left));
  TokenWindows windows;
  const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(skip * window_tokens);
  tokens.erase(first + static_cast<std::ptrdiff_t>(count * window_tokens), tokens.end());
  tokens.erase(tokens.begin(), first);
  windows.tokens_ = std::move(tokens);
  windows.window_tokens_ = window_tokens;
  windows.count_ = count;
  windows.beginning_ = beginning;
  return windows;
}

std::span<const TokenId> TokenWindows::text(std::size_t index) const {
  return std::span(tokens_).subspan(index * window_tokens_, window_tokens_);
}

void TokenWindows::inputs(std::size_t index, std::span<TokenId> out) const {
  std::ranges::copy(text(index), out.begin());
  if (beginning_) out[0] = *beginning_;
}

Result<std::vector<TokenId>> tokens_of_text(const Tokenizer& tokenizer, std::string_view text,
                                            bool parse_special) {
  QF_ASSIGN(auto tokens, tokenizer.encode(text, {.add_special = true, .parse_special = parse_special}));
  if (tokenizer.vocabulary().adds_end()) tokens.pop_back();
  return tokens;
}

}  // namespace quantfit

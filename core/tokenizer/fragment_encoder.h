// What the tokenizer models have in common: text without special tokens goes in, token ids come out.
#pragma once

#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tokenizer/token.h"

namespace quantfit {

// Immutable: any number of threads may encode at once.
class FragmentEncoder {
 public:
  FragmentEncoder() = default;
  FragmentEncoder(const FragmentEncoder&) = delete;
  FragmentEncoder& operator=(const FragmentEncoder&) = delete;
  virtual ~FragmentEncoder() = default;

  // Appends the tokens of `fragment`, any bytes. `after_token`: it is the beginning of the text, or a special
  // token stands before it. Malformed when the vocabulary has no tokens for some byte of it.
  [[nodiscard]] virtual Result<void> encode(std::string_view fragment, bool after_token,
                                            std::vector<TokenId>& out) const = 0;
};

}  // namespace quantfit

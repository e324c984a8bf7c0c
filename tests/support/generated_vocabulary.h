// Small vocabularies made from a text, as metadata that our tokenizer and the real client both read.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf_value.h"

namespace quantfit::test {

// A token beyond those that come from the text.
struct ExtraToken {
  std::string text;
  std::int32_t type = 3;  // as in `tokenizer.ggml.token_type`: 3 control, 4 user-defined
};

// `tokenizer.ggml.model` gpt2 with that pre-tokenizer: the 256 bytes, then `merges` merges, each joining the
// pair that is most frequent in the words of `text`, then `extra`. With `byte_level` false the vocabulary is
// written in characters, spaces as U+2581, with tokens <0x00> .. <0xFF>: for the pre-tokenizers that do not
// merge bytes.
[[nodiscard]] GgufMetadata byte_pair_vocabulary(std::string_view pre, std::string_view text,
                                                std::size_t merges, const std::vector<ExtraToken>& extra = {},
                                                bool byte_level = true);

// `tokenizer.ggml.model` "llama" or "t5": <unk>, <s>, </s>, for llama the 256 bytes, the frequent substrings
// of `text` of up to 8 characters with the logarithms of their frequencies as scores, then `extra`.
[[nodiscard]] GgufMetadata scored_vocabulary(std::string_view model, std::string_view text,
                                             std::size_t tokens, const std::vector<ExtraToken>& extra = {});

// Mixed text of about `bytes` bytes: words in several scripts, numbers, code, marks, odd spaces, line ends of
// every kind, symbols, code points without category. The same for the same seed, on every machine.
// Well-formed UTF-8.
[[nodiscard]] std::string mixed_text(std::size_t bytes, unsigned seed);

}  // namespace quantfit::test

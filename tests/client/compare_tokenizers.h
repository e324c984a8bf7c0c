// Our tokens beside those of the real client, on generated vocabularies and texts.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"

namespace quantfit::test {

// How a comparison of two token lists ended: "" when they agree, else a sentence with the first difference
// and the text around it.
struct TokenizerComparison {
  std::string difference;
  std::size_t tokens = 0;
};

// Tokenizes `text` with both, under every combination of the two options.
[[nodiscard]] Result<TokenizerComparison> compare_tokenizers(const GgufMetadata& metadata,
                                                             std::string_view text);

// A vocabulary for each of our pre-tokenizers and tokenizer models, with special tokens, made from
// `training`.
struct NamedVocabulary {
  std::string name;
  GgufMetadata metadata;
};
[[nodiscard]] std::vector<NamedVocabulary> vocabularies_of_every_kind(std::string_view training);

}  // namespace quantfit::test

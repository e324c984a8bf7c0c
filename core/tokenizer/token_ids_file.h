// Token ids from a text file, in place of a text, where the tokenizer of a model is not known here.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tokenizer/token.h"

namespace quantfit {

// Decimal numbers separated by white space (blanks, tabs, line ends), each below `vocabulary_size`. `name` is
// what messages call the text. Malformed, with line and column, for anything else and for a text without ids.
[[nodiscard]] Result<std::vector<TokenId>> parse_token_ids(std::string_view text, std::size_t vocabulary_size,
                                                           std::string_view name);

// The same from a file of at most 2 GiB. Io and Unsupported as read_text_file.
[[nodiscard]] Result<std::vector<TokenId>> read_token_ids(const std::filesystem::path& path,
                                                          std::size_t vocabulary_size);

}  // namespace quantfit

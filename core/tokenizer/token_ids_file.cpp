#include "core/tokenizer/token_ids_file.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string>
#include <utility>

#include "core/file_util.h"
#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::string_view kWhiteSpace = " \t\r\n\v\f";
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 31;

}  // namespace

Result<std::vector<TokenId>> parse_token_ids(std::string_view text, std::size_t vocabulary_size,
                                             std::string_view name) {
  std::vector<TokenId> ids;
  std::size_t line = 1, line_begin = 0, at = 0;
  for (;;) {
    while (at < text.size() && kWhiteSpace.find(text[at]) != std::string_view::npos) {
      if (text[at++] != '\n') continue;
      ++line;
      line_begin = at;
    }
    if (at == text.size()) break;
    const std::size_t end = std::min(text.find_first_of(kWhiteSpace, at), text.size());
    const std::string_view word = text.substr(at, end - at);
    std::uint64_t id = 0;
    const auto [last, status] = std::from_chars(word.data(), word.data() + word.size(), id);
    const bool number = last == word.data() + word.size() && status != std::errc::invalid_argument;
    if (!number)
      return fail(ErrorCode::Malformed,
                  "{}: line {}, column {}: {} is no token id: whole numbers are expected", name, line,
                  at - line_begin + 1, printable(word));
    if (status == std::errc::result_out_of_range || id >= vocabulary_size)
      return fail(ErrorCode::Malformed, "{}: line {}, column {}: token {} is not in the vocabulary of {}",
                  name, line, at - line_begin + 1, word, vocabulary_size);
    ids.push_back(static_cast<TokenId>(id));
    at = end;
  }
  if (ids.empty()) return fail(ErrorCode::Malformed, "{}: no token ids in it", name);
  return ids;
}

Result<std::vector<TokenId>> read_token_ids(const std::filesystem::path& path, std::size_t vocabulary_size) {
  QF_ASSIGN(const std::string text, read_text_file(path, kMostBytes));
  return parse_token_ids(text, vocabulary_size, path.string());
}

}  // namespace quantfit

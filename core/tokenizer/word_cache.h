// Words that were merged before, within one text: natural text repeats most of its words.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/tokenizer/token.h"

namespace quantfit {

// A table with one place per hash; a newer word takes the place of an older one. The tokens are not stored:
// they stand in the output, which only grows. One thread.
class WordCache {
 public:
  // `text_bytes`: of all the words to come.
  explicit WordCache(std::size_t text_bytes)
      : entries_(std::bit_ceil(std::clamp<std::size_t>(text_bytes / 8, 16, kMostEntries))) {}

  // Appends the tokens of `word` to `out` if they are known; otherwise has `merge` append them. Words must
  // stay where they are, and `out` must keep what it has, as long as the cache is used.
  template <class Merge>
  void encode(std::string_view word, std::vector<TokenId>& out, Merge merge) {
    if (word.size() > kLongestWord) return merge(word, out);
    const std::uint64_t hash = XXH3_64bits(word.data(), word.size());
    Entry& entry = entries_[hash & (entries_.size() - 1)];
    if (entry.hash == hash && std::string_view(entry.word, entry.length) == word) {
      const std::size_t end = out.size();
      out.resize(end + entry.count);
      std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(entry.begin), entry.count,
                  out.begin() + static_cast<std::ptrdiff_t>(end));
      return;
    }
    const std::size_t begin = out.size();
    merge(word, out);
    entry = {hash, word.data(), begin, static_cast<std::uint32_t>(word.size()),
             static_cast<std::uint32_t>(out.size() - begin)};
  }

 private:
  static constexpr std::size_t kMostEntries = std::size_t{1}
                                              << 15;  // 1.25 MiB, what a second-level cache holds
  static constexpr std::size_t kLongestWord = 256;    // longer ones are not likely to come again

  struct Entry {
    std::uint64_t hash = 0;
    const char* word = "";
    std::size_t begin = 0;  // of the tokens in the output
    std::uint32_t length = 0;
    std::uint32_t count = 0;
  };
  std::vector<Entry> entries_;
};

}  // namespace quantfit

#include "core/tokenizer/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <utility>

#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/utf8.h"
#include "core/tokenizer/visible_space.h"
#include "core/tokenizer/word_cache.h"

namespace quantfit {
namespace {

// Up to so many parts, looking at all pairs for the lowest rank is faster than keeping a queue.
constexpr std::size_t kShortWord = 24;

[[nodiscard]] std::size_t pair_hash(std::uint32_t left, std::uint32_t right) {
  std::uint64_t key = (std::uint64_t{left} << 32) | right;
  key *= 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
  return key ^ (key >> 29);
}

}  // namespace

Result<std::unique_ptr<const BytePairEncoder>> BytePairEncoder::create(const Vocabulary& vocabulary) {
  if (vocabulary.size() + 3 * vocabulary.merge_count() + 256 >= kNoSymbol)
    return fail(ErrorCode::Unsupported, "a vocabulary of {} tokens and {} merges is too large",
                vocabulary.size(), vocabulary.merge_count());
  QF_ASSIGN(Splitter splitter, Splitter::create(vocabulary.pre_tokenizer()->passes));
  std::unique_ptr<BytePairEncoder> encoder(new BytePairEncoder(vocabulary, std::move(splitter)));
  encoder->build();
  return std::unique_ptr<const BytePairEncoder>(std::move(encoder));
}

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary, Splitter splitter)
    : vocabulary_(vocabulary),
      splitter_(std::move(splitter)),
      byte_level_(vocabulary.pre_tokenizer()->byte_level) {}

void BytePairEncoder::build() {
  symbols_.reserve(vocabulary_.size() + vocabulary_.merge_count());
  for (TokenId id = 0; id < vocabulary_.size(); ++id) intern(vocabulary_.text(id));
  pairs_.resize(std::bit_ceil(2 * vocabulary_.merge_count() + 2));
  for (std::size_t rank = 0; rank < vocabulary_.merge_count(); ++rank) {
    const auto [left, right] = vocabulary_.merge(rank);
    std::string joined = std::string(left) + std::string(right);
    Symbol joined_symbol = find_symbol(joined);
    if (joined_symbol == kNoSymbol) joined_symbol = intern(joined_texts_.emplace_back(std::move(joined)));
    add_pair(intern(left), intern(right), static_cast<std::uint32_t>(rank), joined_symbol);
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    std::string text(1, character);
    byte_tokens_[byte] =
        byte_level_ ? vocabulary_.find(text) : vocabulary_.byte_token(static_cast<std::uint8_t>(byte));
    if (byte_level_) text = to_byte_alphabet(text);
    byte_symbols_[byte] = find_symbol(text);
  }
}

BytePairEncoder::Symbol BytePairEncoder::intern(std::string_view text) {
  const auto [known, is_new] = symbols_.emplace(text, static_cast<Symbol>(symbol_texts_.size()));
  if (is_new) {
    symbol_texts_.push_back(text);
    symbol_tokens_.push_back(vocabulary_.find(text));
  }
  return known->second;
}

BytePairEncoder::Symbol BytePairEncoder::find_symbol(std::string_view text) const {
  const auto found = symbols_.find(text);
  return found == symbols_.end() ? kNoSymbol : found->second;
}

void BytePairEncoder::add_pair(Symbol left, Symbol right, std::uint32_t rank, Symbol joined) {
  const std::size_t mask = pairs_.size() - 1;
  std::size_t at = pair_hash(left, right) & mask;
  for (; pairs_[at].rank != kNoRank; at = (at + 1) & mask)
    if (pairs_[at].left == left && pairs_[at].right == right) return;  // the first of equal merges counts
  pairs_[at] = {left, right, rank, joined};
}

const BytePairEncoder::PairEntry* BytePairEncoder::find_pair(Symbol left, Symbol right) const {
  if (left == kNoSymbol || right == kNoSymbol) return nullptr;
  const std::size_t mask = pairs_.size() - 1;
  for (std::size_t at = pair_hash(left, right) & mask; pairs_[at].rank != kNoRank; at = (at + 1) & mask)
    if (pairs_[at].left == left && pairs_[at].right == right) return &pairs_[at];
  return nullptr;
}

std::vector<BytePairEncoder::Part> BytePairEncoder::parts_of(std::string_view word) const {
  std::vector<Part> parts;
  parts.reserve(word.size());
  for (std::size_t at = 0; at < word.size();) {
    const std::uint32_t length = byte_level_ ? 1 : utf8_length(word[at]);
    const Symbol symbol = length == 1 ? byte_symbols_[static_cast<unsigned char>(word[at])]
                                      : find_symbol(word.substr(at, length));
    const auto index = static_cast<std::uint32_t>(parts.size());
    parts.push_back({symbol, static_cast<std::uint32_t>(at), length, index - 1, index + 1});
    at += length;
  }
  parts.front().previous = kEnd;
  parts.back().next = kEnd;
  return parts;
}

void BytePairEncoder::merge_short(std::vector<Part>& parts) const {
  // pair[i]: the merge of part i and the part after it.
  std::array<const PairEntry*, kShortWord> pair{};
  std::size_t count = parts.size();
  for (std::size_t i = 0; i + 1 < count; ++i) pair[i] = find_pair(parts[i].symbol, parts[i + 1].symbol);
  for (;;) {
    std::size_t best = count;
    for (std::size_t i = 0; i + 1 < count; ++i)
      if (pair[i] != nullptr && (best == count || pair[i]->rank < pair[best]->rank)) best = i;
    if (best == count) break;
    parts[best].symbol = pair[best]->joined;
    parts[best].length += parts[best + 1].length;
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    std::copy(pair.begin() + static_cast<std::ptrdiff_t>(best) + 2,
              pair.begin() + static_cast<std::ptrdiff_t>(count),
              pair.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    --count;
    if (best > 0) pair[best - 1] = find_pair(parts[best - 1].symbol, parts[best].symbol);
    pair[best] = best + 1 < count ? find_pair(parts[best].symbol, parts[best + 1].symbol) : nullptr;
  }
}

void BytePairEncoder::merge_long(std::vector<Part>& parts) const {
  // Every merge adds at most two pairs to the queue: O(n log n).
  struct Candidate {
    std::uint64_t order;  // rank, then position
    Symbol left, right;   // as they were; either differs when the pair is gone
  };
  const auto later = [](const Candidate& a, const Candidate& b) { return a.order > b.order; };
  std::vector<Candidate> storage;
  storage.reserve(parts.size());
  std::priority_queue<Candidate, std::vector<Candidate>, decltype(later)> queue(later, std::move(storage));
  const auto offer = [&](std::uint32_t left) {
    if (left == kEnd || parts[left].next == kEnd) return;
    const Symbol right = parts[parts[left].next].symbol;
    if (const PairEntry* pair = find_pair(parts[left].symbol, right))
      queue.push({(std::uint64_t{pair->rank} << 32) | left, parts[left].symbol, right});
  };
  for (std::uint32_t i = 0; i < parts.size(); ++i) offer(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    const auto left = static_cast<std::uint32_t>(candidate.order);
    Part& part = parts[left];
    if (part.length == 0 || part.symbol != candidate.left || part.next == kEnd) continue;
    Part& right = parts[part.next];
    if (right.symbol != candidate.right) continue;
    part.symbol = find_pair(candidate.left, candidate.right)->joined;
    part.length += right.length;
    right.length = 0;
    part.next = right.next;
    if (part.next != kEnd) parts[part.next].previous = left;
    offer(part.previous);
    offer(left);
  }
  std::erase_if(parts, [](const Part& part) { return part.length == 0; });
}

void BytePairEncoder::emit(const Part& part, std::string_view word, std::vector<TokenId>& out) const {
  if (part.symbol != kNoSymbol && symbol_tokens_[part.symbol]) {
    out.push_back(*symbol_tokens_[part.symbol]);
    return;
  }
  // Byte level: the characters of the written form; otherwise the bytes of the word. Bytes without a token
  // are dropped, as the field's programs do.
  const std::string_view bytes = word.substr(part.begin, part.length);
  for (const char byte : byte_level_ ? to_byte_alphabet(bytes) : std::string(bytes))
    if (const auto token = byte_tokens_[static_cast<unsigned char>(byte)]) out.push_back(*token);
}

void BytePairEncoder::merge_word(std::string_view word, std::vector<TokenId>& out) const {
  const PreTokenizer& rules = *vocabulary_.pre_tokenizer();
  const bool whole =
      rules.ignore_merges || (rules.newline_words && word.find_first_not_of('\n') == std::string_view::npos);
  if (whole) {
    const auto token = byte_level_ ? vocabulary_.find(to_byte_alphabet(word)) : vocabulary_.find(word);
    if (token) {
      out.push_back(*token);
      return;
    }
  }
  std::vector<Part> parts = parts_of(word);
  if (parts.size() <= kShortWord)
    merge_short(parts);
  else
    merge_long(parts);
  for (const Part& part : parts) emit(part, word, out);
}

Result<void> BytePairEncoder::encode(std::string_view fragment, bool, std::vector<TokenId>& out) const {
  const bool rewrites = vocabulary_.pre_tokenizer()->visible_spaces;
  const std::string visible = rewrites ? with_visible_spaces(fragment) : std::string();
  const DecodedText text(rewrites ? std::string_view(visible) : fragment);
  QF_ASSIGN(const auto lengths, splitter_.split(text.code_points));
  WordCache cache(text.bytes.size());
  std::size_t at = 0;
  for (const std::uint32_t length : lengths) {
    std::size_t end = at;
    for (std::uint32_t i = 0; i < length; ++i) end += utf8_length(text.bytes[end]);
    cache.encode(text.bytes.substr(at, end - at), out,
                 [&](std::string_view word, std::vector<TokenId>& tokens) { merge_word(word, tokens); });
    at = end;
  }
  return outcome::success();
}

}  // namespace quantfit

#include "core/tokenizer/sentence_piece_encoder.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>
#include <string>
#include <utility>

#include "core/tokenizer/utf8.h"
#include "core/tokenizer/visible_space.h"
#include "core/tokenizer/word_cache.h"

namespace quantfit {
namespace {

// The character at `at`, cut at the end of the text; nothing is validated.
[[nodiscard]] std::string_view character_at(std::string_view text, std::size_t at) {
  return text.substr(at, utf8_length(text[at]));
}

// The at most four bytes of a character as a number.
[[nodiscard]] std::uint64_t packed(std::string_view character) {
  std::uint64_t value = 0;
  for (const char c : character) value = (value << 8) | static_cast<unsigned char>(c);
  return value;
}

}  // namespace

SentencePieceEncoder::SentencePieceEncoder(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {
  std::size_t joins = 0;
  for (TokenId id = 0; id < vocabulary.size(); ++id) joins += vocabulary.text(id).size();
  // Most joins are shared by many tokens: few of the bits are set.
  joins_.resize(std::bit_ceil(std::clamp<std::size_t>(4 * joins, 1 << 10, 1 << 24)));
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.text(id);
    std::string_view previous;
    for (std::size_t at = 0; at < text.size();) {
      const std::string_view next = character_at(text, at);
      if (at > 0) joins_[join_bit(previous, next)] = true;
      previous = next;
      at += next.size();
    }
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_tokens_[byte] = vocabulary.byte_token(static_cast<std::uint8_t>(byte));
    if (!byte_tokens_[byte]) byte_tokens_[byte] = vocabulary.find(std::string(1, static_cast<char>(byte)));
  }
}

std::size_t SentencePieceEncoder::join_bit(std::string_view left, std::string_view right) const {
  std::uint64_t key = (packed(left) << 32) | packed(right);
  key *= 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
  return (key ^ (key >> 32)) & (joins_.size() - 1);
}

bool SentencePieceEncoder::may_join(std::string_view left, std::string_view right) const {
  return joins_[join_bit(left, right)];
}

Result<void> SentencePieceEncoder::emit(std::string_view part, std::vector<TokenId>& out) const {
  if (const auto token = vocabulary_.find(part)) {
    out.push_back(*token);
    return outcome::success();
  }
  for (const char byte : part) {
    const auto token = byte_tokens_[static_cast<unsigned char>(byte)];
    if (!token)
      return fail(ErrorCode::Malformed,
                  "the vocabulary has neither '<0x{:02X}>' nor another token for that byte",
                  static_cast<unsigned char>(byte));
    out.push_back(*token);
  }
  return outcome::success();
}

Result<void> SentencePieceEncoder::merge_piece(std::string_view piece, std::vector<TokenId>& out) const {
  std::vector<Part> parts;
  parts.reserve(piece.size());
  for (std::size_t at = 0; at < piece.size();) {
    const std::string_view text = character_at(piece, at);
    const auto index = static_cast<std::uint32_t>(parts.size());
    parts.push_back({text, index - 1, index + 1});
    at += text.size();
  }
  parts.front().previous = kEnd;
  parts.back().next = kEnd;

  // Every merge adds at most two pairs to the queue: O(n log n).
  struct Candidate {
    float score;
    std::uint32_t left;
    std::size_t length;  // of both; differs when either has changed
  };
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.score < b.score || (a.score == b.score && a.left > b.left);
  };
  std::priority_queue<Candidate, std::vector<Candidate>, decltype(later)> queue(later);
  const auto joined = [](const Part& left, const Part& right) {
    return std::string_view(left.text.data(), left.text.size() + right.text.size());
  };
  const auto offer = [&](std::uint32_t left) {
    if (left == kEnd || parts[left].next == kEnd) return;
    const std::string_view both = joined(parts[left], parts[parts[left].next]);
    if (const auto token = vocabulary_.find(both)) queue.push({vocabulary_.score(*token), left, both.size()});
  };
  for (std::uint32_t i = 0; i < parts.size(); ++i) offer(i);
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Part& left = parts[candidate.left];
    if (left.text.empty() || left.next == kEnd) continue;
    Part& right = parts[left.next];
    if (left.text.size() + right.text.size() != candidate.length) continue;
    left.text = joined(left, right);
    right.text = {};
    left.next = right.next;
    if (left.next != kEnd) parts[left.next].previous = candidate.left;
    offer(left.previous);
    offer(candidate.left);
  }
  for (const Part& part : parts)
    if (!part.text.empty()) QF_TRY(emit(part.text, out));
  return outcome::success();
}

Result<void> SentencePieceEncoder::encode(std::string_view fragment, bool after_token,
                                          std::vector<TokenId>& out) const {
  std::string text;
  if (vocabulary_.adds_space_prefix() && after_token) text = kVisibleSpace;
  text += with_visible_spaces(fragment);
  if (text.size() >= kEnd)
    return fail(ErrorCode::InvalidArgument, "a text of {} bytes is too long", text.size());
  WordCache cache(text.size());
  Result<void> status = outcome::success();
  const auto merge = [&](std::string_view piece, std::vector<TokenId>& tokens) {
    if (status) status = merge_piece(piece, tokens);
  };
  std::string_view rest = text;
  while (!rest.empty() && status) {
    std::string_view last = character_at(rest, 0);
    std::size_t end = last.size();
    while (end < rest.size()) {
      const std::string_view next = character_at(rest, end);
      if (!may_join(last, next)) break;
      end += next.size();
      last = next;
    }
    cache.encode(rest.substr(0, end), out, merge);
    rest.remove_prefix(end);
  }
  return status;
}

}  // namespace quantfit

#include "core/tokenizer/unigram_encoder.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/tokenizer/utf8.h"
#include "core/tokenizer/visible_space.h"

namespace quantfit {
namespace {

// Below the least score of normal tokens: what an unknown character costs.
constexpr double kUnknownPenalty = 10;

constexpr std::string_view kUnreadable = "\xEF\xBF\xBD";  // U+FFFD

// One unit of the double array that maps texts to replacements.
struct MapUnit {
  std::uint32_t bits;
  [[nodiscard]] std::uint32_t base() const { return (bits >> 10) << ((bits & 0x200) >> 6); }
  [[nodiscard]] std::uint32_t check() const { return bits & 0x800000FF; }
  [[nodiscard]] bool has_leaf() const { return (bits & 0x100) != 0; }
  [[nodiscard]] std::uint32_t value() const { return bits & 0x7FFFFFFF; }
};

}  // namespace

Result<std::unique_ptr<const UnigramEncoder>> UnigramEncoder::create(const Vocabulary& vocabulary,
                                                                     std::string_view file) {
  std::unique_ptr<UnigramEncoder> encoder(new UnigramEncoder(vocabulary));
  QF_TRY(encoder->build(file));
  return std::unique_ptr<const UnigramEncoder>(std::move(encoder));
}

Result<void> UnigramEncoder::build(std::string_view file) {
  if (!vocabulary_.unknown())
    return fail(ErrorCode::Malformed,
                "{}: tokenizer.ggml.unknown_token_id: a unigram model needs an unknown token", file);
  unknown_ = *vocabulary_.unknown();
  double least = std::numeric_limits<double>::max();
  for (TokenId id = 0; id < vocabulary_.size(); ++id) {
    const TokenTraits traits = vocabulary_.traits(id);
    const std::string_view text = vocabulary_.text(id);
    if (traits.normal) least = std::min<double>(least, vocabulary_.score(id));
    if (traits.normal || traits.user_defined || traits.unused) tokens_.insert(text, id);
    if (traits.user_defined) user_defined_.insert(text, id);
  }
  unknown_score_ = least - kUnknownPenalty;

  const std::string_view map = vocabulary_.character_map();
  if (map.empty()) return outcome::success();
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::Malformed, "{}: tokenizer.ggml.precompiled_charsmap: {}", file, why);
  };
  std::uint32_t bytes = 0;
  if (map.size() < sizeof(bytes)) return bad("too short");
  std::memcpy(&bytes, map.data(), sizeof(bytes));
  if (bytes % sizeof(std::uint32_t) != 0 || bytes > map.size() - sizeof(bytes))
    return bad("its table does not fit in it");
  map_.resize(bytes / sizeof(std::uint32_t));
  if (!map_.empty()) std::memcpy(map_.data(), map.data() + sizeof(bytes), bytes);
  replacements_ = map.substr(sizeof(bytes) + bytes);
  if (!replacements_.empty() && replacements_.back() != '\0') return bad("its last text has no end");
  return outcome::success();
}

std::optional<UnigramEncoder::Normalized> UnigramEncoder::mapped(std::string_view text) const {
  std::optional<Normalized> longest;
  if (map_.empty()) return longest;
  std::uint32_t node = MapUnit{map_[0]}.base();
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0) break;
    node ^= byte;
    if (node >= map_.size() || MapUnit{map_[node]}.check() != byte) break;
    const MapUnit unit{map_[node]};
    node ^= unit.base();
    if (!unit.has_leaf()) continue;
    if (node >= map_.size()) break;
    const std::uint32_t at = MapUnit{map_[node]}.value();
    if (at >= replacements_.size()) break;
    const std::string_view rest = replacements_.substr(at);
    longest = {rest.substr(0, rest.find('\0')), i + 1};
  }
  return longest;
}

UnigramEncoder::Normalized UnigramEncoder::normalize_at(std::string_view text) const {
  std::size_t longest = 0;
  ByteTrie::Node node = ByteTrie::kRoot;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto next = user_defined_.child(node, text[i]);
    if (!next) break;
    node = *next;
    if (user_defined_.value(node)) longest = i + 1;
  }
  if (longest > 0) return {text.substr(0, longest), longest};
  if (const auto replaced = mapped(text)) return *replaced;
  const DecodedCharacter character = decode_utf8(text, 0);
  if (!character.valid) return {kUnreadable, 1};
  return {text.substr(0, character.bytes), character.bytes};
}

std::string UnigramEncoder::normalize(std::string_view text) const {
  const bool removes = vocabulary_.removes_extra_spaces();
  std::string result;
  result.reserve(text.size() + text.size() / 4);
  bool in_word = false, prefix_due = vocabulary_.adds_space_prefix();
  while (!text.empty()) {
    const Normalized next = normalize_at(text);
    for (const char c : next.text) {
      if (c != ' ') {
        if (!in_word && (removes || prefix_due)) {
          result += kVisibleSpace;
          prefix_due = false;
        }
        in_word = true;
        result += c;
      } else {
        in_word = false;
        if (!removes) result += kVisibleSpace;
      }
    }
    text.remove_prefix(next.bytes);
  }
  return result;
}

Result<void> UnigramEncoder::encode(std::string_view fragment, bool, std::vector<TokenId>& out) const {
  const std::string text = normalize(fragment);
  if (text.empty()) return outcome::success();
  struct Best {
    double score = -std::numeric_limits<double>::max();
    std::size_t begin = 0;  // of the last token
    TokenId token = 0;
  };
  std::vector<Best> best(text.size() + 1);  // of the text up to here
  best[0].score = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t character = std::min<std::size_t>(utf8_length(text[at]), text.size() - at);
    bool whole_character = false;
    ByteTrie::Node node = ByteTrie::kRoot;
    for (std::size_t end = at; end < text.size();) {
      const auto next = tokens_.child(node, text[end]);
      if (!next) break;
      node = *next;
      ++end;
      const auto token = tokens_.value(node);
      if (!token) continue;
      if (end - at == character) whole_character = true;
      const double score =
          best[at].score +
          (vocabulary_.traits(*token).user_defined ? 0.0 : double{vocabulary_.score(*token)});
      if (score > best[end].score) best[end] = {score, at, *token};
    }
    if (!whole_character && best[at].score + unknown_score_ > best[at + character].score)
      best[at + character] = {best[at].score + unknown_score_, at, unknown_};
    at += character;
  }
  // From the end to the beginning; unknown characters side by side are one unknown token.
  const std::size_t first = out.size();
  bool after_unknown = false;
  for (std::size_t at = text.size(); at > 0; at = best[at].begin) {
    const bool unknown = best[at].token == unknown_;
    if (!unknown || !after_unknown) out.push_back(best[at].token);
    after_unknown = unknown;
  }
  std::reverse(out.begin() + static_cast<std::ptrdiff_t>(first), out.end());
  return outcome::success();
}

}  // namespace quantfit

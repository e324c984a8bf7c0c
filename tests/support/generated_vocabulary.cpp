#include "tests/support/generated_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <span>
#include <utility>

#include "core/tokenizer/byte_alphabet.h"
#include "core/tokenizer/utf8.h"
#include "core/tokenizer/visible_space.h"

namespace quantfit::test {
namespace {

struct Word {
  std::vector<std::string> parts;
  std::size_t count = 0;
};

std::vector<std::string> characters(std::string_view text) {
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = std::min<std::size_t>(utf8_length(text[at]), text.size() - at);
    result.emplace_back(text.substr(at, length));
    at += length;
  }
  return result;
}

// Words with the space in front of them, written in the vocabulary's alphabet.
std::vector<Word> words_of(std::string_view text, bool byte_level) {
  std::map<std::string, std::size_t> counts;
  std::size_t begin = 0;
  for (std::size_t at = 1; at <= text.size(); ++at) {
    if (at < text.size() && text[at] != ' ' && text[at] != '\n') continue;
    ++counts[std::string(text.substr(begin, at - begin))];
    begin = at;
  }
  std::vector<Word> words;
  for (const auto& [word, count] : counts)
    words.push_back({characters(byte_level ? to_byte_alphabet(word) : with_visible_spaces(word)), count});
  return words;
}

GgufKeyValue integers(std::string key, const std::vector<std::int32_t>& values) {
  return {std::move(key), GgufType::Array, GgufType::Int32, values.size(), std::as_bytes(std::span(values))};
}

GgufKeyValue floats(std::string key, const std::vector<float>& values) {
  return {std::move(key), GgufType::Array, GgufType::Float32, values.size(),
          std::as_bytes(std::span(values))};
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<std::int32_t> types;
  std::vector<float> scores;
  std::set<std::string> known;

  void add(const std::string& text, std::int32_t type, float score = 0) {
    if (!known.insert(text).second) return;
    texts.push_back(text);
    types.push_back(type);
    scores.push_back(score);
  }
};

GgufMetadata metadata_of(std::string_view model, const Tokens& tokens) {
  GgufMetadata metadata;
  metadata.set(GgufKeyValue::of_string("general.architecture", "llama"));
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.model", model));
  metadata.set(GgufKeyValue::of_string_array("tokenizer.ggml.tokens", tokens.texts));
  metadata.set(integers("tokenizer.ggml.token_type", tokens.types));
  return metadata;
}

std::string byte_token(unsigned byte) {
  return fmt::format("<0x{:02X}>", byte);
}

}  // namespace

GgufMetadata byte_pair_vocabulary(std::string_view pre, std::string_view text, std::size_t merges,
                                  const std::vector<ExtraToken>& extra, bool byte_level) {
  Tokens tokens;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string single(1, static_cast<char>(byte));
    if (byte_level)
      tokens.add(to_byte_alphabet(single), 1);
    else
      tokens.add(byte_token(byte), 6);
  }
  std::vector<Word> words = words_of(text, byte_level);
  if (!byte_level)
    for (const Word& word : words)
      for (const std::string& part : word.parts)
        if (part.size() == 1 || word.count > 3) tokens.add(part, 1);  // rare characters fall back to bytes
  std::vector<std::string> merge_texts;
  while (merge_texts.size() < merges) {
    std::map<std::pair<std::string, std::string>, std::size_t> counts;
    for (const Word& word : words)
      for (std::size_t i = 0; i + 1 < word.parts.size(); ++i)
        counts[{word.parts[i], word.parts[i + 1]}] += word.count;
    // The 32 most frequent pairs at once: nearly as good, and fast enough for tests.
    std::vector<std::pair<std::size_t, std::pair<std::string, std::string>>> order;
    for (const auto& [pair, count] : counts)
      if (count > 1) order.push_back({count, pair});
    if (order.empty()) break;
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return a.first > b.first || (a.first == b.first && a.second < b.second);
    });
    order.resize(std::min<std::size_t>({order.size(), 32, merges - merge_texts.size()}));
    for (const auto& [count, pair] : order) {
      merge_texts.push_back(pair.first + " " + pair.second);
      tokens.add(pair.first + pair.second, 1);
      for (Word& word : words)
        for (std::size_t i = 0; i + 1 < word.parts.size(); ++i)
          if (word.parts[i] == pair.first && word.parts[i + 1] == pair.second) {
            word.parts[i] += word.parts[i + 1];
            word.parts.erase(word.parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
          }
    }
  }
  for (const ExtraToken& token : extra) tokens.add(token.text, token.type);
  GgufMetadata metadata = metadata_of("gpt2", tokens);
  metadata.set(GgufKeyValue::of_string("tokenizer.ggml.pre", pre));
  metadata.set(GgufKeyValue::of_string_array("tokenizer.ggml.merges", merge_texts));
  return metadata;
}

GgufMetadata scored_vocabulary(std::string_view model, std::string_view text, std::size_t count,
                               const std::vector<ExtraToken>& extra) {
  Tokens tokens;
  if (model == "t5") {
    tokens.add("<pad>", 3);
    tokens.add("</s>", 3);
    tokens.add("<unk>", 2);
  } else {
    tokens.add("<unk>", 2);
    tokens.add("<s>", 3);
    tokens.add("</s>", 3);
    for (unsigned byte = 0; byte < 256; ++byte) tokens.add(byte_token(byte), 6);
  }
  std::map<std::string, std::size_t> counts;
  std::size_t all = 0;
  for (const Word& word : words_of(text, false)) {
    for (std::size_t begin = 0; begin < word.parts.size(); ++begin) {
      std::string part;
      for (std::size_t end = begin; end < std::min(word.parts.size(), begin + 8); ++end) {
        part += word.parts[end];
        counts[part] += word.count;
        all += word.count;
      }
    }
  }
  std::vector<std::pair<std::size_t, std::string>> order;
  for (const auto& [part, occurrences] : counts) order.push_back({occurrences * part.size(), part});
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  });
  order.resize(std::min(order.size(), count));
  for (const auto& [weight, part] : order)
    tokens.add(part, 1,
               static_cast<float>(std::log(static_cast<double>(counts[part]) / static_cast<double>(all))));
  for (const ExtraToken& token : extra) tokens.add(token.text, token.type);
  GgufMetadata metadata = metadata_of(model, tokens);
  metadata.set(floats("tokenizer.ggml.scores", tokens.scores));
  return metadata;
}

std::string mixed_text(std::size_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](std::uint32_t n) { return random() % n; };
  // First and last code points of what is drawn from, and how often.
  struct Range {
    char32_t first, last;
    unsigned weight;
  };
  static constexpr std::array kRanges = {
      Range{'a', 'z', 60},        Range{'A', 'Z', 12},        Range{0xC0, 0x24F, 6},
      Range{0x370, 0x3FF, 4},     Range{0x400, 0x4FF, 6},     Range{0x5D0, 0x5EA, 2},
      Range{0x620, 0x669, 4},     Range{0x900, 0x97F, 4},     Range{0xE01, 0xE5B, 4},
      Range{0x1000, 0x109F, 1},   Range{0x1780, 0x17FF, 1},   Range{0x3040, 0x30FF, 4},
      Range{0x3100, 0x318F, 1},   Range{0x4E00, 0x9FFF, 6},   Range{0xAC00, 0xD7A3, 4},
      Range{0x300, 0x36F, 3},     Range{0x2000, 0x206F, 2},   Range{0x2190, 0x23FF, 1},
      Range{0x1F300, 0x1F64F, 1}, Range{0xFF00, 0xFFEF, 1},   Range{0x10400, 0x1044F, 1},
      Range{0x20000, 0x20100, 1}, Range{0x2F800, 0x2F81F, 1}, Range{0xE000, 0xE0FF, 1},
      Range{0xF900, 0xFAFF, 1},   Range{0x0, 0x10FFFF, 1}};
  static constexpr std::array kSpaces = {" ",      " ",      " ",      " ",  "  ",      "   ",
                                         "\n",     "\n\n",   "\r\n",   "\t", " \n ",    "\u00a0",
                                         "\u3000", "\u2028", "\u0085", "\v", "        "};
  static constexpr std::array kSymbols = {
      ".", ",",  "!",      "?",      "...",    "(",      ")",      "{",      "};", "==", "+=", "<",
      ">", "/",  "\\",     "'",      "\"",     "$",      "^",      "`",      "|",  "~",  "_",  "@",
      "#", "//", "\u2026", "\u3002", "\u201c", "\u2019", "\u060c", "\u0964", "-",  "*",  "&",  "%"};
  static constexpr std::array kContractions = {"'s", "'t", "'re", "'ve", "'m", "'ll",
                                               "'d", "'S", "'LL", "'Re", "'x"};
  static constexpr std::array kTexts = {"<sentinel:12>", "IMGIMGABCDZ", "HTTPServerError", "<|im_end|>",
                                        "for (int i = 0;"};
  unsigned weights = 0;
  for (const Range& range : kRanges) weights += range.weight;
  // Natural texts repeat their words.
  std::vector<std::string> words;
  const auto new_word = [&] {
    std::uint32_t pick = below(weights);
    const Range* range = kRanges.data();
    while (pick >= range->weight) pick -= (range++)->weight;
    std::string word;
    for (std::uint32_t n = 1 + below(9); n > 0; --n) {
      const Range& from = below(12) == 0 ? kRanges[below(kRanges.size())] : *range;
      char32_t c = from.first + below(static_cast<std::uint32_t>(from.last - from.first + 1));
      if (c >= 0xD800 && c <= 0xDFFF) c = 'q';
      append_utf8(word, c);
    }
    return word;
  };
  std::string text;
  while (text.size() < bytes) {
    const std::uint32_t kind = below(100);
    if (kind < 30 && !words.empty()) {
      text += words[below(static_cast<std::uint32_t>(words.size()))];
    } else if (kind < 55) {
      words.push_back(new_word());
      text += words.back();
    } else if (kind < 63) {
      for (std::uint32_t n = 1 + below(below(4) == 0 ? 14 : 5); n > 0; --n)
        text += static_cast<char>('0' + below(10));
      if (below(10) == 0) text += "\u0663\u00b2\u2167";
    } else if (kind < 74) {
      for (std::uint32_t n = 1 + below(3); n > 0; --n) text += kSymbols[below(kSymbols.size())];
    } else if (kind < 78) {
      text += kContractions[below(kContractions.size())];
    } else if (kind < 79) {
      text += kTexts[below(kTexts.size())];
    }
    if (kind >= 79 || below(3) != 0) text += kSpaces[below(kSpaces.size())];
  }
  return text;
}

}  // namespace quantfit::test

#include "core/tokenizer/special_tokens.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace quantfit {
namespace {

// Length and first bytes of a text of at most four bytes, as one number.
[[nodiscard]] std::uint64_t prefix_key(std::string_view prefix) {
  std::uint64_t key = prefix.size();
  for (const char c : prefix) key = (key << 8) | static_cast<unsigned char>(c);
  return key;
}

// As std::string_view::find, in linear time whatever the texts.
[[nodiscard]] std::size_t find_text(std::string_view in, std::string_view what) {
  const void* found = memmem(in.data(), in.size(), what.data(), what.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - in.data());
}

[[nodiscard]] bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

}  // namespace

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary) {
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const TokenTraits traits = vocabulary.traits(id);
    if (!traits.special()) continue;
    entries_.push_back({vocabulary.text(id), id, !traits.control && !traits.unknown, traits.strips_right});
  }
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.text.size() > b.text.size(); });
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    const std::string_view prefix = entries_[i].text.substr(0, kPrefix);
    begins_[static_cast<unsigned char>(prefix[0])] = true;
    prefix_lengths_[prefix.size()] = true;
    by_prefix_[prefix_key(prefix)].push_back(i);
  }
}

std::vector<std::uint32_t> SpecialTokens::candidates(std::string_view text, bool parse) const {
  std::vector<std::uint32_t> found;
  if (entries_.empty()) return found;
  std::unordered_map<std::uint64_t, bool> seen;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!begins_[static_cast<unsigned char>(text[at])]) continue;
    for (std::size_t length = 1; length <= kPrefix && length <= text.size() - at; ++length) {
      if (!prefix_lengths_[length]) continue;
      const std::uint64_t key = prefix_key(text.substr(at, length));
      const auto entries = by_prefix_.find(key);
      if (entries == by_prefix_.end() || std::exchange(seen[key], true)) continue;
      for (const std::uint32_t entry : entries->second)
        if (parse || entries_[entry].always) found.push_back(entry);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<TextFragment> SpecialTokens::split(std::string_view text, bool parse) const {
  std::vector<TextFragment> fragments;
  if (text.empty()) return fragments;
  fragments.push_back({text, false, 0});
  std::vector<TextFragment> next;
  for (const std::uint32_t candidate : candidates(text, parse)) {
    const Entry& entry = entries_[candidate];
    next.clear();
    bool any = false;
    for (const TextFragment& fragment : fragments) {
      std::string_view rest = fragment.text;
      for (std::size_t at = 0;
           !fragment.is_token && (at = find_text(rest, entry.text)) != std::string_view::npos;) {
        any = true;
        if (at > 0) next.push_back({rest.substr(0, at), false, 0});
        next.push_back({rest.substr(at, entry.text.size()), true, entry.id});
        rest.remove_prefix(at + entry.text.size());
        if (entry.strips_right)
          while (!rest.empty() && is_space(rest.front())) rest.remove_prefix(1);
      }
      if (fragment.is_token)
        next.push_back(fragment);
      else if (!rest.empty())
        next.push_back({rest, false, 0});
    }
    if (any) std::swap(fragments, next);
  }
  return fragments;
}

}  // namespace quantfit

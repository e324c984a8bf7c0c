#include "core/tokenizer/byte_pattern.h"

#include <algorithm>
#include <bitset>
#include <charconv>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>

#include "core/tokenizer/utf8.h"

namespace quantfit {
namespace {

struct Interval {
  char32_t first, last;  // both included
};

class CodePointSet {
 public:
  void add(char32_t first, char32_t last) { intervals_.push_back({first, last}); }
  void add(const CodePointSet& other) {
    intervals_.insert(intervals_.end(), other.intervals_.begin(), other.intervals_.end());
  }
  // Sorted, disjoint, not adjacent.
  void normalize() {
    std::sort(intervals_.begin(), intervals_.end(),
              [](const Interval& a, const Interval& b) { return a.first < b.first; });
    std::vector<Interval> joined;
    for (const Interval& next : intervals_) {
      if (!joined.empty() && next.first <= joined.back().last + 1)
        joined.back().last = std::max(joined.back().last, next.last);
      else
        joined.push_back(next);
    }
    intervals_ = std::move(joined);
  }
  // Of a normalized set.
  [[nodiscard]] CodePointSet complement() const {
    CodePointSet result;
    char32_t next = 0;
    for (const Interval& interval : intervals_) {
      if (interval.first > next) result.add(next, interval.first - 1);
      next = interval.last + 1;
    }
    if (next <= kLastCodePoint) result.add(next, kLastCodePoint);
    return result;
  }
  [[nodiscard]] const std::vector<Interval>& intervals() const { return intervals_; }

 private:
  std::vector<Interval> intervals_;
};

[[nodiscard]] CodePointSet category_set(char category) {
  CodePointSet set;
  const auto ranges = unicode_categories();
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].category != category) continue;
    set.add(ranges[i].first, i + 1 < ranges.size() ? ranges[i + 1].first - 1 : kLastCodePoint);
  }
  return set;
}

// White space beyond ASCII, wherever it stands, is read as a vertical tab.
constexpr std::uint8_t kWhiteSpaceByte = 0x0B;

[[nodiscard]] CodePointSet white_space() {
  CodePointSet set;
  for (const Interval interval :
       {Interval{0x09, 0x0D}, Interval{0x20, 0x20}, Interval{0x85, 0x85}, Interval{0xA0, 0xA0},
        Interval{0x1680, 0x1680}, Interval{0x2000, 0x200A}, Interval{0x2028, 0x2029},
        Interval{0x202F, 0x202F}, Interval{0x205F, 0x205F}, Interval{0x3000, 0x3000}})
    set.add(interval.first, interval.last);
  return set;
}

[[nodiscard]] CodePointSet han() {
  CodePointSet set;
  for (const Interval interval :
       {Interval{0x3400, 0x4DBF}, Interval{0x4E00, 0x9FFF}, Interval{0xF900, 0xFAFF},
        Interval{0x20000, 0x2A6DF}, Interval{0x2A700, 0x2B73F}, Interval{0x2B740, 0x2B81F},
        Interval{0x2B820, 0x2CEAF}, Interval{0x2CEB0, 0x2EBEF}, Interval{0x2F800, 0x2FA1F}})
    set.add(interval.first, interval.last);
  return set;
}

[[nodiscard]] CodePointSet difference(CodePointSet set, std::initializer_list<Interval> removed) {
  set.normalize();
  CodePointSet others = set.complement();
  for (const Interval interval : removed) others.add(interval.first, interval.last);
  others.normalize();
  return others.complement();
}

[[nodiscard]] Result<CodePointSet> property_set(std::string_view name) {
  if (name == "L" || name == "Lu" || name == "Ll" || name == "Lt" || name == "Lm" || name == "Lo")
    return category_set('L');
  if (name == "N" || name == "P" || name == "S" || name == "M") return category_set(name[0]);
  if (name == "NotLower") return difference(category_set('L'), {{'a', 'z'}});
  if (name == "NotUpper") return difference(category_set('L'), {{'A', 'Z'}});
  if (name == "Blank") return difference(white_space(), {{'\r', '\r'}, {'\n', '\n'}});
  if (name == "Han") return han();
  if (name == "NotHan") {
    CodePointSet others = category_set('L');
    others.normalize();
    others = others.complement();
    others.add(han());
    others.normalize();
    return others.complement();
  }
  return fail(ErrorCode::InvalidArgument, "unknown property \\p{{{}}} in a pattern", name);
}

// Reads one pattern; collects its sets and the text between them.
class PatternReader {
 public:
  explicit PatternReader(std::string_view pattern) : pattern_(pattern) {}

  [[nodiscard]] Result<void> read() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '[') {
        ++at_;
        QF_TRY(bracket());
      } else if (c == '\\') {
        CodePointSet set;
        QF_ASSIGN(const bool is_set, escape(set));
        if (is_set) add_set(std::move(set), false);
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        const DecodedCharacter character = decode_utf8(pattern_, at_);
        at_ += character.bytes;
        CodePointSet set;
        set.add(character.code_point, character.code_point);
        add_set(std::move(set), false);
      } else {
        parts_.back().text += c;
        ++at_;
      }
    }
    return outcome::success();
  }

  [[nodiscard]] Result<BytePattern> finish() {
    QF_TRY(classify());
    BytePattern result;
    std::vector<std::uint8_t> by_code_point(kLastCodePoint + 1);
    for (const Kind& kind : kinds_)
      std::fill(by_code_point.begin() + kind.first, by_code_point.begin() + kind.last + 1, kind.byte);
    const CodePointSet spaces = white_space();
    for (const Interval& interval : spaces.intervals())
      if (interval.first >= 0x80)
        std::fill(by_code_point.begin() + interval.first, by_code_point.begin() + interval.last + 1,
                  kWhiteSpaceByte);
    result.classes = CharacterClasses(by_code_point);
    for (const Part& part : parts_) {
      result.pattern += part.text;
      if (part.set) write_set(part, result.pattern);
    }
    return result;
  }

 private:
  struct Part {
    std::string text;                // passed on
    std::optional<std::size_t> set;  // then one character of this set
    bool negated = false;            // or rather none of it
  };
  struct Kind {  // a run of code points beyond ASCII that no set divides
    char32_t first, last;
    std::uint64_t sets;  // bit i: they are in set i
    std::uint8_t byte;
  };
  static constexpr std::size_t kMostSets = 64;

  void add_set(CodePointSet set, bool negated) {
    set.normalize();
    parts_.back().set = sets_.size();
    parts_.back().negated = negated;
    parts_.emplace_back();
    sets_.push_back(std::move(set));
  }

  // Reads the escape at at_ into `set`. False when it is passed on: punctuation outside of brackets.
  [[nodiscard]] Result<bool> escape(CodePointSet& set, bool in_bracket = false) {
    if (at_ + 1 >= pattern_.size()) return fail(ErrorCode::InvalidArgument, "a pattern ends in a backslash");
    const char c = pattern_[at_ + 1];
    const std::size_t begin = at_;
    at_ += 2;
    const auto single = [&](char32_t code_point) {
      set.add(code_point, code_point);
      return true;
    };
    switch (c) {
      case 's':
        set = white_space();
        return true;
      case 'S':
        set = white_space();
        set = set.complement();
        return true;
      case 'd':
        set.add('0', '9');
        return true;
      case 'p': {
        const std::size_t end = pattern_.find('}', at_);
        if (at_ >= pattern_.size() || pattern_[at_] != '{' || end == std::string_view::npos)
          return fail(ErrorCode::InvalidArgument, "\\p without {{name}} in a pattern");
        const std::string_view name = pattern_.substr(at_ + 1, end - at_ - 1);
        at_ = end + 1;
        QF_ASSIGN(set, property_set(name));
        return true;
      }
      case 'x': {
        const std::size_t end = pattern_.find('}', at_);
        std::uint32_t code_point = 0;
        if (at_ >= pattern_.size() || pattern_[at_] != '{' || end == std::string_view::npos ||
            end - at_ > 7 || end == at_ + 1)
          return fail(ErrorCode::InvalidArgument, "\\x without {{hexadecimal}} in a pattern");
        const char* last = pattern_.data() + end;
        if (std::from_chars(pattern_.data() + at_ + 1, last, code_point, 16).ptr != last ||
            code_point > kLastCodePoint)
          return fail(ErrorCode::InvalidArgument, "\\x without {{hexadecimal}} in a pattern");
        at_ = end + 1;
        return single(code_point);
      }
      case 'r':
        return single('\r');
      case 'n':
        return single('\n');
      case 't':
        return single('\t');
      default:
        break;
    }
    const bool punctuation = c > ' ' && c < 0x7F && unicode_category(static_cast<char32_t>(c)) != 'L' &&
                             unicode_category(static_cast<char32_t>(c)) != 'N';
    if (!punctuation) return fail(ErrorCode::InvalidArgument, "unknown escape \\{} in a pattern", c);
    if (in_bracket) return single(static_cast<char32_t>(c));
    parts_.back().text += pattern_.substr(begin, 2);
    return false;
  }

  // The rest of [...]; at_ stands behind the opening bracket.
  [[nodiscard]] Result<void> bracket() {
    const auto unclosed = [] { return fail(ErrorCode::InvalidArgument, "an unclosed bracket in a pattern"); };
    CodePointSet set;
    bool negated = false;
    if (at_ < pattern_.size() && pattern_[at_] == '^') {
      negated = true;
      ++at_;
    }
    for (;;) {
      if (at_ >= pattern_.size()) return unclosed();
      if (pattern_[at_] == ']') break;
      QF_ASSIGN(const CodePointSet item, bracket_item());
      const bool single =
          item.intervals().size() == 1 && item.intervals()[0].first == item.intervals()[0].last;
      const bool range =
          single && at_ + 1 < pattern_.size() && pattern_[at_] == '-' && pattern_[at_ + 1] != ']';
      if (!range) {
        set.add(item);
        continue;
      }
      ++at_;
      QF_ASSIGN(const CodePointSet end, bracket_item());
      const char32_t first = item.intervals()[0].first;
      if (end.intervals().size() != 1 || end.intervals()[0].first < first)
        return fail(ErrorCode::InvalidArgument, "a range without end in a pattern");
      set.add(first, end.intervals()[0].first);
    }
    ++at_;
    add_set(std::move(set), negated);
    return outcome::success();
  }

  [[nodiscard]] Result<CodePointSet> bracket_item() {
    CodePointSet set;
    if (pattern_[at_] == '\\') {
      QF_TRY(escape(set, true));
      return set;
    }
    const DecodedCharacter character = decode_utf8(pattern_, at_);
    at_ += character.bytes;
    set.add(character.code_point, character.code_point);
    return set;
  }

  // Divides the code points beyond ASCII into kinds and gives every combination of sets a byte.
  [[nodiscard]] Result<void> classify() {
    if (sets_.size() > kMostSets) return fail(ErrorCode::InvalidArgument, "too many sets in a pattern");
    std::map<char32_t, std::uint64_t> changes;  // where membership changes: sets entered or left
    for (std::size_t i = 0; i < sets_.size(); ++i) {
      for (const Interval& interval : sets_[i].intervals()) {
        if (interval.last < 0x80) continue;
        changes[std::max<char32_t>(interval.first, 0x80)] ^= std::uint64_t{1} << i;
        changes[interval.last + 1] ^= std::uint64_t{1} << i;
      }
    }
    changes.emplace(0x80, 0);
    std::map<std::uint64_t, std::uint8_t> bytes;
    std::uint64_t current = 0;
    for (auto change = changes.begin(); change != changes.end(); ++change) {
      if (change->first > kLastCodePoint) break;
      current ^= change->second;
      const auto next = std::next(change);
      const char32_t last = next == changes.end() ? kLastCodePoint : next->first - 1;
      const auto known = bytes.find(current);
      if (known == bytes.end() && bytes.size() == 128)
        return fail(ErrorCode::InvalidArgument, "a pattern distinguishes too many kinds of characters");
      const std::uint8_t byte =
          known != bytes.end() ? known->second : static_cast<std::uint8_t>(0x80 + bytes.size());
      bytes.emplace(current, byte);
      kinds_.push_back({change->first, last, current, byte});
    }
    return outcome::success();
  }

  void write_set(const Part& part, std::string& out) const {
    std::bitset<256> members;
    for (const Interval& interval : sets_[*part.set].intervals())
      for (char32_t c = interval.first; c <= std::min<char32_t>(interval.last, 0x7F); ++c) members.set(c);
    for (const Kind& kind : kinds_)
      if (((kind.sets >> *part.set) & 1) != 0) members.set(kind.byte);
    // An empty set cannot be written in brackets: it is the complement of all bytes.
    const bool negated = part.negated != members.none();
    if (members.none()) members.set();
    out += negated ? "[^" : "[";
    for (std::size_t byte = 0; byte < 256; ++byte) {
      if (!members[byte]) continue;
      std::size_t last = byte;
      while (last + 1 < 256 && members[last + 1]) ++last;
      out += fmt::format("\\x{:02X}", byte);
      if (last > byte) out += fmt::format("-\\x{:02X}", last);
      byte = last;
    }
    out += ']';
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  std::vector<Part> parts_{1};
  std::vector<CodePointSet> sets_;
  std::vector<Kind> kinds_;
};

}  // namespace

CharacterClasses::CharacterClasses() : pages_(256, 0x80) {}

CharacterClasses::CharacterClasses(const std::vector<std::uint8_t>& by_code_point) {
  std::unordered_map<std::string_view, std::uint16_t> known;
  for (std::size_t page = 0; page < page_of_.size(); ++page) {
    const auto* begin = by_code_point.data() + page * 256;
    const std::string_view content(reinterpret_cast<const char*>(begin), 256);
    const auto [entry, is_new] = known.emplace(content, static_cast<std::uint16_t>(known.size()));
    if (is_new) pages_.insert(pages_.end(), begin, begin + 256);
    page_of_[page] = entry->second;
  }
}

Result<BytePattern> to_byte_pattern(std::string_view pattern) {
  PatternReader reader(pattern);
  QF_TRY(reader.read());
  return reader.finish();
}

}  // namespace quantfit

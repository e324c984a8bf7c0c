#include "optimizer/pattern.h"

#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

namespace quantfit::optimizer {
namespace {

using ByteSet = std::bitset<256>;

constexpr std::uint32_t kUnbounded = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kMaxDepth = 100;  // of nested groups: bounds the recursion of parser and compiler

bool is_word(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

template <class Predicate>
ByteSet set_of(Predicate predicate) {
  ByteSet set;
  for (unsigned c = 0; c < 256; ++c)
    if (predicate(static_cast<unsigned char>(c))) set.set(c);
  return set;
}

ByteSet digits() {
  return set_of([](unsigned char c) { return c >= '0' && c <= '9'; });
}
ByteSet spaces() {
  return set_of([](unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); });
}
ByteSet any_but_newline() {
  return set_of([](unsigned char c) { return c != '\n' && c != '\r'; });
}

// The classes that may stand inside brackets as [:name:].
std::optional<ByteSet> named_class(std::string_view name) {
  const auto lower = [](unsigned char c) { return c >= 'a' && c <= 'z'; };
  const auto upper = [](unsigned char c) { return c >= 'A' && c <= 'Z'; };
  const auto digit = [](unsigned char c) { return c >= '0' && c <= '9'; };
  if (name == "alpha") return set_of([&](unsigned char c) { return lower(c) || upper(c); });
  if (name == "digit" || name == "d") return digits();
  if (name == "alnum") return set_of([&](unsigned char c) { return lower(c) || upper(c) || digit(c); });
  if (name == "lower") return set_of(lower);
  if (name == "upper") return set_of(upper);
  if (name == "space" || name == "s") return spaces();
  if (name == "word" || name == "w") return set_of(is_word);
  if (name == "xdigit")
    return set_of(
        [&](unsigned char c) { return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); });
  if (name == "punct")
    return set_of([&](unsigned char c) { return c > ' ' && c < 127 && !lower(c) && !upper(c) && !digit(c); });
  return std::nullopt;
}

// A node of the syntax tree. Children are indices into the compiler's node list.
struct Node {
  enum class Kind : std::uint8_t {
    Empty,
    Set,
    Sequence,
    Choice,
    Repeat,
    Begin,
    End,
    Word,
    NotWord,
    Look,
    NotLook
  };
  Kind kind = Kind::Empty;
  ByteSet set{};                          // Set
  std::vector<std::uint32_t> children{};  // Sequence, Choice; one for Repeat and looks
  std::uint32_t least = 0, most = 0;      // Repeat
};

}  // namespace

// Recursive descent from text to syntax tree, then tree to program.
class PatternCompiler {
 public:
  explicit PatternCompiler(std::string_view text) : text_(text) {}

  Result<Pattern> run() {
    QF_ASSIGN(const std::uint32_t root, parse_choice(0));
    if (at_ < text_.size()) return error("')' without '('");
    pattern_.text_ = text_;
    if (!emit(root) || !push({Pattern::Op::Match})) return too_long();
    find_whole();
    return std::move(pattern_);
  }

 private:
  Error error(std::string_view what) const {
    return fail(ErrorCode::InvalidArgument, "pattern '{}': {} at position {}", text_, what, at_ + 1);
  }
  Error too_long() const {
    return fail(ErrorCode::InvalidArgument,
                "pattern '{}': needs more than {} steps; its counted repeats are too long", text_,
                Pattern::kMaxInstructions);
  }
  bool more() const { return at_ < text_.size(); }
  char peek() const { return text_[at_]; }
  bool accept(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  std::uint32_t add(Node node) {
    nodes_.push_back(std::move(node));
    return static_cast<std::uint32_t>(nodes_.size() - 1);
  }
  std::uint32_t add_set(const ByteSet& set) { return add({.kind = Node::Kind::Set, .set = set}); }
  std::uint32_t add_kind(Node::Kind kind) { return add({.kind = kind}); }

  Result<std::uint32_t> parse_choice(std::size_t depth) {
    if (depth > kMaxDepth) return error("groups are nested too deeply");
    Node choice{.kind = Node::Kind::Choice};
    do {
      QF_ASSIGN(const std::uint32_t branch, parse_sequence(depth));
      choice.children.push_back(branch);
    } while (accept("|"));
    return choice.children.size() == 1 ? choice.children.front() : add(std::move(choice));
  }

  Result<std::uint32_t> parse_sequence(std::size_t depth) {
    Node sequence{.kind = Node::Kind::Sequence};
    while (more() && peek() != '|' && peek() != ')') {
      QF_ASSIGN(const std::uint32_t term, parse_repeat(depth));
      sequence.children.push_back(term);
    }
    return add(std::move(sequence));
  }

  Result<std::uint32_t> parse_repeat(std::size_t depth) {
    bool can_repeat = true;
    QF_ASSIGN(std::uint32_t term, parse_atom(depth, can_repeat));
    std::uint32_t least = 0, most = kUnbounded;
    if (accept("*")) {
    } else if (accept("+")) {
      least = 1;
    } else if (accept("?")) {
      most = 1;
    } else if (more() && peek() == '{') {
      ++at_;
      QF_ASSIGN(least, parse_number());
      most = least;
      if (accept(",")) {
        most = kUnbounded;
        if (more() && peek() != '}') {
          QF_ASSIGN(most, parse_number());
        }
      }
      if (!accept("}")) return error("expected '}'");
      if (most < least) return error("a repeat whose upper bound is below its lower one");
    } else {
      return term;
    }
    if (!can_repeat) return error("nothing to repeat");
    accept("?");  // a lazy repeat finds a match exactly where a greedy one does
    return add({.kind = Node::Kind::Repeat, .set = {}, .children = {term}, .least = least, .most = most});
  }

  Result<std::uint32_t> parse_number() {
    const std::size_t start = at_;
    std::uint32_t value = 0;
    while (more() && peek() >= '0' && peek() <= '9') {
      value = value * 10 + static_cast<std::uint32_t>(peek() - '0');
      if (value > Pattern::kMaxInstructions) return too_long();
      ++at_;
    }
    if (at_ == start) return error("expected a number");
    return value;
  }

  Result<std::uint32_t> parse_atom(std::size_t depth, bool& can_repeat) {
    const char c = peek();
    switch (c) {
      case '^':
        ++at_;
        can_repeat = false;
        return add_kind(Node::Kind::Begin);
      case '$':
        ++at_;
        can_repeat = false;
        return add_kind(Node::Kind::End);
      case '.':
        ++at_;
        return add_set(any_but_newline());
      case '[':
        ++at_;
        return parse_brackets();
      case '(':
        ++at_;
        return parse_group(depth, can_repeat);
      case '\\':
        ++at_;
        return parse_escape(can_repeat);
      case '*':
      case '+':
      case '?':
      case '{':
        return error("nothing to repeat");
      default:
        ++at_;
        return add_set(ByteSet().set(static_cast<unsigned char>(c)));
    }
  }

  Result<std::uint32_t> parse_group(std::size_t depth, bool& can_repeat) {
    std::optional<Node::Kind> look;
    if (accept("?")) {
      if (accept("="))
        look = Node::Kind::Look;
      else if (accept("!"))
        look = Node::Kind::NotLook;
      else if (!accept(":"))
        return error("expected ':', '=' or '!' after '(?'");
    }
    QF_ASSIGN(const std::uint32_t inner, parse_choice(depth + 1));
    if (!accept(")")) return error("expected ')'");
    if (!look) return inner;
    can_repeat = false;
    return add({.kind = *look, .set = {}, .children = {inner}});
  }

  // After a backslash outside brackets.
  Result<std::uint32_t> parse_escape(bool& can_repeat) {
    if (!more()) return error("a backslash with nothing after it");
    if (accept("b")) return can_repeat = false, add_kind(Node::Kind::Word);
    if (accept("B")) return can_repeat = false, add_kind(Node::Kind::NotWord);
    if (peek() >= '1' && peek() <= '9')
      return fail(ErrorCode::Unsupported, "pattern '{}': back-references are not supported (position {})",
                  text_, at_ + 1);
    QF_ASSIGN(const ByteSet set, parse_escaped_set());
    return add_set(set);
  }

  // What an escape stands for, inside and outside brackets: a class or one byte.
  Result<ByteSet> parse_escaped_set() {
    if (!more()) return error("a backslash with nothing after it");
    const char c = text_[at_++];
    const auto one = [](unsigned value) { return ByteSet().set(value); };
    switch (c) {
      case 'd':
        return digits();
      case 'D':
        return ~digits();
      case 'w':
        return set_of(is_word);
      case 'W':
        return ~set_of(is_word);
      case 's':
        return spaces();
      case 'S':
        return ~spaces();
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case '0':
        return one(0);
      case 'x': {
        QF_ASSIGN(const unsigned value, parse_hex(2));
        return one(value);
      }
      case 'u': {
        QF_ASSIGN(const unsigned value, parse_hex(4));
        if (value > 127) return error("a code point above 127 (patterns compare bytes)");
        return one(value);
      }
      default:
        break;
    }
    if (is_word(static_cast<unsigned char>(c)) && c != '_') {
      --at_;
      return error("an unknown escape");
    }
    return one(static_cast<unsigned char>(c));
  }

  Result<unsigned> parse_hex(int count) {
    unsigned value = 0;
    for (int i = 0; i < count; ++i) {
      if (!more()) return error("expected a hexadecimal digit");
      const char c = peek();
      unsigned digit = 0;
      if (c >= '0' && c <= '9')
        digit = static_cast<unsigned>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<unsigned>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<unsigned>(c - 'A' + 10);
      else
        return error("expected a hexadecimal digit");
      value = value * 16 + digit;
      ++at_;
    }
    return value;
  }

  Result<std::uint32_t> parse_brackets() {
    const bool negated = accept("^");
    ByteSet set;
    bool empty = true;
    while (!accept("]")) {
      empty = false;
      QF_ASSIGN(const ByteSet first, parse_bracket_item());
      const bool range = first.count() == 1 && text_.substr(at_, 1) == "-" &&
                         text_.substr(at_ + 1, 1) != "]" && at_ + 1 < text_.size();
      if (!range) {
        set |= first;
        continue;
      }
      ++at_;
      QF_ASSIGN(const ByteSet last, parse_bracket_item());
      if (last.count() != 1) return error("a range that ends in a class");
      const std::size_t low = first._Find_first(), high = last._Find_first();
      if (high < low) return error("a range whose end is below its start");
      for (std::size_t c = low; c <= high; ++c) set.set(c);
    }
    if (empty) return error("empty brackets");
    return add_set(negated ? ~set : set);
  }

  Result<ByteSet> parse_bracket_item() {
    if (!more()) return error("expected ']'");
    if (accept("[:")) {
      const std::size_t end = text_.find(":]", at_);
      if (end == std::string_view::npos) return error("expected ':]'");
      const auto set = named_class(text_.substr(at_, end - at_));
      if (!set) return error("an unknown character class");
      at_ = end + 2;
      return *set;
    }
    if (accept("\\b")) return ByteSet().set('\b');
    if (accept("\\")) return parse_escaped_set();
    return ByteSet().set(static_cast<unsigned char>(text_[at_++]));
  }

  // --- Tree to program. Every function answers false when the program would become too long.

  bool push(Pattern::Instruction instruction) {
    if (pattern_.program_.size() >= Pattern::kMaxInstructions) return false;
    pattern_.program_.push_back(instruction);
    return true;
  }
  std::uint32_t here() const { return static_cast<std::uint32_t>(pattern_.program_.size()); }

  bool emit(std::uint32_t index) {
    const Node& node = nodes_[index];
    using Op = Pattern::Op;
    switch (node.kind) {
      case Node::Kind::Empty:
        return true;
      case Node::Kind::Begin:
        return push({Op::Begin});
      case Node::Kind::End:
        return push({Op::End});
      case Node::Kind::Word:
        return push({Op::WordBoundary});
      case Node::Kind::NotWord:
        return push({Op::NotWordBoundary});
      case Node::Kind::Set: {
        std::uint32_t set = 0;
        while (set < pattern_.sets_.size() && pattern_.sets_[set] != node.set) ++set;
        if (set == pattern_.sets_.size()) pattern_.sets_.push_back(node.set);
        return push({Op::Set, set});
      }
      case Node::Kind::Sequence:
        for (const std::uint32_t child : node.children)
          if (!emit(child)) return false;
        return true;
      case Node::Kind::Choice:
        return emit_choice(node);
      case Node::Kind::Repeat:
        return emit_repeat(node);
      case Node::Kind::Look:
      case Node::Kind::NotLook: {
        const std::uint32_t look = here();
        if (!push(
                {node.kind == Node::Kind::Look ? Op::Look : Op::NotLook, look + 2, pattern_.look_count_++}) ||
            !push({Op::Jump}) || !emit(node.children.front()) || !push({Op::Match}))
          return false;
        pattern_.program_[look + 1].a = here();
        return true;
      }
    }
    return true;
  }

  // Recipes name every tensor by a pattern of its own: those are compared, not searched.
  void find_whole() {
    using Op = Pattern::Op;
    const auto& program = pattern_.program_;
    if (program.size() < 3 || program.front().op != Op::Begin || program[program.size() - 2].op != Op::End)
      return;
    std::string whole;
    for (std::size_t i = 1; i + 2 < program.size(); ++i) {
      if (program[i].op != Op::Set || pattern_.sets_[program[i].a].count() != 1) return;
      whole += static_cast<char>(pattern_.sets_[program[i].a]._Find_first());
    }
    pattern_.whole_ = std::move(whole);
  }

  bool emit_choice(const Node& node) {
    std::vector<std::uint32_t> jumps;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      const bool last = i + 1 == node.children.size();
      const std::uint32_t split = here();
      if (!last && !push({Pattern::Op::Split, split + 1})) return false;
      if (!emit(node.children[i])) return false;
      if (last) break;
      jumps.push_back(here());
      if (!push({Pattern::Op::Jump})) return false;
      pattern_.program_[split].b = here();
    }
    for (const std::uint32_t jump : jumps) pattern_.program_[jump].a = here();
    return true;
  }

  bool emit_repeat(const Node& node) {
    const std::uint32_t child = node.children.front();
    // A child without instructions would be repeated for nothing, up to the largest count that can be
    // written.
    for (std::uint32_t i = 0; i < node.least; ++i) {
      const std::uint32_t before = here();
      if (!emit(child)) return false;
      if (here() == before) return true;
    }
    if (node.most == kUnbounded) {
      const std::uint32_t split = here();
      if (!push({Pattern::Op::Split, split + 1}) || !emit(child) || !push({Pattern::Op::Jump, split}))
        return false;
      pattern_.program_[split].b = here();
      return true;
    }
    std::vector<std::uint32_t> splits;
    for (std::uint32_t i = node.least; i < node.most; ++i) {
      splits.push_back(here());
      if (!push({Pattern::Op::Split, here() + 1}) || !emit(child)) return false;
    }
    for (const std::uint32_t split : splits) pattern_.program_[split].b = here();
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<Node> nodes_;
  Pattern pattern_;
};

// Simulates all threads of the program at once, one byte of the text after the other (Thompson 1968).
class PatternSearch {
 public:
  PatternSearch(const Pattern& pattern, std::string_view text)
      : pattern_(pattern), text_(text), looks_(pattern.look_count_ * (text.size() + 1), Look::Unknown) {}

  // Whether a match starts at `from`, or at any later position when not `anchored`.
  bool run(std::uint32_t start, std::size_t from, bool anchored) {
    const std::size_t size = pattern_.program_.size();
    Threads now(size), next(size);
    for (std::size_t at = from;; ++at) {
      if ((at == from || !anchored) && follow(start, at, now)) return true;
      if (at == text_.size() || (anchored && now.consuming.empty())) return false;
      const auto byte = static_cast<unsigned char>(text_[at]);
      next.clear();
      for (const std::uint32_t pc : now.consuming)
        if (pattern_.sets_[pattern_.program_[pc].a][byte] && follow(pc + 1, at + 1, next)) return true;
      std::swap(now, next);
    }
  }

 private:
  enum class Look : std::uint8_t { Unknown, Found, NotFound };
  struct Threads {
    explicit Threads(std::size_t size) : seen(size, false) {}
    void clear() {
      for (const std::uint32_t pc : visited) seen[pc] = false;
      visited.clear();
      consuming.clear();
    }
    std::vector<bool> seen;
    std::vector<std::uint32_t> visited;    // every instruction reached at this position
    std::vector<std::uint32_t> consuming;  // those of them that wait for a byte
  };

  // Adds all instructions reachable from `start` without reading a byte. True when Match is among them.
  bool follow(std::uint32_t start, std::size_t at, Threads& threads) {
    std::vector<std::uint32_t> open{start};
    while (!open.empty()) {
      const std::uint32_t pc = open.back();
      open.pop_back();
      if (threads.seen[pc]) continue;
      threads.seen[pc] = true;
      threads.visited.push_back(pc);
      const Pattern::Instruction& step = pattern_.program_[pc];
      switch (step.op) {
        case Pattern::Op::Match:
          return true;
        case Pattern::Op::Set:
          threads.consuming.push_back(pc);
          break;
        case Pattern::Op::Jump:
          open.push_back(step.a);
          break;
        case Pattern::Op::Split:
          open.push_back(step.b);
          open.push_back(step.a);
          break;
        case Pattern::Op::Begin:
          if (at == 0) open.push_back(pc + 1);
          break;
        case Pattern::Op::End:
          if (at == text_.size()) open.push_back(pc + 1);
          break;
        case Pattern::Op::WordBoundary:
          if (word_boundary(at)) open.push_back(pc + 1);
          break;
        case Pattern::Op::NotWordBoundary:
          if (!word_boundary(at)) open.push_back(pc + 1);
          break;
        case Pattern::Op::Look:
          if (look(step, at)) open.push_back(pc + 1);
          break;
        case Pattern::Op::NotLook:
          if (!look(step, at)) open.push_back(pc + 1);
          break;
      }
    }
    return false;
  }

  bool word_boundary(std::size_t at) const {
    const bool before = at > 0 && is_word(static_cast<unsigned char>(text_[at - 1]));
    const bool after = at < text_.size() && is_word(static_cast<unsigned char>(text_[at]));
    return before != after;
  }

  // Each look-ahead is answered once per position. Nesting is bounded by the parser's depth.
  bool look(const Pattern::Instruction& step, std::size_t at) {
    Look& known = looks_[step.b * (text_.size() + 1) + at];
    if (known == Look::Unknown) known = run(step.a, at, true) ? Look::Found : Look::NotFound;
    return known == Look::Found;
  }

  const Pattern& pattern_;
  std::string_view text_;
  std::vector<Look> looks_;
};

Result<Pattern> Pattern::compile(std::string_view text) {
  return PatternCompiler(text).run();
}

bool Pattern::found_in(std::string_view text) const {
  if (whole_) return text == *whole_;
  if (program_.empty()) return true;
  return PatternSearch(*this, text).run(0, 0, false);
}

std::string escape_pattern(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view("^$\\.*+?()[]{}|").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace quantfit::optimizer

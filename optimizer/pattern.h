// Regular expressions over tensor names, as users write them in `--tensor-type` and `--override-tensor`.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace quantfit::optimizer {

// A compiled pattern: the ECMAScript syntax that llama.cpp's tools accept, without back-references (no tensor
// name needs one, and without them matching takes time linear in pattern times text; look-ahead costs a
// factor of the text's length). Patterns are hostile input: whatever their text, compile() and found_in() end
// soon and never overflow the stack, which a backtracking engine does not promise. Bytes, not code points,
// are compared. Immutable: may be used from any thread.
class Pattern {
 public:
  // InvalidArgument, with the position and the cause, when the text is no pattern or needs more than
  // kMaxInstructions steps (counted repeats are unrolled); Unsupported for back-references.
  [[nodiscard]] static Result<Pattern> compile(std::string_view text);

  // True when the pattern matches anywhere inside `text` (a search, so anchors are needed for a whole match).
  [[nodiscard]] bool found_in(std::string_view text) const;

  [[nodiscard]] const std::string& text() const { return text_; }

  static constexpr std::size_t kMaxInstructions = 20000;

 private:
  friend class PatternCompiler;
  friend class PatternSearch;

  enum class Op : std::uint8_t {
    Set,
    Split,
    Jump,
    Begin,
    End,
    WordBoundary,
    NotWordBoundary,
    Look,
    NotLook,
    Match
  };
  struct Instruction {
    Op op = Op::Match;
    std::uint32_t a =
        0;  // Set: index of the set. Split, Jump: a target. Look: start of the looked-at program
    std::uint32_t b = 0;  // Split: the other target. Look: number of this look-ahead
  };

  std::string text_;
  std::optional<std::string> whole_;  // the one text that a pattern without any choice matches: ^a\.b$
  std::vector<Instruction> program_;
  std::vector<std::bitset<256>> sets_;
  std::uint32_t look_count_ = 0;
};

// `text` with every character escaped that has a meaning in patterns.
[[nodiscard]] std::string escape_pattern(std::string_view text);

}  // namespace quantfit::optimizer

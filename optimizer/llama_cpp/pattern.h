// Regular expressions over tensor names, as users write them in `--tensor-type` and `--override-tensor`.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "core/error.h"

namespace quantfit::optimizer {

// A compiled pattern in Perl syntax, a superset of what llama.cpp's tools accept (ECMAScript). The text is
// hostile input: it may have at most kMaxPatternBytes, and a search that would explode is given up by the
// library (see found_in). Immutable: may be used from any thread.
class Pattern {
 public:
  static constexpr std::size_t kMaxPatternBytes = 10000;

  // InvalidArgument, with the position and the cause, when the text is no pattern.
  [[nodiscard]] static Result<Pattern> compile(std::string_view text);

  // True when the pattern matches anywhere inside `text` (a search, so anchors are needed for a whole match).
  // A search that exceeds the library's bound on steps counts as not found.
  [[nodiscard]] bool found_in(std::string_view text) const;

  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  struct Compiled;  // keeps Boost.Regex, a heavy header, out of everyone's way

  std::string text_;
  std::shared_ptr<const Compiled> compiled_;
};

// `text` with every character escaped that has a meaning in patterns.
[[nodiscard]] std::string escape_pattern(std::string_view text);

}  // namespace quantfit::optimizer

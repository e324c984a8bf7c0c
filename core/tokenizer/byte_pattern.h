// Patterns over code points, rewritten as patterns over bytes.
//
// A splitter's pattern distinguishes few kinds of characters beyond ASCII: those in this category, those in
// that range. Characters that every set of the pattern treats alike get one byte from 0x80 on, ASCII stays as
// it is, and the sets are written in these bytes. The regex library then sees one byte per character, in no
// encoding, so that positions are counts of characters, any code point is allowed, and the categories are
// those of our own table, whatever version of Unicode the library was built with.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/tokenizer/unicode_categories.h"

namespace quantfit {

// The byte that stands for a code point.
class CharacterClasses {
 public:
  CharacterClasses();  // all code points beyond ASCII are alike: 0x80

  [[nodiscard]] std::uint8_t operator[](char32_t code_point) const {
    if (code_point < 0x80) return static_cast<std::uint8_t>(code_point);
    return pages_[page_of_[code_point >> 8] * std::size_t{256} + (code_point & 0xFF)];
  }
  // `by_code_point` has kLastCodePoint + 1 entries.
  explicit CharacterClasses(const std::vector<std::uint8_t>& by_code_point);

 private:
  std::array<std::uint16_t, (kLastCodePoint + 1) / 256> page_of_{};
  std::vector<std::uint8_t> pages_;
};

struct BytePattern {
  std::string pattern;  // for a regex library without Unicode mode
  CharacterClasses classes;
};

// `pattern` is a Perl-style regular expression in UTF-8. Inside and outside of brackets it may use
//   \p{L} \p{N} \p{P} \p{S} \p{M}  major categories; \p{Lu} \p{Ll} \p{Lt} \p{Lm} \p{Lo} all mean \p{L}
//   \p{NotLower}                   letters except a-z
//   \p{NotUpper}                   letters except A-Z
//   \p{Han} \p{NotHan}             blocks of Chinese characters as the Kimi-K2 splitter names them; all other
//   letters \p{Blank}                      white space except CR and LF \s \S                          white
//   space of Unicode: 9-13, 32, 0x85, 0xA0 and the separators \d                             0-9 \x{HEX} one
//   code point
// and literal characters and ranges of any code points. White space beyond ASCII is matched by \s and by
// negated sets alone, as in the programs that the patterns were taken from: a range around U+3000 does not
// contain it. All else must be ASCII and is passed on. InvalidArgument for other classes, an unclosed
// bracket, or more kinds of characters than there are bytes.
[[nodiscard]] Result<BytePattern> to_byte_pattern(std::string_view pattern);

}  // namespace quantfit

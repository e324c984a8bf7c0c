// UTF-8 as the tokenizers of the field read it: forms are judged by their leading bits alone, anything else
// is replaced. Overlong forms and surrogates are read as the number they spell.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quantfit {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct DecodedCharacter {
  char32_t code_point = 0;
  std::uint32_t bytes = 1;  // consumed; 1 for a byte that begins nothing valid
  bool valid = true;        // false: code_point is kReplacementCharacter
};

// The character at `at` < text.size(). Numbers above U+10FFFF are invalid, a byte at a time.
[[nodiscard]] DecodedCharacter decode_utf8(std::string_view text, std::size_t at);

// Appends the shortest form; surrogates get three bytes as any other number.
void append_utf8(std::string& out, char32_t code_point);

// Bytes of a character by the top four bits of its first byte, 1 to 4; says nothing about what follows.
[[nodiscard]] constexpr std::uint32_t utf8_length(char first) {
  const auto high = static_cast<unsigned char>(first) >> 4;
  return high < 12 ? 1 : high < 14 ? 2 : high < 15 ? 3 : 4;
}

// A text whose characters are known.
struct DecodedText {
  std::u32string code_points;
  std::string rewritten;   // the characters in shortest form where that differs from the text, else empty
  std::string_view bytes;  // the shortest form: the text itself or `rewritten`

  // `text` must outlive the object unless it was rewritten.
  explicit DecodedText(std::string_view text);
  DecodedText(const DecodedText&) = delete;
  DecodedText& operator=(const DecodedText&) = delete;
};

}  // namespace quantfit

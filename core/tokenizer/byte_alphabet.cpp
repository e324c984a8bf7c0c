#include "core/tokenizer/byte_alphabet.h"

#include <array>
#include <cstddef>

#include "core/tokenizer/utf8.h"

namespace quantfit {
namespace {

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr char32_t kFirstMoved = 0x100;
constexpr std::size_t kMoved = 68;

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<std::uint8_t, kMoved> moved{};  // bytes of kFirstMoved and on
};
constexpr Alphabet kAlphabet = [] {
  Alphabet alphabet;
  std::size_t moved = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (stands_for_itself(byte)) {
      alphabet.characters[byte] = byte;
    } else {
      alphabet.characters[byte] = kFirstMoved + static_cast<char32_t>(moved);
      alphabet.moved[moved++] = static_cast<std::uint8_t>(byte);
    }
  }
  return alphabet;
}();
static_assert(kAlphabet.characters[0x20] == 0x120 && kAlphabet.characters[0x0A] == 0x10A);
static_assert(kAlphabet.moved[kMoved - 1] == 0xAD);

}  // namespace

char32_t byte_to_character(std::uint8_t byte) {
  return kAlphabet.characters[byte];
}

std::optional<std::uint8_t> character_to_byte(char32_t character) {
  if (character < 256) {
    if (!stands_for_itself(character)) return std::nullopt;
    return static_cast<std::uint8_t>(character);
  }
  if (character - kFirstMoved >= kMoved) return std::nullopt;
  return kAlphabet.moved[character - kFirstMoved];
}

std::string to_byte_alphabet(std::string_view bytes) {
  std::string result;
  for (const char byte : bytes) append_utf8(result, byte_to_character(static_cast<std::uint8_t>(byte)));
  return result;
}

std::string from_byte_alphabet(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const DecodedCharacter character = decode_utf8(text, at);
    const auto byte = character_to_byte(character.code_point);
    if (character.valid && byte)
      result.push_back(static_cast<char>(*byte));
    else
      result += text.substr(at, character.bytes);
    at += character.bytes;
  }
  return result;
}

}  // namespace quantfit

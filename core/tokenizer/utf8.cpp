#include "core/tokenizer/utf8.h"

#include "core/tokenizer/unicode_categories.h"

namespace quantfit {
namespace {

[[nodiscard]] std::uint32_t shortest_length(char32_t code_point) {
  return code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
}

}  // namespace

DecodedCharacter decode_utf8(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1, true};
  constexpr DecodedCharacter kInvalid{kReplacementCharacter, 1, false};
  std::uint32_t length = 0;
  char32_t value = 0;
  if ((first & 0xE0) == 0xC0) {
    length = 2;
    value = first & 0x1F;
  } else if ((first & 0xF0) == 0xE0) {
    length = 3;
    value = first & 0x0F;
  } else if ((first & 0xF8) == 0xF0) {
    length = 4;
    value = first & 0x07;
  } else {
    return kInvalid;
  }
  if (text.size() - at < length) return kInvalid;
  for (std::uint32_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kInvalid;
    value = (value << 6) | (byte(i) & 0x3F);
  }
  if (value > kLastCodePoint) return kInvalid;
  return {value, length, true};
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | (code_point >> 6));
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | (code_point >> 12));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | (code_point >> 18));
    push(0x80 | ((code_point >> 12) & 0x3F));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

DecodedText::DecodedText(std::string_view text) : bytes(text) {
  code_points.resize(text.size());
  std::size_t count = 0;
  bool differs = false;
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < 0x80) {
      code_points[count++] = first;
      ++at;
      continue;
    }
    const DecodedCharacter character = decode_utf8(text, at);
    code_points[count++] = character.code_point;
    at += character.bytes;
    differs = differs || !character.valid || shortest_length(character.code_point) != character.bytes;
  }
  code_points.resize(count);
  if (differs) {
    rewritten.reserve(text.size());
    for (const char32_t code_point : code_points) append_utf8(rewritten, code_point);
    bytes = rewritten;
  }
}

}  // namespace quantfit

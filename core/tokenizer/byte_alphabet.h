// The printable characters in which byte-level vocabularies and merges are written, one for each byte.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quantfit {

// Bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for themselves, the other 68, in order, are U+0100, U+0101,
// ...
[[nodiscard]] char32_t byte_to_character(std::uint8_t byte);

// Nothing for characters outside of the alphabet.
[[nodiscard]] std::optional<std::uint8_t> character_to_byte(char32_t character);

// Every byte of `bytes` as its character, in UTF-8.
[[nodiscard]] std::string to_byte_alphabet(std::string_view bytes);

// The bytes that `text` stands for; what is not in the alphabet stays as it is.
[[nodiscard]] std::string from_byte_alphabet(std::string_view text);

}  // namespace quantfit

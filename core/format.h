// Every element type that a GGUF file can carry: id, block length, block bytes. Exact integers only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/error.h"

namespace quantfit {

// Numeric values are the type ids of the GGUF container.
// clang-format off
enum class Format : std::uint32_t {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9,
  Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15,
  IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23,
  I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28, IQ1_M = 29, BF16 = 30,
  TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39, NVFP4 = 40, Q1_0 = 41, Q2_0 = 42,
};
// clang-format on

// One more than the largest format id: the length of tables indexed by format.
inline constexpr std::size_t kFormatIdCount = 43;

enum class FormatKind : std::uint8_t {
  Float,      // F16, BF16, F32: can be a source of quantization
  Quantized,  // block formats that a recipe may choose
  Integer,    // tables and F64: copied, never converted
  Runtime,    // Q8_1, Q8_K: never in a file
};

struct FormatTraits {
  Format format;
  std::string_view name;      // as the specification spells it, for example "IQ2_XXS"
  std::uint32_t block_len;    // weights per block; a row is a whole number of blocks
  std::uint32_t block_bytes;  // bytes per block
  FormatKind kind;
  bool needs_importance;  // llama.cpp's policy refuses it without an importance matrix
};

// All formats in ascending order of id.
[[nodiscard]] std::span<const FormatTraits> all_formats();

// Null when the id was withdrawn or does not exist (yet).
[[nodiscard]] const FormatTraits* find_format(std::uint32_t id);
[[nodiscard]] const FormatTraits& traits(Format format);
[[nodiscard]] inline std::string_view name_of(Format format) {
  return traits(format).name;
}
[[nodiscard]] inline bool is_quantized(Format format) {
  return traits(format).kind == FormatKind::Quantized;
}

// Accepts any case: "q4_k", "Q4_K", "bf16".
[[nodiscard]] std::optional<Format> parse_format(std::string_view name);

// The formats a recipe may choose unless told otherwise, in ascending order of bpw, Q8_0 last.
[[nodiscard]] std::span<const Format> default_candidate_formats();

// Bits per weight of whole blocks, for example 4.5 for Q4_K.
[[nodiscard]] double bits_per_weight(Format format);

// Bytes of one row of `ne0` weights stored as `format`.
// ShapeMismatch when `ne0` is not a whole number of blocks (Q4_K needs a multiple of 256), or on overflow:
// choosing a fallback format is the caller's decision, never this function's.
[[nodiscard]] Result<std::uint64_t> row_bytes(Format format, std::uint64_t ne0);

// Bytes of `rows` such rows; ShapeMismatch on overflow of 64 bits too.
[[nodiscard]] Result<std::uint64_t> tensor_bytes(Format format, std::uint64_t ne0, std::uint64_t rows);

}  // namespace quantfit

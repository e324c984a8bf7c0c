#include "core/format.h"

#include <array>
#include <cstddef>

#include "core/checked.h"
#include "core/text.h"

namespace quantfit {
namespace {

constexpr std::array kFormats = {
    FormatTraits{Format::F32, "F32", 1, 4, FormatKind::Float, false},
    FormatTraits{Format::F16, "F16", 1, 2, FormatKind::Float, false},
    FormatTraits{Format::Q4_0, "Q4_0", 32, 18, FormatKind::Quantized, false},
    FormatTraits{Format::Q4_1, "Q4_1", 32, 20, FormatKind::Quantized, false},
    FormatTraits{Format::Q5_0, "Q5_0", 32, 22, FormatKind::Quantized, false},
    FormatTraits{Format::Q5_1, "Q5_1", 32, 24, FormatKind::Quantized, false},
    FormatTraits{Format::Q8_0, "Q8_0", 32, 34, FormatKind::Quantized, false},
    FormatTraits{Format::Q8_1, "Q8_1", 32, 36, FormatKind::Runtime, false},
    FormatTraits{Format::Q2_K, "Q2_K", 256, 84, FormatKind::Quantized, false},
    FormatTraits{Format::Q3_K, "Q3_K", 256, 110, FormatKind::Quantized, false},
    FormatTraits{Format::Q4_K, "Q4_K", 256, 144, FormatKind::Quantized, false},
    FormatTraits{Format::Q5_K, "Q5_K", 256, 176, FormatKind::Quantized, false},
    FormatTraits{Format::Q6_K, "Q6_K", 256, 210, FormatKind::Quantized, false},
    FormatTraits{Format::Q8_K, "Q8_K", 256, 292, FormatKind::Runtime, false},
    FormatTraits{Format::IQ2_XXS, "IQ2_XXS", 256, 66, FormatKind::Quantized, true},
    FormatTraits{Format::IQ2_XS, "IQ2_XS", 256, 74, FormatKind::Quantized, true},
    FormatTraits{Format::IQ3_XXS, "IQ3_XXS", 256, 98, FormatKind::Quantized, true},
    FormatTraits{Format::IQ1_S, "IQ1_S", 256, 50, FormatKind::Quantized, true},
    FormatTraits{Format::IQ4_NL, "IQ4_NL", 32, 18, FormatKind::Quantized, false},
    FormatTraits{Format::IQ3_S, "IQ3_S", 256, 110, FormatKind::Quantized, false},
    FormatTraits{Format::IQ2_S, "IQ2_S", 256, 82, FormatKind::Quantized, true},
    FormatTraits{Format::IQ4_XS, "IQ4_XS", 256, 136, FormatKind::Quantized, false},
    FormatTraits{Format::I8, "I8", 1, 1, FormatKind::Integer, false},
    FormatTraits{Format::I16, "I16", 1, 2, FormatKind::Integer, false},
    FormatTraits{Format::I32, "I32", 1, 4, FormatKind::Integer, false},
    FormatTraits{Format::I64, "I64", 1, 8, FormatKind::Integer, false},
    FormatTraits{Format::F64, "F64", 1, 8, FormatKind::Integer, false},
    FormatTraits{Format::IQ1_M, "IQ1_M", 256, 56, FormatKind::Quantized, true},
    FormatTraits{Format::BF16, "BF16", 1, 2, FormatKind::Float, false},
    FormatTraits{Format::TQ1_0, "TQ1_0", 256, 54, FormatKind::Quantized, false},
    FormatTraits{Format::TQ2_0, "TQ2_0", 256, 66, FormatKind::Quantized, false},
    FormatTraits{Format::MXFP4, "MXFP4", 32, 17, FormatKind::Quantized, false},
    FormatTraits{Format::NVFP4, "NVFP4", 64, 36, FormatKind::Quantized, false},
    FormatTraits{Format::Q1_0, "Q1_0", 128, 18, FormatKind::Quantized, false},
    FormatTraits{Format::Q2_0, "Q2_0", 64, 18, FormatKind::Quantized, false},
};

// Index of each id in kFormats, or -1. Built by the compiler, so the two cannot disagree.
constexpr auto kIndexOfId = [] {
  std::array<int, kFormatIdCount> index{};
  index.fill(-1);
  for (std::size_t i = 0; i < kFormats.size(); ++i)
    index[static_cast<std::size_t>(kFormats[i].format)] = static_cast<int>(i);
  return index;
}();

constexpr std::array kDefaultCandidates = {
    Format::IQ1_S,  Format::IQ1_M,   Format::IQ2_XXS, Format::IQ2_XS, Format::IQ2_S,
    Format::Q2_K,   Format::IQ3_XXS, Format::IQ3_S,   Format::Q3_K,   Format::IQ4_XS,
    Format::IQ4_NL, Format::Q4_0,    Format::Q4_K,    Format::Q4_1,   Format::Q5_0,
    Format::Q5_K,   Format::Q5_1,    Format::Q6_K,    Format::Q8_0,
};

}  // namespace

std::span<const FormatTraits> all_formats() {
  return kFormats;
}

const FormatTraits* find_format(std::uint32_t id) {
  if (id >= kFormatIdCount || kIndexOfId[id] < 0) return nullptr;
  return &kFormats[static_cast<std::size_t>(kIndexOfId[id])];
}

const FormatTraits& traits(Format format) {
  return *find_format(static_cast<std::uint32_t>(format));
}

std::optional<Format> parse_format(std::string_view name) {
  for (const FormatTraits& candidate : kFormats)
    if (equal_ignoring_case(candidate.name, name)) return candidate.format;
  return std::nullopt;
}

std::span<const Format> default_candidate_formats() {
  return kDefaultCandidates;
}

double bits_per_weight(Format format) {
  const FormatTraits& t = traits(format);
  return 8.0 * t.block_bytes / t.block_len;
}

Result<std::uint64_t> row_bytes(Format format, std::uint64_t ne0) {
  const FormatTraits& t = traits(format);
  if (ne0 % t.block_len != 0)
    return fail(ErrorCode::ShapeMismatch, "a row of {} weights is not a whole number of {} blocks of {}", ne0,
                t.name, t.block_len);
  const auto bytes = checked_product(ne0 / t.block_len, t.block_bytes);
  if (!bytes)
    return fail(ErrorCode::ShapeMismatch, "a row of {} weights as {} exceeds 64-bit sizes", ne0, t.name);
  return *bytes;
}

Result<std::uint64_t> tensor_bytes(Format format, std::uint64_t ne0, std::uint64_t rows) {
  QF_ASSIGN(const std::uint64_t row, row_bytes(format, ne0));
  const auto bytes = checked_product(row, rows);
  if (!bytes)
    return fail(ErrorCode::ShapeMismatch, "{} rows of {} weights as {} exceed 64-bit sizes", rows, ne0,
                name_of(format));
  return *bytes;
}

}  // namespace quantfit

// The kernels of one instruction set as a table, and how a table is chosen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/error.h"
#include "core/format.h"
#include "kernels/error_metric.h"

namespace quantfit::kernels {

// Encodes one prepared row into `out` (row_bytes(format, row.columns) bytes). row.columns must be a whole
// number of blocks, |x| finite. Pure: no allocation, no threads, no files.
using EncodeRow = void (*)(const PreparedRow& row, Effort effort, std::byte* out);
// Decodes `columns` weights, a whole number of blocks.
using DecodeRow = void (*)(const std::byte* in, std::size_t columns, float* out);

// Every entry is pure and gives the same bytes in every table.
struct RowKernels {
  std::string_view isa;                            // "scalar", "avx2", "avx512", "avx512_dl", "neon"
  std::array<EncodeRow, kFormatIdCount> encode{};  // by format id; null: not a format a recipe may choose
  std::array<DecodeRow, kFormatIdCount> decode{};  // by format id; null: integers and runtime formats
  // Fills q, suffix and energy of a row whose x lies in workspace.x() (padded with
  // zeros to a multiple of 16).
  PreparedRow (*prepare)(const ColumnMetric& metric, RowWorkspace& workspace) = nullptr;
  // The error of `decoded` against the prepared row.
  RowError (*measure)(const PreparedRow& row, const float* decoded) = nullptr;
};

// Compiled tables this CPU can run, best first; the last is the scalar reference. A build with one set
// (README.md) has its table alone, or none on a CPU that cannot run it.
[[nodiscard]] std::span<const RowKernels> runnable_kernels();

// The table with that name. InvalidArgument, listing the names, when it was not compiled or this CPU cannot
// run it. Names are exact, so that every table can be chosen: "avx512" is never "avx512_dl".
[[nodiscard]] Result<const RowKernels*> find_kernels(std::string_view isa);

// The table to use: the one the environment variable QUANTFIT_ISA names, else the best. Unsupported where
// there is none.
[[nodiscard]] Result<const RowKernels*> default_kernels();

// Version of the encoders' output: raised whenever the same input may give other bytes, so that state files
// do not mix measurements of different encoders.
inline constexpr std::uint32_t kEncoderVersion = 2;

}  // namespace quantfit::kernels

// ggml's own block encoders and decoders, called through the prebuilt library of the npm package that
// scripts/setup-client installs. A reference for tests and benchmarks; the program never uses it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/format.h"

namespace quantfit::test {

// The folder with the prebuilt shared libraries: the one that the environment variable
// QUANTFIT_REFERENCE_LIB_DIR names, else the package's folder under tests/client. Nothing when
// libggml-base.so is not there.
[[nodiscard]] std::optional<std::filesystem::path> reference_library_dir();

// One sentence for GTEST_SKIP and notices: what is missing and how to get it.
inline constexpr const char* kReferenceLibraryAbsent =
    "the prebuilt llama.cpp libraries are not installed; run scripts/setup-client or set "
    "QUANTFIT_REFERENCE_LIB_DIR";

// Loaded once per process and never unloaded; every method may be called from any thread.
class ReferenceLibrary {
 public:
  // Unsupported when the libraries are not installed (kReferenceLibraryAbsent) or
  // lack a symbol, with its name.
  [[nodiscard]] static Result<const ReferenceLibrary*> load();

  // True when the library has an encoder for `format`: the quantized formats, F16, BF16 and F32.
  [[nodiscard]] bool can_quantize(Format format) const;
  // True when the library's encoder would abort without importance.
  [[nodiscard]] bool requires_importance(Format format) const;

  // Encodes `rows` rows of `columns` weights at `x` (row-major). `importance`: one value per column,
  // shared by all rows, or empty. `out` receives tensor_bytes(format, columns, rows) bytes.
  // InvalidArgument when importance is needed and missing or a size is wrong, ShapeMismatch when a row is
  // not a whole number of blocks. Tables of the codebook formats are built at the first call for that
  // format: make one call before timing.
  [[nodiscard]] Result<void> quantize_chunk(Format format, std::span<const float> x, std::uint64_t rows,
                                            std::uint64_t columns, std::span<const float> importance,
                                            std::span<std::byte> out) const;

  // Decodes out.size() weights, a whole number of blocks; `in` has row_bytes(format, out.size()) bytes.
  // Quantized formats, F16 and BF16.
  [[nodiscard]] Result<void> dequantize_row(Format format, std::span<const std::byte> in,
                                            std::span<float> out) const;

 private:
  using QuantizeInit = void (*)(int type);
  using QuantizeChunk = std::size_t (*)(int type, const float* src, void* dst, std::int64_t start,
                                        std::int64_t rows, std::int64_t columns, const float* importance);
  using RequiresImportance = bool (*)(int type);
  using Dequantize = void (*)(const void* in, float* out, std::int64_t count);

  QuantizeInit quantize_init_ = nullptr;
  QuantizeChunk quantize_chunk_ = nullptr;
  RequiresImportance requires_importance_ = nullptr;
  std::array<Dequantize, kFormatIdCount> dequantize_{};
};

}  // namespace quantfit::test

#include "tests/support/reference_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

namespace quantfit::test {
namespace {

// The library's decoders by symbol; the names are its public (exported) ones.
struct Decoder {
  Format format;
  const char* symbol;
};
constexpr Decoder kDecoders[] = {
    {Format::F16, "ggml_fp16_to_fp32_row"},      {Format::BF16, "ggml_bf16_to_fp32_row"},
    {Format::Q4_0, "dequantize_row_q4_0"},       {Format::Q4_1, "dequantize_row_q4_1"},
    {Format::Q5_0, "dequantize_row_q5_0"},       {Format::Q5_1, "dequantize_row_q5_1"},
    {Format::Q8_0, "dequantize_row_q8_0"},       {Format::Q2_K, "dequantize_row_q2_K"},
    {Format::Q3_K, "dequantize_row_q3_K"},       {Format::Q4_K, "dequantize_row_q4_K"},
    {Format::Q5_K, "dequantize_row_q5_K"},       {Format::Q6_K, "dequantize_row_q6_K"},
    {Format::IQ2_XXS, "dequantize_row_iq2_xxs"}, {Format::IQ2_XS, "dequantize_row_iq2_xs"},
    {Format::IQ3_XXS, "dequantize_row_iq3_xxs"}, {Format::IQ1_S, "dequantize_row_iq1_s"},
    {Format::IQ4_NL, "dequantize_row_iq4_nl"},   {Format::IQ3_S, "dequantize_row_iq3_s"},
    {Format::IQ2_S, "dequantize_row_iq2_s"},     {Format::IQ4_XS, "dequantize_row_iq4_xs"},
    {Format::IQ1_M, "dequantize_row_iq1_m"},     {Format::TQ1_0, "dequantize_row_tq1_0"},
    {Format::TQ2_0, "dequantize_row_tq2_0"},     {Format::MXFP4, "dequantize_row_mxfp4"},
    {Format::NVFP4, "dequantize_row_nvfp4"},     {Format::Q1_0, "dequantize_row_q1_0"},
    {Format::Q2_0, "dequantize_row_q2_0"},
};

template <class Function>
bool resolve(void* library, const char* symbol, Function& out) {
  out = reinterpret_cast<Function>(dlsym(library, symbol));
  return out != nullptr;
}

}  // namespace

std::optional<std::filesystem::path> reference_library_dir() {
  const char* from_environment = std::getenv("QUANTFIT_REFERENCE_LIB_DIR");
  std::filesystem::path path = from_environment != nullptr ? from_environment : QUANTFIT_REFERENCE_LIB_DIR;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path / "libggml-base.so", ignored)) return std::nullopt;
  return path;
}

Result<const ReferenceLibrary*> ReferenceLibrary::load() {
  // Made once; a function-local static is initialized under the language's own lock.
  static const Result<ReferenceLibrary> instance = []() -> Result<ReferenceLibrary> {
    const auto dir = reference_library_dir();
    if (!dir) return fail(ErrorCode::Unsupported, "{}", kReferenceLibraryAbsent);
    const std::string file = (*dir / "libggml-base.so").string();
    void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return fail(ErrorCode::Unsupported, "cannot load {}: {}", file, dlerror());
    ReferenceLibrary loaded;
    if (!resolve(library, "ggml_quantize_init", loaded.quantize_init_) ||
        !resolve(library, "ggml_quantize_chunk", loaded.quantize_chunk_) ||
        !resolve(library, "ggml_quantize_requires_imatrix", loaded.requires_importance_)) {
      return fail(ErrorCode::Unsupported, "{}: {}", file, dlerror());
    }
    for (const Decoder& decoder : kDecoders) {
      if (!resolve(library, decoder.symbol, loaded.dequantize_[static_cast<std::size_t>(decoder.format)])) {
        return fail(ErrorCode::Unsupported, "{} has no symbol {}", file, decoder.symbol);
      }
    }
    return loaded;
  }();
  if (!instance) return instance.error();
  return &instance.value();
}

bool ReferenceLibrary::can_quantize(Format format) const {
  return is_quantized(format) || format == Format::F32 || format == Format::F16 || format == Format::BF16;
}

bool ReferenceLibrary::requires_importance(Format format) const {
  return requires_importance_(static_cast<int>(format));
}

Result<void> ReferenceLibrary::quantize_chunk(Format format, std::span<const float> x, std::uint64_t rows,
                                              std::uint64_t columns, std::span<const float> importance,
                                              std::span<std::byte> out) const {
  if (!can_quantize(format))
    return fail(ErrorCode::Unsupported, "{}: not a quantized format", name_of(format));
  QF_ASSIGN(const std::uint64_t bytes, tensor_bytes(format, columns, rows));
  if (x.size() != rows * columns || out.size() != bytes ||
      (!importance.empty() && importance.size() != columns)) {
    return fail(ErrorCode::InvalidArgument,
                "{} weights, {} bytes and {} importances do not fit {} rows of {} as {}", x.size(),
                out.size(), importance.size(), rows, columns, name_of(format));
  }
  if (importance.empty() && requires_importance(format)) {
    return fail(ErrorCode::InvalidArgument, "{} cannot be encoded without importance", name_of(format));
  }
  quantize_init_(static_cast<int>(format));  // locks; does nothing after the first call for a format
  const std::size_t written =
      quantize_chunk_(static_cast<int>(format), x.data(), out.data(), 0, static_cast<std::int64_t>(rows),
                      static_cast<std::int64_t>(columns), importance.empty() ? nullptr : importance.data());
  if (written != bytes) {
    return fail(ErrorCode::Internal, "{}: the library wrote {} bytes, expected {}", name_of(format), written,
                bytes);
  }
  return outcome::success();
}

Result<void> ReferenceLibrary::dequantize_row(Format format, std::span<const std::byte> in,
                                              std::span<float> out) const {
  const Dequantize dequantize = dequantize_[static_cast<std::size_t>(format)];
  if (dequantize == nullptr) return fail(ErrorCode::Unsupported, "no decoder for {}", name_of(format));
  QF_ASSIGN(const std::uint64_t bytes, row_bytes(format, out.size()));
  if (in.size() != bytes) {
    return fail(ErrorCode::InvalidArgument, "{} bytes for {} weights of {}, expected {}", in.size(),
                out.size(), name_of(format), bytes);
  }
  dequantize(in.data(), out.data(), static_cast<std::int64_t>(out.size()));
  return outcome::success();
}

}  // namespace quantfit::test

// Decoders: any bytes are blocks of any format. The first byte is the format's id, the rest its blocks; all
// instruction sets must read the same numbers.

#include <cstdint>
#include <cstring>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"
#include "kernels/validate.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quantfit;
  if (size == 0) return 0;
  const FormatTraits* format = find_format(data[0]);
  if (format == nullptr) return 0;
  const std::size_t blocks = (size - 1) / format->block_bytes;
  if (blocks == 0) return 0;
  // Copied to where the sanitizer sees the end.
  const std::vector<std::uint8_t> exact(data + 1, data + 1 + blocks * format->block_bytes);
  const auto bytes = std::as_bytes(std::span(exact));
  (void)kernels::validate_blocks(format->format, bytes);
  (void)kernels::first_invalid_block(format->format, bytes);
  std::vector<float> first;
  for (const kernels::RowKernels& kernels : kernels::runnable_kernels()) {
    const kernels::DecodeRow decode = kernels.decode[static_cast<std::size_t>(format->format)];
    if (decode == nullptr) return 0;
    std::vector<float> decoded(blocks * format->block_len);
    decode(bytes.data(), decoded.size(), decoded.data());
    if (first.empty()) {
      first = decoded;
      continue;
    }
    for (std::size_t i = 0; i < first.size(); ++i)
      fuzz::expect(std::memcmp(&first[i], &decoded[i], sizeof(float)) == 0 ||
                       (first[i] != first[i] && decoded[i] != decoded[i]),
                   "all instruction sets decode the same numbers");
  }
  return 0;
}

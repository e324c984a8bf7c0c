// Parsing of one GGUF file in memory. Input is hostile: every number is checked before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/gguf_value.h"
#include "core/model.h"
#include "core/tensor_info.h"

namespace quantfit {

// What stands before the data section, and where that begins.
struct GgufContents {
  std::uint32_t version = 0;
  std::uint32_t alignment = 0;
  std::uint64_t data_offset = 0;  // the file's size when there are no tensors
  GgufMetadata metadata;
  std::vector<TensorInfo> tensors;  // in file order; shard is 0
};

// `file` is the whole file (in MetadataOnly mode its data section may be cut off), `name` what messages call
// it. The rules are those of gguf_format.md. Malformed or Unsupported with the file, the byte position and
// the cause; the code is Unsupported for well-formed files of another version or byte order only. Allocates
// no more than a small multiple of the bytes that are really there.
[[nodiscard]] Result<GgufContents> parse_gguf(std::span<const std::byte> file, std::string_view name,
                                              OpenMode mode = OpenMode::Data);

}  // namespace quantfit

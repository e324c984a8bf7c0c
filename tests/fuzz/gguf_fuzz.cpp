// GGUF headers: whatever the bytes, an error or contents that lie inside the file.

#include <cstdint>

#include "core/gguf_reader.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quantfit;
  const std::span<const std::byte> file = fuzz::bytes_of(data, size);
  for (const OpenMode mode : {OpenMode::MetadataOnly, OpenMode::Data}) {
    const Result<GgufContents> contents = parse_gguf(file, "fuzz.gguf", mode);
    if (!contents) {
      fuzz::expect(!contents.error().message.empty(), "an error says something");
      continue;
    }
    for (const GgufKeyValue& value : contents.value().metadata.all()) {
      fuzz::expect(value.consistent(), "metadata are consistent");
      (void)value.as_uint();
      (void)value.as_int();
      (void)value.as_double();
      (void)value.as_bool();
      (void)value.as_string();
      (void)value.as_int_array();
      (void)value.as_string_array();
    }
    for (const TensorInfo& tensor : contents.value().tensors) {
      fuzz::expect(tensor.n_dims <= 4, "at most four dimensions");
      if (mode == OpenMode::Data && tensor.bytes != 0)
        fuzz::expect(tensor.bytes <= size && tensor.offset <= size - tensor.bytes &&
                         contents.value().data_offset <= size - tensor.bytes - tensor.offset,
                     "tensor data lie inside the file");
    }
  }
  return 0;
}

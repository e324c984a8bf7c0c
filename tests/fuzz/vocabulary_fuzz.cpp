// Vocabularies: the metadata of any GGUF file are refused, or make a tokenizer whose ids stay inside it.

#include <cstdint>

#include "core/gguf_reader.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quantfit;
  const auto contents = parse_gguf(fuzz::bytes_of(data, size), "fuzz.gguf", OpenMode::MetadataOnly);
  if (!contents) return 0;
  const auto tokenizer = Tokenizer::from_metadata(contents.value().metadata, "fuzz.gguf");
  if (!tokenizer) return 0;
  for (const std::string_view text : {"", "The tale of 12,345 mice.\n", "\xe2\x96\x81 <s>\xff\x80 ab ab"}) {
    const auto ids = tokenizer.value().encode(text);
    if (!ids) continue;
    for (const TokenId id : ids.value())
      fuzz::expect(id < tokenizer.value().vocabulary_size(), "ids are inside the vocabulary");
    fuzz::expect(tokenizer.value().decode(ids.value()).has_value(), "what was encoded can be decoded");
  }
  return 0;
}

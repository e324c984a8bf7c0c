// Metadata that a user wants to be otherwise in the written file, in llama-quantize's spelling.
#pragma once

#include <string_view>

#include "core/error.h"
#include "core/gguf_value.h"

namespace quantfit::optimizer {

// "KEY=TYPE:VALUE" with TYPE int, float, bool or str. An integer has the type of the key in `source` where
// that is one and holds it, else 32 bits, as llama.cpp reads them; floats have 32. InvalidArgument for
// another form, a value that is none of its type, a string above 127 bytes, and keys that the writer sets
// itself.
[[nodiscard]] Result<GgufKeyValue> parse_key_override(std::string_view text, const GgufMetadata& source);

}  // namespace quantfit::optimizer

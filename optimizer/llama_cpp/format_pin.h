// "This tensor gets that format", as text of options and files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/format.h"
#include "optimizer/llama_cpp/pattern.h"

namespace quantfit::optimizer {

// A user's "this tensor gets that format": the first pattern found in the name counts.
struct FormatPin {
  Pattern pattern;
  Format format = Format::F32;
  std::string given_as = {};  // the name of the option, file or field it came from; empty: see RuleNames
};

// A type that weights may be stored in: neither integers nor F64.
[[nodiscard]] bool storable(Format format);

// `regex=type`: a pin, a floor or a ceiling. InvalidArgument when the text has no '=', the pattern is none,
// or the type is not one that a file may store weights in.
[[nodiscard]] Result<FormatPin> parse_format_pin(std::string_view text);

// The body of a `--tensor-type-file`: tokens `regex=type` separated by white space. InvalidArgument naming
// line and token for anything else; llama-quantize knows no comments there.
[[nodiscard]] Result<std::vector<FormatPin>> parse_format_pins(std::string_view text);

// Comma- or space-separated type names ("q4_K,IQ3_S"), each once. InvalidArgument naming the unknown one.
[[nodiscard]] Result<std::vector<Format>> parse_format_list(std::string_view text);

}  // namespace quantfit::optimizer

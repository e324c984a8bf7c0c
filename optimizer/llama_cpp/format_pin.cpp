#include "optimizer/llama_cpp/format_pin.h"

#include <algorithm>

namespace quantfit::optimizer {
namespace {

constexpr std::string_view kSpace = " \t\r\n\v\f";

}  // namespace

bool storable(Format format) {
  const FormatKind kind = traits(format).kind;
  return kind == FormatKind::Float || kind == FormatKind::Quantized;
}

Result<FormatPin> parse_format_pin(std::string_view text) {
  // A type never holds '=', a pattern may.
  const std::size_t equals = text.rfind('=');
  if (equals == std::string_view::npos || equals == 0)
    return fail(ErrorCode::InvalidArgument, "'{}': expected pattern=type, for example ffn_down=q5_K", text);
  const auto format = parse_format(text.substr(equals + 1));
  if (!format || !storable(*format))
    return fail(ErrorCode::InvalidArgument, "'{}': unknown type '{}'", text, text.substr(equals + 1));
  QF_ASSIGN(Pattern pattern, Pattern::compile(text.substr(0, equals)));
  return FormatPin{std::move(pattern), *format};
}

Result<std::vector<FormatPin>> parse_format_pins(std::string_view text) {
  std::vector<FormatPin> pins;
  std::size_t line = 1, at = 0;
  while (at < text.size()) {
    if (kSpace.find(text[at]) != std::string_view::npos) {
      line += text[at++] == '\n' ? 1 : 0;
      continue;
    }
    const std::size_t end = std::min(text.find_first_of(kSpace, at), text.size());
    auto pin = parse_format_pin(text.substr(at, end - at));
    if (!pin) return fail(pin.error().code, "line {}: {}", line, pin.error().message);
    pins.push_back(std::move(pin).value());
    at = end;
  }
  return pins;
}

Result<std::vector<Format>> parse_format_list(std::string_view text) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<Format> formats;
  std::size_t at = 0;
  while ((at = text.find_first_not_of(kSeparators, at)) != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    const auto format = parse_format(text.substr(at, end - at));
    if (!format || !storable(*format))
      return fail(ErrorCode::InvalidArgument, "unknown type '{}'", text.substr(at, end - at));
    if (std::ranges::find(formats, *format) == formats.end()) formats.push_back(*format);
    at = end;
  }
  if (formats.empty()) return fail(ErrorCode::InvalidArgument, "an empty list of types");
  return formats;
}

}  // namespace quantfit::optimizer

#include "optimizer/llama_cpp/key_override.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "core/text.h"

namespace quantfit::optimizer {
namespace {

// The longest that llama.cpp takes.
constexpr std::size_t kMaxText = 127;

constexpr std::string_view kOwn[] = {"general.alignment", "general.file_type",
                                     "general.quantization_version"};
constexpr std::string_view kOwnPrefixes[] = {"split.", "quantfit.", "quantize.imatrix."};

bool set_by_the_writer(std::string_view key) {
  for (const std::string_view own : kOwn)
    if (key == own) return true;
  for (const std::string_view prefix : kOwnPrefixes)
    if (key.starts_with(prefix)) return true;
  return false;
}

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <class T>
GgufKeyValue scalar(std::string key, GgufType type, T value) {
  std::vector<std::byte> bytes(sizeof(value));
  std::memcpy(bytes.data(), &value, sizeof(value));
  return {std::move(key), type, GgufType::UInt8, 1, SharedBytes(std::move(bytes))};
}

// The value in that type; nothing when it does not hold it.
template <class T>
std::optional<GgufKeyValue> narrowed(const std::string& key, GgufType type, std::int64_t value) {
  if (!std::in_range<T>(value)) return std::nullopt;
  return scalar(key, type, static_cast<T>(value));
}

std::optional<GgufKeyValue> integer(const std::string& key, GgufType type, std::int64_t value) {
  switch (type) {
    case GgufType::UInt8:
      return narrowed<std::uint8_t>(key, type, value);
    case GgufType::Int8:
      return narrowed<std::int8_t>(key, type, value);
    case GgufType::UInt16:
      return narrowed<std::uint16_t>(key, type, value);
    case GgufType::Int16:
      return narrowed<std::int16_t>(key, type, value);
    case GgufType::UInt32:
      return narrowed<std::uint32_t>(key, type, value);
    case GgufType::Int32:
      return narrowed<std::int32_t>(key, type, value);
    case GgufType::UInt64:
      return narrowed<std::uint64_t>(key, type, value);
    case GgufType::Int64:
      return narrowed<std::int64_t>(key, type, value);
    default:
      return std::nullopt;
  }
}

}  // namespace

Result<GgufKeyValue> parse_key_override(std::string_view text, const GgufMetadata& source) {
  const std::size_t equals = text.find('=');
  const std::size_t colon = equals == std::string_view::npos ? equals : text.find(':', equals);
  if (equals == 0 || colon == std::string_view::npos)
    return fail(ErrorCode::InvalidArgument, "{} is not KEY=TYPE:VALUE", printable(text));
  const std::string key(text.substr(0, equals));
  const std::string_view type = text.substr(equals + 1, colon - equals - 1);
  const std::string_view value = text.substr(colon + 1);
  if (set_by_the_writer(key))
    return fail(ErrorCode::InvalidArgument, "{} follows from what is written: it cannot be overridden",
                printable(key));
  const auto wrong = [&](std::string_view what) {
    return fail(ErrorCode::InvalidArgument, "{}: {} is no {}", printable(key), printable(value), what);
  };
  if (type == "int") {
    const auto parsed = number<std::int64_t>(value);
    if (!parsed) return wrong("integer");
    if (const GgufKeyValue* before = source.find(key))
      if (auto same = integer(key, before->type, *parsed)) return *same;
    auto plain = integer(key, *parsed < 0 ? GgufType::Int32 : GgufType::UInt32, *parsed);
    if (!plain) return wrong("integer of 32 bits");
    return *plain;
  }
  if (type == "float") {
    const auto parsed = number<float>(value);
    if (!parsed || !std::isfinite(*parsed)) return wrong("finite number");
    return GgufKeyValue::of_float32(key, *parsed);
  }
  if (type == "bool") {
    if (value != "true" && value != "false") return wrong("true or false");
    return GgufKeyValue::of_bool(key, value == "true");
  }
  if (type == "str") {
    if (value.size() > kMaxText)
      return fail(ErrorCode::InvalidArgument, "{}: the text has {} bytes, {} are possible", printable(key),
                  value.size(), kMaxText);
    return GgufKeyValue::of_string(key, value);
  }
  return fail(ErrorCode::InvalidArgument, "{}: '{}' is none of int, float, bool, str", printable(key), type);
}

}  // namespace quantfit::optimizer

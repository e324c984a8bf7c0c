#include "core/gguf_value.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

namespace quantfit {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF fields are read in place");

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// Calls `use` with the number of type `type` at `bytes`; false when it is not a number.
template <class Use>
bool with_number(GgufType type, const std::byte* bytes, Use use) {
  switch (type) {
    case GgufType::UInt8: use(load<std::uint8_t>(bytes)); return true;
    case GgufType::Int8: use(load<std::int8_t>(bytes)); return true;
    case GgufType::UInt16: use(load<std::uint16_t>(bytes)); return true;
    case GgufType::Int16: use(load<std::int16_t>(bytes)); return true;
    case GgufType::UInt32: use(load<std::uint32_t>(bytes)); return true;
    case GgufType::Int32: use(load<std::int32_t>(bytes)); return true;
    case GgufType::UInt64: use(load<std::uint64_t>(bytes)); return true;
    case GgufType::Int64: use(load<std::int64_t>(bytes)); return true;
    case GgufType::Float32: use(load<float>(bytes)); return true;
    case GgufType::Float64: use(load<double>(bytes)); return true;
    default: return false;
  }
}

template <class To, class From>
std::optional<To> exactly(From value) {
  if constexpr (std::is_floating_point_v<From>) {
    return std::nullopt;
  } else {
    if (!std::in_range<To>(value)) return std::nullopt;
    return static_cast<To>(value);
  }
}

template <class T>
std::vector<std::byte> bytes_of(T value) {
  std::vector<std::byte> bytes(sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

template <class T>
GgufKeyValue scalar(std::string key, GgufType type, T value) {
  return {std::move(key), type, GgufType::UInt8, 1, bytes_of(value)};
}

std::size_t element_size(GgufType type) {
  switch (type) {
    case GgufType::UInt8:
    case GgufType::Int8:
    case GgufType::Bool: return 1;
    case GgufType::UInt16:
    case GgufType::Int16: return 2;
    case GgufType::UInt32:
    case GgufType::Int32:
    case GgufType::Float32: return 4;
    default: return 8;
  }
}

}  // namespace

std::optional<std::uint64_t> GgufKeyValue::as_uint() const {
  std::optional<std::uint64_t> result;
  if (type != GgufType::Array) with_number(type, bytes.data(), [&](auto v) { result = exactly<std::uint64_t>(v); });
  return result;
}

std::optional<std::int64_t> GgufKeyValue::as_int() const {
  std::optional<std::int64_t> result;
  if (type != GgufType::Array) with_number(type, bytes.data(), [&](auto v) { result = exactly<std::int64_t>(v); });
  return result;
}

std::optional<double> GgufKeyValue::as_double() const {
  std::optional<double> result;
  if (type != GgufType::Array) with_number(type, bytes.data(), [&](auto v) { result = static_cast<double>(v); });
  return result;
}

std::optional<bool> GgufKeyValue::as_bool() const {
  if (type != GgufType::Bool) return std::nullopt;
  return bytes[0] != std::byte{0};
}

std::optional<std::string_view> GgufKeyValue::as_string() const {
  if (type != GgufType::String) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::optional<std::vector<std::int64_t>> GgufKeyValue::as_int_array() const {
  if (type != GgufType::Array) return std::nullopt;
  std::vector<std::int64_t> values;
  values.reserve(count);
  const std::size_t size = element_size(element_type);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::optional<std::int64_t> value;
    if (element_type == GgufType::Bool)
      value = bytes[i] != std::byte{0} ? 1 : 0;
    else
      with_number(element_type, bytes.data() + i * size, [&](auto v) { value = exactly<std::int64_t>(v); });
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  return values;
}

std::optional<std::vector<std::string>> GgufKeyValue::as_string_array() const {
  if (type != GgufType::Array || element_type != GgufType::String) return std::nullopt;
  std::vector<std::string> values;
  values.reserve(count);
  std::size_t at = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto length = load<std::uint64_t>(bytes.data() + at);
    values.emplace_back(reinterpret_cast<const char*>(bytes.data()) + at + 8, length);
    at += 8 + length;
  }
  return values;
}

GgufKeyValue GgufKeyValue::of_uint32(std::string key, std::uint32_t value) {
  return scalar(std::move(key), GgufType::UInt32, value);
}
GgufKeyValue GgufKeyValue::of_uint16(std::string key, std::uint16_t value) {
  return scalar(std::move(key), GgufType::UInt16, value);
}
GgufKeyValue GgufKeyValue::of_int32(std::string key, std::int32_t value) {
  return scalar(std::move(key), GgufType::Int32, value);
}
GgufKeyValue GgufKeyValue::of_float32(std::string key, float value) {
  return scalar(std::move(key), GgufType::Float32, value);
}
GgufKeyValue GgufKeyValue::of_bool(std::string key, bool value) {
  return scalar(std::move(key), GgufType::Bool, static_cast<std::uint8_t>(value ? 1 : 0));
}
GgufKeyValue GgufKeyValue::of_string(std::string key, std::string_view value) {
  const auto* data = reinterpret_cast<const std::byte*>(value.data());
  return {std::move(key), GgufType::String, GgufType::UInt8, 1, {data, data + value.size()}};
}
GgufKeyValue GgufKeyValue::of_string_array(std::string key, std::span<const std::string> values) {
  GgufKeyValue result{std::move(key), GgufType::Array, GgufType::String, values.size(), {}};
  for (const std::string& value : values) {
    const auto length = bytes_of(std::uint64_t{value.size()});
    result.bytes.insert(result.bytes.end(), length.begin(), length.end());
    const auto* data = reinterpret_cast<const std::byte*>(value.data());
    result.bytes.insert(result.bytes.end(), data, data + value.size());
  }
  return result;
}
GgufKeyValue GgufKeyValue::of_uint32_array(std::string key, std::span<const std::uint32_t> values) {
  GgufKeyValue result{std::move(key), GgufType::Array, GgufType::UInt32, values.size(), {}};
  result.bytes.resize(values.size_bytes());
  if (!values.empty()) std::memcpy(result.bytes.data(), values.data(), values.size_bytes());
  return result;
}

bool GgufMetadata::add(GgufKeyValue value) {
  if (!index_.emplace(value.key, static_cast<std::uint32_t>(values_.size())).second) return false;
  values_.push_back(std::move(value));
  return true;
}

void GgufMetadata::set(GgufKeyValue value) {
  if (const auto found = index_.find(value.key); found != index_.end())
    values_[found->second] = std::move(value);
  else
    add(std::move(value));
}

bool GgufMetadata::remove(std::string_view key) {
  const auto found = index_.find(std::string(key));
  if (found == index_.end()) return false;
  const std::uint32_t position = found->second;
  index_.erase(found);
  values_.erase(values_.begin() + position);
  for (auto& [name, i] : index_)
    if (i > position) --i;
  return true;
}

const GgufKeyValue* GgufMetadata::find(std::string_view key) const {
  const auto found = index_.find(std::string(key));
  return found == index_.end() ? nullptr : &values_[found->second];
}

std::optional<std::uint64_t> GgufMetadata::uint(std::string_view key) const {
  const GgufKeyValue* value = find(key);
  return value == nullptr ? std::nullopt : value->as_uint();
}
std::optional<std::string_view> GgufMetadata::string(std::string_view key) const {
  const GgufKeyValue* value = find(key);
  return value == nullptr ? std::nullopt : value->as_string();
}
std::optional<double> GgufMetadata::number(std::string_view key) const {
  const GgufKeyValue* value = find(key);
  return value == nullptr ? std::nullopt : value->as_double();
}

}  // namespace quantfit

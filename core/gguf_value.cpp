#include "core/gguf_value.h"

#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
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
    case GgufType::UInt8:
      use(load<std::uint8_t>(bytes));
      return true;
    case GgufType::Int8:
      use(load<std::int8_t>(bytes));
      return true;
    case GgufType::UInt16:
      use(load<std::uint16_t>(bytes));
      return true;
    case GgufType::Int16:
      use(load<std::int16_t>(bytes));
      return true;
    case GgufType::UInt32:
      use(load<std::uint32_t>(bytes));
      return true;
    case GgufType::Int32:
      use(load<std::int32_t>(bytes));
      return true;
    case GgufType::UInt64:
      use(load<std::uint64_t>(bytes));
      return true;
    case GgufType::Int64:
      use(load<std::int64_t>(bytes));
      return true;
    case GgufType::Float32:
      use(load<float>(bytes));
      return true;
    case GgufType::Float64:
      use(load<double>(bytes));
      return true;
    default:
      return false;
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

template <class T, class Convert>
std::optional<T> read_scalar(const GgufKeyValue& value, Convert convert) {
  const std::uint64_t size = fixed_size(value.type);
  if (size == 0 || value.bytes.size() != size) return std::nullopt;
  std::optional<T> result;
  if (value.type == GgufType::Bool)
    result = static_cast<T>(value.bytes[0] != std::byte{0} ? 1 : 0);
  else
    with_number(value.type, value.bytes.data(), [&](auto number) { result = convert(number); });
  return result;
}

// The double equal to `value`, nothing when rounding would change it.
template <class T>
std::optional<double> exact_double(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(value);
  } else {
    const auto rounded = static_cast<double>(value);
    // 2^63 and 2^64 are out of range of the conversion back.
    if (rounded >= static_cast<double>(std::numeric_limits<T>::max()) &&
        std::numeric_limits<T>::digits > std::numeric_limits<double>::digits)
      return std::nullopt;
    if (static_cast<T>(rounded) != value) return std::nullopt;
    return rounded;
  }
}

}  // namespace

std::uint64_t fixed_size(GgufType type) {
  switch (type) {
    case GgufType::UInt8:
    case GgufType::Int8:
    case GgufType::Bool:
      return 1;
    case GgufType::UInt16:
    case GgufType::Int16:
      return 2;
    case GgufType::UInt32:
    case GgufType::Int32:
    case GgufType::Float32:
      return 4;
    case GgufType::UInt64:
    case GgufType::Int64:
    case GgufType::Float64:
      return 8;
    case GgufType::String:
    case GgufType::Array:
      return 0;
  }
  return 0;
}

std::optional<std::uint64_t> GgufKeyValue::as_uint() const {
  return read_scalar<std::uint64_t>(*this, [](auto number) { return exactly<std::uint64_t>(number); });
}

std::optional<std::int64_t> GgufKeyValue::as_int() const {
  return read_scalar<std::int64_t>(*this, [](auto number) { return exactly<std::int64_t>(number); });
}

std::optional<double> GgufKeyValue::as_double() const {
  return read_scalar<double>(*this, [](auto number) { return exact_double(number); });
}

std::optional<bool> GgufKeyValue::as_bool() const {
  if (type != GgufType::Bool || bytes.size() != 1) return std::nullopt;
  return bytes[0] != std::byte{0};
}

std::optional<std::string_view> GgufKeyValue::as_string() const {
  if (type != GgufType::String) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::optional<std::vector<std::int64_t>> GgufKeyValue::as_int_array() const {
  if (type != GgufType::Array || element_type == GgufType::String || !consistent()) return std::nullopt;
  std::vector<std::int64_t> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::optional<std::int64_t> value = int_at(i);
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  return values;
}

std::optional<std::int64_t> GgufKeyValue::int_at(std::uint64_t index) const {
  const std::uint64_t size = fixed_size(element_type);
  if (type != GgufType::Array || size == 0 || index >= bytes.size() / size) return std::nullopt;
  if (element_type == GgufType::Bool) return bytes[index] != std::byte{0} ? 1 : 0;
  std::optional<std::int64_t> value;
  with_number(element_type, bytes.data() + index * size,
              [&](auto number) { value = exactly<std::int64_t>(number); });
  return value;
}

std::optional<std::vector<std::string>> GgufKeyValue::as_string_array() const {
  if (type != GgufType::Array || element_type != GgufType::String || !consistent()) return std::nullopt;
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

bool GgufKeyValue::consistent() const {
  if (type == GgufType::String) return true;
  if (type != GgufType::Array) return fixed_size(type) != 0 && bytes.size() == fixed_size(type);
  if (element_type != GgufType::String) {
    const std::uint64_t size = fixed_size(element_type);
    return size != 0 && count <= bytes.size() && bytes.size() == count * size;
  }
  std::uint64_t rest = bytes.size();
  for (std::uint64_t i = 0; i < count; ++i) {
    if (rest < 8) return false;
    const auto length = load<std::uint64_t>(bytes.data() + (bytes.size() - rest));
    rest -= 8;
    if (length > rest) return false;
    rest -= length;
  }
  return rest == 0;
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
GgufKeyValue GgufKeyValue::of_float64(std::string key, double value) {
  return scalar(std::move(key), GgufType::Float64, value);
}
GgufKeyValue GgufKeyValue::of_bool(std::string key, bool value) {
  return scalar(std::move(key), GgufType::Bool, static_cast<std::uint8_t>(value ? 1 : 0));
}
GgufKeyValue GgufKeyValue::of_string(std::string key, std::string_view value) {
  return {std::move(key), GgufType::String, GgufType::UInt8, 1, std::as_bytes(std::span(value))};
}
GgufKeyValue GgufKeyValue::of_string_array(std::string key, std::span<const std::string> values) {
  std::vector<std::byte> bytes;
  for (const std::string& value : values) {
    const auto length = bytes_of(std::uint64_t{value.size()});
    bytes.insert(bytes.end(), length.begin(), length.end());
    const auto text = std::as_bytes(std::span(value));
    bytes.insert(bytes.end(), text.begin(), text.end());
  }
  return {std::move(key), GgufType::Array, GgufType::String, values.size(), std::move(bytes)};
}
GgufKeyValue GgufKeyValue::of_uint32_array(std::string key, std::span<const std::uint32_t> values) {
  return {std::move(key), GgufType::Array, GgufType::UInt32, values.size(), std::as_bytes(values)};
}

bool GgufMetadata::add(GgufKeyValue value) {
  if (!index_.emplace(value.key, values_.size()).second) return false;
  values_.push_back(std::move(value));
  return true;
}

void GgufMetadata::set(GgufKeyValue value) {
  if (const auto at = index_.find(value.key); at != index_.end())
    values_[at->second] = std::move(value);
  else
    add(std::move(value));
}

bool GgufMetadata::remove(std::string_view key) {
  const auto at = index_.find(key);
  if (at == index_.end()) return false;
  const std::size_t position = at->second;
  index_.erase(at);
  values_.erase(values_.begin() + static_cast<std::ptrdiff_t>(position));
  for (std::size_t i = position; i < values_.size(); ++i) index_.find(values_[i].key)->second = i;
  return true;
}

const GgufKeyValue* GgufMetadata::find(std::string_view key) const {
  const auto at = index_.find(key);
  return at == index_.end() ? nullptr : &values_[at->second];
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

// Metadata of a GGUF file: typed keys whose bytes are kept exactly as they were read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace quantfit {

enum class GgufType : std::uint32_t {
  UInt8 = 0,
  Int8 = 1,
  UInt16 = 2,
  Int16 = 3,
  UInt32 = 4,
  Int32 = 5,
  Float32 = 6,
  Bool = 7,
  String = 8,
  Array = 9,
  UInt64 = 10,
  Int64 = 11,
  Float64 = 12,
};

// Bytes of a value of that type; 0 for strings and arrays, whose size varies.
[[nodiscard]] std::uint64_t fixed_size(GgufType type);

// Bytes that are never changed once they are there, so that copies share them: a tokenizer's tables are
// large, and metadata are handed on often.
class SharedBytes {
 public:
  SharedBytes() = default;
  SharedBytes(std::vector<std::byte> bytes)  // NOLINT(google-explicit-constructor): a vector is bytes
      : bytes_(std::make_shared<const std::vector<std::byte>>(std::move(bytes))) {}
  SharedBytes(std::span<const std::byte> bytes)  // NOLINT(google-explicit-constructor): copies them
      : SharedBytes(std::vector<std::byte>(bytes.begin(), bytes.end())) {}

  [[nodiscard]] const std::byte* data() const { return bytes_ ? bytes_->data() : nullptr; }
  [[nodiscard]] std::size_t size() const { return bytes_ ? bytes_->size() : 0; }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] const std::byte& operator[](std::size_t index) const { return (*bytes_)[index]; }
  [[nodiscard]] const std::byte* begin() const { return data(); }
  [[nodiscard]] const std::byte* end() const { return data() + size(); }

  friend bool operator==(const SharedBytes& a, const SharedBytes& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  std::shared_ptr<const std::vector<std::byte>> bytes_;
};

// One key and its value. `bytes` is the value as it stands in the file, without the type id; for
// arrays without the element type and count; for a string without its length. Copies share
// them.
struct GgufKeyValue {
  std::string key;
  GgufType type = GgufType::UInt8;
  GgufType element_type = GgufType::UInt8;  // of arrays
  std::uint64_t count = 1;                  // array elements
  SharedBytes bytes;

  // The value when it has (or can exactly be read as) that C++ type, nothing otherwise. Integers accept every
  // integer type that holds the value; numbers also bool. Arrays answer through the *_array functions.
  [[nodiscard]] std::optional<std::uint64_t> as_uint() const;
  [[nodiscard]] std::optional<std::int64_t> as_int() const;
  [[nodiscard]] std::optional<double> as_double() const;
  [[nodiscard]] std::optional<bool> as_bool() const;
  [[nodiscard]] std::optional<std::string_view> as_string() const;
  [[nodiscard]] std::optional<std::vector<std::int64_t>> as_int_array() const;
  // Element `index` of an array of integers (or bool), read in place; nothing beyond its end.
  [[nodiscard]] std::optional<std::int64_t> int_at(std::uint64_t index) const;
  [[nodiscard]] std::optional<std::vector<std::string>> as_string_array() const;
  // True when `bytes` is exactly what type, element type and count announce. The reader yields nothing else;
  // the writer refuses anything else.
  [[nodiscard]] bool consistent() const;

  [[nodiscard]] static GgufKeyValue of_uint32(std::string key, std::uint32_t value);
  [[nodiscard]] static GgufKeyValue of_uint16(std::string key, std::uint16_t value);
  [[nodiscard]] static GgufKeyValue of_int32(std::string key, std::int32_t value);
  [[nodiscard]] static GgufKeyValue of_float32(std::string key, float value);
  [[nodiscard]] static GgufKeyValue of_float64(std::string key, double value);
  [[nodiscard]] static GgufKeyValue of_bool(std::string key, bool value);
  [[nodiscard]] static GgufKeyValue of_string(std::string key, std::string_view value);
  [[nodiscard]] static GgufKeyValue of_string_array(std::string key, std::span<const std::string> values);
  [[nodiscard]] static GgufKeyValue of_uint32_array(std::string key, std::span<const std::uint32_t> values);
};

// Keys in file order, unique. Lookup is by hash.
class GgufMetadata {
 public:
  // False (and unchanged) when the key is already there.
  bool add(GgufKeyValue value);
  // Replaces in place, or appends.
  void set(GgufKeyValue value);
  // True when the key was there.
  bool remove(std::string_view key);
  [[nodiscard]] const GgufKeyValue* find(std::string_view key) const;
  [[nodiscard]] const std::vector<GgufKeyValue>& all() const { return values_; }

  // Shorthands that answer nothing when the key is absent or of another kind.
  [[nodiscard]] std::optional<std::uint64_t> uint(std::string_view key) const;
  [[nodiscard]] std::optional<std::string_view> string(std::string_view key) const;
  [[nodiscard]] std::optional<double> number(std::string_view key) const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view key) const { return std::hash<std::string_view>{}(key); }
  };
  std::vector<GgufKeyValue> values_;
  std::unordered_map<std::string, std::size_t, Hash, std::equal_to<>> index_;  // key -> position in values_
};

}  // namespace quantfit

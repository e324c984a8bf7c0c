// Hand-made GGUF files, right or wrong, byte by byte.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/gguf_value.h"

namespace quantfit::test {

class GgufBytes {
 public:
  GgufBytes(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    bytes_.reserve(1024);
    raw("GGUF").put(version).put(tensors).put(keys);
  }
  template <class T>
  GgufBytes& put(T value) {
    return append(&value, sizeof(T));
  }
  GgufBytes& raw(std::string_view text) { return append(text.data(), text.size()); }
  GgufBytes& text(std::string_view value) { return put(std::uint64_t{value.size()}).raw(value); }
  template <class T>
  GgufBytes& key(std::string_view name, GgufType type, T value) {
    return text(name).put(static_cast<std::uint32_t>(type)).put(value);
  }
  GgufBytes& key(std::string_view name, std::string_view value) {
    return text(name).put(static_cast<std::uint32_t>(GgufType::String)).text(value);
  }
  GgufBytes& tensor(std::string_view name, const std::vector<std::uint64_t>& ne, std::uint32_t type,
                    std::uint64_t offset) {
    text(name).put(static_cast<std::uint32_t>(ne.size()));
    for (const std::uint64_t extent : ne) put(extent);
    return put(type).put(offset);
  }
  GgufBytes& pad(std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufBytes& zeros(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  GgufBytes& append(const void* data, std::size_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + size);
    return *this;
  }

  std::vector<std::byte> bytes_;
};

}  // namespace quantfit::test

// Stops the test with the error's message unless `result` holds a value.
#define ASSERT_VALUE(result) ASSERT_TRUE(result) << (result).error().message

// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "core/error.h"

namespace quantfit {

// The mapping lives as long as the object. A file that another process truncates while it is mapped ends the
// program with a bus error when the lost part is read; nothing can be done about that short of copying.
class MappedFile {
 public:
  // Io when the file cannot be opened or mapped, or is not a regular file.
  [[nodiscard]] static Result<std::unique_ptr<MappedFile>> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] bool contains(std::span<const std::byte> part) const {
    return !part.empty() && part.data() >= data_ && part.data() + part.size() <= data_ + size_;
  }

  // Hints for pages of the mapping.
  void will_need(std::span<const std::byte> part) const noexcept;
  void done_with(std::span<const std::byte> part) const noexcept;
  // Reads will jump about: no page is read that nobody asked for. Otherwise the system reads ahead.
  void expect_random_access(bool random) const noexcept;

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  void advise(std::span<const std::byte> part, int advice, bool inner) const noexcept;

  const std::byte* data_;
  std::size_t size_;
};

}  // namespace quantfit

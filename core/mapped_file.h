// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/lost_pages.h"

namespace quantfit {

// The mapping lives as long as the object. Reading a part that another program cut off meanwhile, or that the
// disk cannot deliver, ends the program with a sentence that names the file, and status 1. While a FileWatch
// lives, it gives zeros instead, and check_unchanged() tells.
class MappedFile {
 public:
  // Io when the file cannot be opened or mapped, or is not a regular file.
  [[nodiscard]] static Result<std::unique_ptr<MappedFile>> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  // When it was opened: time of modification in nanoseconds since 1970, and inode.
  [[nodiscard]] std::int64_t modified() const { return modified_; }
  [[nodiscard]] std::uint64_t inode() const { return inode_; }
  // Io, naming the file and the cause, when it is not what it was when it was opened: parts were lost, or its
  // size or time of modification changed. A change that leaves both (somebody set the time back, or it fell
  // into the few milliseconds that the clock of files does not tell apart) is not seen. A file of the same
  // name that took this one's place is another file, and does not matter.
  [[nodiscard]] Result<void> check_unchanged() const;

  [[nodiscard]] bool contains(std::span<const std::byte> part) const {
    return !part.empty() && part.data() >= data_ && part.data() + part.size() <= data_ + size_;
  }

  // Hints for pages of the mapping.
  void will_need(std::span<const std::byte> part) const noexcept;
  void done_with(std::span<const std::byte> part) const noexcept;
  // Reads will jump about: no page is read that nobody asked for. Otherwise the system reads ahead.
  void expect_random_access(bool random) const noexcept;

 private:
  friend class FileWatch;
  MappedFile() = default;
  void advise(std::span<const std::byte> part, int advice, bool inner) const noexcept;

  std::filesystem::path path_;
  int file_ = -1;  // stays open, to ask about the file whatever becomes of its name
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::int64_t modified_ = 0;
  std::uint64_t inode_ = 0;
  std::optional<LossyMapping> mapping_;  // nothing for an empty file
};

// While one lives, lost parts of the file read as zeros: whoever makes one calls check_unchanged() before
// anything that was read is believed.
class [[nodiscard]] FileWatch {
 public:
  explicit FileWatch(const MappedFile& file) : file_(&file) {
    if (file_->mapping_) file_->mapping_->watch();
  }
  ~FileWatch() {
    if (file_ != nullptr && file_->mapping_) file_->mapping_->unwatch();
  }
  FileWatch(FileWatch&& other) noexcept : file_(std::exchange(other.file_, nullptr)) {}
  FileWatch& operator=(FileWatch&&) = delete;

 private:
  const MappedFile* file_;
};

}  // namespace quantfit

// Files that appear under their name complete or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/error.h"

namespace quantfit {

// True when both paths exist and are the same file, through links too.
[[nodiscard]] bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// A file being written in the folder of its final place. Without commit() it vanishes with the object; where
// the file system knows files without a name, it vanishes even when the process is killed. Not thread-safe.
class AtomicFile {
 public:
  // Creates a file that has no name, or one that nobody else can guess. When `expected_bytes` exceed the free
  // space: NoSpace with both numbers.
  [[nodiscard]] static Result<AtomicFile> create(const std::filesystem::path& path,
                                                 std::uint64_t expected_bytes = 0);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  // Io or NoSpace. After a failure nothing can be written or committed any more.
  [[nodiscard]] Result<void> write(std::span<const std::byte> bytes);
  // Flushes to the disk, gives the file its name (replacing what was there), and flushes the folder.
  [[nodiscard]] Result<void> commit();
  [[nodiscard]] std::uint64_t written() const { return written_; }

 private:
  AtomicFile() = default;
  void discard() noexcept;
  [[nodiscard]] Result<void> give_name();
  [[nodiscard]] Error failure(std::string_view what, int reason);

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty while the file has no name
  int file_ = -1;
  bool failed_ = false;
  std::uint64_t written_ = 0;
  std::uint64_t flushed_ = 0;  // handed to the disk already; the page cache may forget it
};

// A small file in one go: a report, a recipe.
[[nodiscard]] Result<void> write_file_atomically(const std::filesystem::path& path,
                                                 std::span<const std::byte> bytes);
[[nodiscard]] Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text);

// The whole file as text; Io, or Unsupported when it is larger than `max_bytes`.
[[nodiscard]] Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes);

}  // namespace quantfit

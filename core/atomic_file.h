// Files that appear under their name complete or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "core/error.h"

namespace quantfit {

// What becomes of a file that has the wanted name already, or gets it while ours is written.
enum class Existing {
  Keep,     // it stays, whenever it appeared
  Replace,  // it makes place, at once and whole
};

// Looks at the name of a file to be written, before any work is done for it. InvalidArgument when it is no
// file name, is there already (and is to be kept), is not a regular file, or is a link to nothing; Io when
// the folder cannot be used or the name is too long for it. AtomicFile::create does the same.
[[nodiscard]] Result<void> check_target(const std::filesystem::path& path, Existing existing);

// A file being written in the folder of its final place. Without commit() it vanishes with the object; where
// the file system knows files without a name, it vanishes even when the process is killed. Elsewhere a killed
// process leaves a hidden file ".NAME.<32 hexadecimal digits>.quantfit"; the next AtomicFile in that folder
// removes it. (Its writer holds a lock on it while it lives, so that files in use are left alone, on other
// machines too where the file system shares locks.) Not thread-safe.
class AtomicFile {
 public:
  // Creates a file that has no name, or one that nobody else can guess. A link to a file stands for that
  // file. When `expected_bytes` exceed the free space: NoSpace with both numbers.
  [[nodiscard]] static Result<AtomicFile> create(const std::filesystem::path& path,
                                                 std::uint64_t expected_bytes = 0,
                                                 Existing existing = Existing::Replace);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();

  // Io or NoSpace. After a failure nothing can be written or committed any more.
  [[nodiscard]] Result<void> write(std::span<const std::byte> bytes);
  // Replaces bytes that were written before, of a sealed file too, which is flushed again when it is sealed
  // again. Internal when they were not; otherwise as write().
  [[nodiscard]] Result<void> rewrite(std::uint64_t offset, std::span<const std::byte> bytes);
  // Flushes to the disk; nothing can be written afterwards.
  [[nodiscard]] Result<void> seal();
  // Seals, gives the file its name, and flushes the folder. When another file took the name
  // meanwhile and is to be kept, ours is put beside it as NAME.1, or the next free number, and the error
  // says so. An error of the last flush says that the file is in place.
  [[nodiscard]] Result<void> commit();
  [[nodiscard]] std::uint64_t written() const { return written_; }

  // Commits files of one folder that only make sense together and are found through the first of them: it
  // gets its name last, and one that is to be replaced goes before any other changes, so that nobody finds a
  // set that is not whole. When one fails, those that have their names are removed again.
  [[nodiscard]] static Result<void> commit_together(std::span<AtomicFile* const> files);

 private:
  AtomicFile() = default;
  void discard() noexcept;
  [[nodiscard]] int make_temporary_name();
  [[nodiscard]] int give_free_name(const std::filesystem::path& name);
  [[nodiscard]] int replace();
  [[nodiscard]] Error put_beside();
  [[nodiscard]] Result<void> flush_folder();
  [[nodiscard]] Error failure(std::string_view what, int reason);

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty while the file has no name
  Existing existing_ = Existing::Replace;
  int file_ = -1;
  bool failed_ = false;
  bool sealed_ = false;
  bool flushed_to_disk_ = false;  // since the last write
  std::uint64_t written_ = 0;
  std::uint64_t flushed_ = 0;  // handed to the disk already; the page cache may forget it
};

// A small file in one go: a report, a recipe.
[[nodiscard]] Result<void> write_file_atomically(const std::filesystem::path& path,
                                                 std::span<const std::byte> bytes,
                                                 Existing existing = Existing::Replace);
[[nodiscard]] Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text,
                                                 Existing existing = Existing::Replace);

}  // namespace quantfit

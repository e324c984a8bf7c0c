#include "core/port.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

namespace quantfit::port {

int open_unnamed(const char* folder) {
  return ::open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
}

int name_open_file(int file, const char* name) {
  // The other way to say this (AT_EMPTY_PATH) needs a privilege.
  std::array<char, 32> self{};
  std::snprintf(self.data(), self.size(), "/proc/self/fd/%d", file);
  return linkat(AT_FDCWD, self.data(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

int rename_to_free_name(const char* from, const char* to) {
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A second name never replaces anything either.
  if (linkat(AT_FDCWD, from, AT_FDCWD, to, 0) == 0) return unlink(from) == 0 ? 0 : errno;
  if (errno == EEXIST) return EEXIST;
  struct stat there {};
  if (lstat(to, &there) == 0) return EEXIST;
  return ::rename(from, to) == 0 ? 0 : errno;
}

int random_bytes(std::span<std::byte> bytes) {
  return getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()) ? 0 : errno;
}

void begin_writing(int file, std::uint64_t offset, std::uint64_t bytes) {
  sync_file_range(file, static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
}

void finish_writing(int file, std::uint64_t offset, std::uint64_t bytes) {
  const auto begin = static_cast<off_t>(offset);
  const auto length = static_cast<off_t>(bytes);
  sync_file_range(file, begin, length,
                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
  posix_fadvise(file, begin, length, POSIX_FADV_DONTNEED);
}

}  // namespace quantfit::port

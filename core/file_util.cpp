#include "core/file_util.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/byte_size.h"

namespace quantfit {
namespace {

// Written data is pushed to the disk and dropped from the page cache in steps of this size, so that writing a
// large model neither fills memory with dirty pages nor evicts the source that is still to be read.
constexpr std::uint64_t kFlushStep = std::uint64_t{64} << 20;
constexpr int kAttempts = 100;  // at finding a free random name; the first nearly always is

Error io_error(const std::filesystem::path& path, std::string_view what, int reason) {
  const bool full = reason == ENOSPC || reason == EDQUOT || reason == EFBIG;
  return fail(full ? ErrorCode::NoSpace : ErrorCode::Io, "{}: {}: {}", path.string(), what,
              std::strerror(reason));
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

// A hidden name in the same folder that cannot be guessed; empty without a source of randomness.
std::string temporary_name(const std::filesystem::path& path) {
  std::array<std::uint64_t, 2> random{};
  if (getrandom(random.data(), sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) return {};
  // File systems allow 255 bytes.
  const std::string stem = path.filename().string().substr(0, 200);
  return (folder_of(path) / fmt::format(".{}.{:016x}{:016x}", stem, random[0], random[1])).string();
}

// Gives an open file without a name the name `name`; the error number, or 0.
int link_open_file(int file, const std::string& name) {
  // The other way to say this (AT_EMPTY_PATH) needs a privilege.
  std::array<char, 32> self{};
  std::snprintf(self.data(), self.size(), "/proc/self/fd/%d", file);
  return linkat(AT_FDCWD, self.data(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

int open_unnamed(const std::filesystem::path& folder) {
  return ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
}

// Whether files without a name can be made in that folder and named later: some file systems cannot, and
// without /proc it fails too. Found out with a probe, because at the end of a long run it would be too late.
bool can_name_later(const std::filesystem::path& path) {
  const int probe = open_unnamed(folder_of(path));
  if (probe < 0) return false;
  const std::string name = temporary_name(path);
  const bool linked = !name.empty() && link_open_file(probe, name) == 0;
  if (linked) unlink(name.c_str());
  close(probe);
  return linked;
}

}  // namespace

bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  return std::filesystem::equivalent(a, b, error) && !error;
}

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path, std::uint64_t expected_bytes) {
  if (!path.has_filename()) return fail(ErrorCode::InvalidArgument, "'{}' is not a file name", path.string());
  const std::filesystem::path folder = folder_of(path);
  struct stat target {};
  if (stat(path.c_str(), &target) == 0 && !S_ISREG(target.st_mode))
    return fail(ErrorCode::InvalidArgument, "{}: exists and is not a regular file", path.string());
  struct statvfs space {};
  if (statvfs(folder.c_str(), &space) != 0) return io_error(folder, "cannot use the folder", errno);
  const std::uint64_t available = std::uint64_t{space.f_bavail} * space.f_frsize;
  if (expected_bytes > available)
    return fail(ErrorCode::NoSpace, "{}: {} are needed, but only {} of disk space are free", path.string(),
                format_bytes(expected_bytes), format_bytes(available));
  AtomicFile file;
  file.path_ = path;
  if (can_name_later(path)) {
    file.file_ = open_unnamed(folder);
    if (file.file_ >= 0) return file;
  }
  int reason = EEXIST;
  for (int attempt = 0; attempt < kAttempts && reason == EEXIST; ++attempt) {
    const std::string name = temporary_name(path);
    if (name.empty()) return io_error(path, "no random numbers", errno);
    file.file_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (file.file_ >= 0) {
      file.temporary_ = name;
      return file;
    }
    reason = errno;
  }
  return io_error(path, "cannot create a file in its folder", reason);
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      file_(std::exchange(other.file_, -1)),
      failed_(other.failed_),
      written_(other.written_),
      flushed_(other.flushed_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    temporary_ = std::move(other.temporary_);
    file_ = std::exchange(other.file_, -1);
    failed_ = other.failed_;
    written_ = other.written_;
    flushed_ = other.flushed_;
  }
  return *this;
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() noexcept {
  if (file_ < 0) return;
  close(std::exchange(file_, -1));
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

Error AtomicFile::failure(std::string_view what, int reason) {
  failed_ = true;
  return io_error(path_, what, reason);
}

Result<void> AtomicFile::write(std::span<const std::byte> bytes) {
  if (file_ < 0 || failed_) return fail(ErrorCode::Internal, "{}: written after its end", path_.string());
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      return failure("cannot write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    written_ += static_cast<std::uint64_t>(count);
  }
  while (written_ - flushed_ >= 2 * kFlushStep) {
    // Start writing the newest step, wait for the one before and forget its pages. These are hints: a failure
    // of the disk is reported by fsync.
    const auto step = static_cast<off_t>(kFlushStep);
    const auto begin = static_cast<off_t>(flushed_);
    sync_file_range(file_, begin + step, step, SYNC_FILE_RANGE_WRITE);
    sync_file_range(file_, begin, step,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    posix_fadvise(file_, begin, step, POSIX_FADV_DONTNEED);
    flushed_ += kFlushStep;
  }
  return outcome::success();
}

// A link never replaces a file, so the file gets a name of its own first; renaming then replaces atomically.
Result<void> AtomicFile::give_name() {
  int reason = EEXIST;
  for (int attempt = 0; attempt < kAttempts && reason == EEXIST; ++attempt) {
    std::string name = temporary_name(path_);
    if (name.empty()) return failure("no random numbers", errno);
    reason = link_open_file(file_, name);
    if (reason == 0) {
      temporary_ = std::move(name);
      return outcome::success();
    }
  }
  return failure("cannot name the finished file", reason);
}

Result<void> AtomicFile::commit() {
  if (file_ < 0 || failed_) return fail(ErrorCode::Internal, "{}: committed after its end", path_.string());
  if (fsync(file_) != 0) return failure("cannot flush to the disk", errno);
  if (temporary_.empty()) QF_TRY(give_name());
  const int file = std::exchange(file_, -1);
  if (close(file) != 0 && errno != EINTR) {
    const int reason = errno;
    unlink(temporary_.c_str());
    return failure("cannot close", reason);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    unlink(temporary_.c_str());
    return failure("cannot rename the finished file", reason);
  }
  const int folder = ::open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return outcome::success();  // a folder that cannot be read cannot be flushed
  const int reason = fsync(folder) != 0 ? errno : 0;
  close(folder);
  if (reason != 0 && reason != EINVAL) return failure("cannot flush its folder to the disk", reason);
  return outcome::success();
}

Result<void> write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  QF_ASSIGN(AtomicFile file, AtomicFile::create(path, bytes.size()));
  QF_TRY(file.write(bytes));
  return file.commit();
}

Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  return write_file_atomically(path, std::as_bytes(std::span(text)));
}

Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return io_error(path, "cannot open", errno);
  std::string text;
  std::array<char, 1 << 14> buffer{};
  while (true) {
    const ssize_t count = ::read(file, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int reason = errno;
      close(file);
      return io_error(path, "cannot read", reason);
    }
    if (count == 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(count));
    if (text.size() > max_bytes) {
      close(file);
      return fail(ErrorCode::Unsupported, "{}: larger than {}", path.string(), format_bytes(max_bytes));
    }
  }
  close(file);
  return text;
}

}  // namespace quantfit

#include "core/atomic_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

#include "core/byte_size.h"
#include "core/file_util.h"
#include "core/port.h"
#include "core/text.h"

namespace quantfit {
namespace {

// Written data is pushed to the disk and dropped from the page cache in steps of this size, so that writing a
// large model neither fills memory with dirty pages nor evicts the source that is still to be read.
constexpr std::uint64_t kFlushStep = std::uint64_t{64} << 20;
constexpr int kAttempts = 100;           // at finding a free name; the first nearly always is
constexpr long kUsualLongestName = 255;  // where a file system does not say

constexpr std::string_view kTemporaryEnding = ".quantfit";
constexpr std::size_t kTemporaryDigits = 32;
// A dot before the name and one behind it, the digits and the ending.
constexpr std::size_t kTemporaryExtra = 2 + kTemporaryDigits + kTemporaryEnding.size();

std::size_t longest_name(const std::filesystem::path& folder) {
  const long known = pathconf(folder.c_str(), _PC_NAME_MAX);
  return static_cast<std::size_t>(known > 0 ? known : kUsualLongestName);
}

bool is_temporary_name(std::string_view name) {
  if (name.size() <= kTemporaryExtra || name.front() != '.' || !name.ends_with(kTemporaryEnding))
    return false;
  name.remove_suffix(kTemporaryEnding.size());
  const std::string_view digits = name.substr(name.size() - kTemporaryDigits);
  return name[name.size() - kTemporaryDigits - 1] == '.' &&
         digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// A hidden name in the same folder that cannot be guessed; empty without a source of randomness.
std::string temporary_name(const std::filesystem::path& path) {
  std::array<std::uint64_t, 2> random{};
  if (port::random_bytes(std::as_writable_bytes(std::span(random))) != 0) return {};
  const std::filesystem::path folder = folder_of(path);
  const std::size_t longest = longest_name(folder);
  const std::string name = path.filename().string();
  const std::string_view stem = cut_utf8(name, longest > kTemporaryExtra + 1 ? longest - kTemporaryExtra : 1);
  return (folder / fmt::format(".{}.{:016x}{:016x}{}", stem.empty() ? "_" : stem, random[0], random[1],
                               kTemporaryEnding))
      .string();
}

// True unless somebody else holds the lock; a file system without locks counts as held by us.
bool lock(int file) {
  return flock(file, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

// Removes what killed processes of this user left in the folder: files of our kind that nobody has locked.
void remove_leftovers(const std::filesystem::path& folder) {
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return;
  const int at = dirfd(entries);
  while (const dirent* entry = readdir(entries)) {
    if (!is_temporary_name(entry->d_name)) continue;
    // Open for writing: network file systems lock no other.
    const int file = openat(at, entry->d_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) continue;
    struct stat info {};
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
        flock(file, LOCK_EX | LOCK_NB) == 0)
      unlinkat(at, entry->d_name, 0);
    close(file);
  }
  closedir(entries);
}

// Whether files without a name can be made in that folder and named later: some file systems cannot, and
// without /proc it fails too. Found out with a probe, because at the end of a long run it would be too late.
bool can_name_later(const std::filesystem::path& path) {
  const int probe = port::open_unnamed(folder_of(path).c_str());
  if (probe < 0) return false;
  const std::string name = temporary_name(path);
  const bool linked = !name.empty() && port::name_open_file(probe, name.c_str()) == 0;
  if (linked) unlink(name.c_str());
  close(probe);
  return linked;
}

Error exists_already(const std::filesystem::path& path) {
  return fail(ErrorCode::InvalidArgument, "{}: exists already", path.string());
}

}  // namespace

Result<void> check_target(const std::filesystem::path& path, Existing existing) {
  if (!path.has_filename() || path.filename() == "." || path.filename() == "..")
    return fail(ErrorCode::InvalidArgument, "'{}' is not a file name", path.string());
  const std::filesystem::path folder = folder_of(path);
  struct statvfs space {};
  if (statvfs(folder.c_str(), &space) != 0) return io_error(folder, "cannot use the folder", errno);
  const std::size_t longest = longest_name(folder);
  if (path.filename().native().size() > longest)
    return fail(ErrorCode::Io, "{}: the name has {} bytes, its folder takes {}", path.string(),
                path.filename().native().size(), longest);
  struct stat named {};
  if (lstat(path.c_str(), &named) != 0) return outcome::success();
  struct stat target {};
  const bool leads_somewhere = stat(path.c_str(), &target) == 0;
  if (S_ISLNK(named.st_mode) && !leads_somewhere)
    return fail(ErrorCode::InvalidArgument, "{}: is a link to a file that does not exist", path.string());
  if (leads_somewhere && !S_ISREG(target.st_mode))
    return fail(ErrorCode::InvalidArgument, "{}: exists and is not a regular file", path.string());
  if (existing == Existing::Keep) return exists_already(path);
  return outcome::success();
}

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path, std::uint64_t expected_bytes,
                                      Existing existing) {
  QF_TRY(check_target(path, existing));
  AtomicFile file;
  std::error_code trouble;
  const bool is_link = std::filesystem::is_symlink(std::filesystem::symlink_status(path, trouble));
  file.path_ = is_link ? std::filesystem::canonical(path, trouble) : path;
  if (trouble && is_link) return io_error(path, "cannot follow the link", trouble.value());
  file.existing_ = existing;
  const std::filesystem::path folder = folder_of(file.path_);
  remove_leftovers(folder);
  struct statvfs space {};
  if (statvfs(folder.c_str(), &space) != 0) return io_error(folder, "cannot use the folder", errno);
  const std::uint64_t available = std::uint64_t{space.f_bavail} * space.f_frsize;
  if (expected_bytes > available)
    return fail(ErrorCode::NoSpace, "{}: {} are needed, but only {} of disk space are free", path.string(),
                format_bytes(expected_bytes), format_bytes(available));
  if (can_name_later(file.path_)) {
    file.file_ = port::open_unnamed(folder.c_str());
    if (file.file_ >= 0) {
      (void)lock(file.file_);  // it may get a hidden name for a moment at the end
      return file;
    }
  }
  if (const int reason = file.make_temporary_name(); reason != 0)
    return io_error(path, "cannot create a file in its folder", reason);
  return file;
}

// Opens a file with a hidden name; 0 or an error number.
int AtomicFile::make_temporary_name() {
  int reason = EEXIST;
  for (int attempt = 0; attempt < kAttempts && reason == EEXIST; ++attempt) {
    std::string name = temporary_name(path_);
    if (name.empty()) return errno;
    const int file = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (file < 0) {
      reason = errno;
      continue;
    }
    // Before the lock another program may have taken the file for one that was left behind.
    struct stat info {};
    if (lock(file) && fstat(file, &info) == 0 && info.st_nlink != 0) {
      file_ = file;
      temporary_ = std::move(name);
      return 0;
    }
    unlink(name.c_str());
    close(file);
  }
  return reason;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      existing_(other.existing_),
      file_(std::exchange(other.file_, -1)),
      failed_(other.failed_),
      sealed_(other.sealed_),
      flushed_to_disk_(other.flushed_to_disk_),
      written_(other.written_),
      flushed_(other.flushed_) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    temporary_ = std::move(other.temporary_);
    existing_ = other.existing_;
    file_ = std::exchange(other.file_, -1);
    failed_ = other.failed_;
    sealed_ = other.sealed_;
    flushed_to_disk_ = other.flushed_to_disk_;
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
  if (!temporary_.empty()) unlink(temporary_.c_str());
  close(std::exchange(file_, -1));
}

Error AtomicFile::failure(std::string_view what, int reason) {
  failed_ = true;
  return io_error(path_, what, reason);
}

Result<void> AtomicFile::write(std::span<const std::byte> bytes) {
  if (file_ < 0 || failed_ || sealed_)
    return fail(ErrorCode::Internal, "{}: written after its end", path_.string());
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
    port::begin_writing(file_, flushed_ + kFlushStep, kFlushStep);
    port::finish_writing(file_, flushed_, kFlushStep);
    flushed_ += kFlushStep;
  }
  return outcome::success();
}

Result<void> AtomicFile::rewrite(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (file_ < 0 || failed_ || offset > written_ || bytes.size() > written_ - offset)
    return fail(ErrorCode::Internal, "{}: {} bytes at {} were not written yet", path_.string(), bytes.size(),
                offset);
  flushed_to_disk_ = false;
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      return failure("cannot write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return outcome::success();
}

// Never replaces anything; 0 or an error number.
int AtomicFile::give_free_name(const std::filesystem::path& name) {
  const int reason = temporary_.empty() ? port::name_open_file(file_, name.c_str())
                                        : port::rename_to_free_name(temporary_.c_str(), name.c_str());
  if (reason == 0) temporary_.clear();
  return reason;
}

// A link never replaces a file, so the file gets a hidden name first; renaming then replaces at once.
int AtomicFile::replace() {
  int reason = EEXIST;
  for (int attempt = 0; temporary_.empty() && attempt < kAttempts; ++attempt) {
    std::string name = temporary_name(path_);
    if (name.empty()) return errno;
    reason = port::name_open_file(file_, name.c_str());
    if (reason == 0) temporary_ = std::move(name);
    if (reason != 0 && reason != EEXIST) return reason;
  }
  if (temporary_.empty()) return reason;
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return errno;
  temporary_.clear();
  return 0;
}

// Hours of work are not thrown away because somebody took the name.
Error AtomicFile::put_beside() {
  for (int number = 1; number <= kAttempts; ++number) {
    std::filesystem::path beside = path_;
    beside += fmt::format(".{}", number);
    const int reason = give_free_name(beside);
    if (reason == EEXIST) continue;
    if (reason != 0) break;
    close(std::exchange(file_, -1));
    return fail(ErrorCode::Io,
                "{}: appeared while it was being written and was not replaced; the finished file is {}",
                path_.string(), beside.string());
  }
  failed_ = true;
  return fail(ErrorCode::Io, "{}: appeared while it was being written and was not replaced", path_.string());
}

Result<void> AtomicFile::seal() {
  if (file_ < 0 || failed_) return fail(ErrorCode::Internal, "{}: committed after its end", path_.string());
  sealed_ = true;
  if (!flushed_to_disk_ && fsync(file_) != 0) return failure("cannot flush to the disk", errno);
  flushed_to_disk_ = true;
  return outcome::success();
}

Result<void> AtomicFile::commit() {
  QF_TRY(seal());
  int reason = give_free_name(path_);
  if (reason == EEXIST && existing_ == Existing::Keep) return put_beside();
  if (reason == EEXIST) reason = replace();
  if (reason != 0) return failure("cannot give the finished file its name", reason);
  close(std::exchange(file_, -1));  // its data are on the disk: nothing can be lost here
  return flush_folder();
}

namespace {

// Zero, or why the folder of this file could not be flushed.
int flush_folder_of(const std::filesystem::path& path) {
  const int folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return 0;  // a folder that cannot be read cannot be flushed
  const int reason = fsync(folder) != 0 ? errno : 0;
  close(folder);
  return reason == EINVAL ? 0 : reason;
}

}  // namespace

Result<void> AtomicFile::flush_folder() {
  if (const int reason = flush_folder_of(path_); reason != 0)
    return failure(
        "complete and in its place, but its folder could not be flushed to the disk, so that a "
        "power failure now may still undo that",
        reason);
  return outcome::success();
}

Result<void> AtomicFile::commit_together(std::span<AtomicFile* const> files) {
  for (AtomicFile* file : files) QF_TRY(file->seal());
  if (!files.empty() && files[0]->existing_ == Existing::Replace) unlink(files[0]->path_.c_str());
  std::size_t named = files.size();  // those from here on have their names
  const auto take_back = [&] {
    for (std::size_t i = named; i < files.size(); ++i) unlink(files[i]->path_.c_str());
  };
  while (named > 0) {
    AtomicFile& file = *files[named - 1];
    int reason = file.give_free_name(file.path_);
    if (reason == EEXIST && file.existing_ == Existing::Replace) reason = file.replace();
    if (reason != 0) {
      take_back();
      if (reason == EEXIST)
        return fail(ErrorCode::Io,
                    "{}: appeared while it was being written and was not replaced; no file was left",
                    file.path_.string());
      return file.failure("cannot give the finished file its name", reason);
    }
    close(std::exchange(file.file_, -1));
    --named;
    // The others are on the disk before the one through which they are found.
    if (named == 1) {
      if (reason = flush_folder_of(file.path_); reason != 0) {
        take_back();
        return file.failure("cannot flush the folder to the disk; no file was left", reason);
      }
    }
    if (named == 0) return file.flush_folder();
  }
  return outcome::success();
}

Result<void> write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes,
                                   Existing existing) {
  QF_ASSIGN(AtomicFile file, AtomicFile::create(path, bytes.size(), existing));
  QF_TRY(file.write(bytes));
  return file.commit();
}

Result<void> write_file_atomically(const std::filesystem::path& path, std::string_view text,
                                   Existing existing) {
  return write_file_atomically(path, std::as_bytes(std::span(text)), existing);
}

}  // namespace quantfit

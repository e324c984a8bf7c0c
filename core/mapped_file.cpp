#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/file_util.h"

namespace quantfit {
namespace {

std::int64_t modified_time(const struct stat& info) {
  constexpr std::int64_t kNanoseconds = 1'000'000'000;
  return std::int64_t{info.st_mtim.tv_sec} * kNanoseconds + info.st_mtim.tv_nsec;
}

}  // namespace

Result<std::unique_ptr<MappedFile>> MappedFile::open(const std::filesystem::path& path) {
  std::unique_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  mapped->file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block
  if (mapped->file_ < 0) return io_error(path, "cannot open", errno);
  struct stat info {};
  if (fstat(mapped->file_, &info) != 0) return io_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) return fail(ErrorCode::Io, "{}: not a regular file", path.string());
  mapped->modified_ = modified_time(info);
  mapped->inode_ = info.st_ino;
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return mapped;
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, mapped->file_, 0);
  if (data == MAP_FAILED) return io_error(path, fmt::format("cannot map {} bytes", size), errno);
  mapped->data_ = static_cast<const std::byte*>(data);
  mapped->size_ = size;
  mapped->mapping_.emplace(mapped->bytes(), path);
  return mapped;
}

MappedFile::~MappedFile() {
  mapping_.reset();
  if (size_ != 0) munmap(const_cast<std::byte*>(data_), size_);
  if (file_ >= 0) close(file_);
}

Result<void> MappedFile::check_unchanged() const {
  struct stat info {};
  if (fstat(file_, &info) != 0) return io_error(path_, "cannot stat", errno);
  if (const auto size = static_cast<std::size_t>(info.st_size); size != size_)
    return fail(
        ErrorCode::Io,
        "{}: another program changed its size from {} to {} bytes while it was being read; start again "
        "when nothing writes to it",
        path_.string(), size_, size);
  if (mapping_ && mapping_->lost())
    return fail(ErrorCode::Io,
                "{}: a part of it could not be read: its disk fails, or it was cut short for a while",
                path_.string());
  if (modified_time(info) != modified_)
    return fail(
        ErrorCode::Io,
        "{}: another program modified it while it was being read; start again when nothing writes to it",
        path_.string());
  return outcome::success();
}

void MappedFile::advise(std::span<const std::byte> part, int advice, bool inner) const noexcept {
  if (!contains(part)) return;
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  auto begin = reinterpret_cast<std::uintptr_t>(part.data());
  auto end = begin + part.size();
  // Pages that are only partly covered may still be wanted by others.
  begin = inner ? (begin + page - 1) / page * page : begin / page * page;
  if (inner) end = end / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

void MappedFile::will_need(std::span<const std::byte> part) const noexcept {
  advise(part, MADV_WILLNEED, false);
}
void MappedFile::done_with(std::span<const std::byte> part) const noexcept {
  advise(part, MADV_DONTNEED, true);
}

void MappedFile::expect_random_access(bool random) const noexcept {
  advise(bytes(), random ? MADV_RANDOM : MADV_NORMAL, false);
}

}  // namespace quantfit

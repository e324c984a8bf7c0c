#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace quantfit {

Result<std::unique_ptr<MappedFile>> MappedFile::open(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block
  if (file < 0) return fail(ErrorCode::Io, "{}: cannot open: {}", path.string(), std::strerror(errno));
  struct stat info {};
  if (fstat(file, &info) != 0) {
    const int reason = errno;
    close(file);
    return fail(ErrorCode::Io, "{}: cannot stat: {}", path.string(), std::strerror(reason));
  }
  if (!S_ISREG(info.st_mode)) {
    close(file);
    return fail(ErrorCode::Io, "{}: not a regular file", path.string());
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  const std::byte* data = nullptr;
  if (size != 0) {
    void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) {
      const int reason = errno;
      close(file);
      return fail(ErrorCode::Io, "{}: cannot map {} bytes: {}", path.string(), size, std::strerror(reason));
    }
    data = static_cast<const std::byte*>(mapped);
    // A file that another process cut short meanwhile would end in a bus error at the first read.
    if (fstat(file, &info) != 0 || static_cast<std::size_t>(info.st_size) != size) {
      munmap(mapped, size);
      close(file);
      return fail(ErrorCode::Io, "{}: its size changed while it was opened", path.string());
    }
  }
  close(file);  // the mapping keeps the file
  return std::unique_ptr<MappedFile>(new MappedFile(data, size));
}

MappedFile::~MappedFile() {
  if (size_ != 0) munmap(const_cast<std::byte*>(data_), size_);
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

#include "core/file_util.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "core/byte_size.h"

namespace quantfit {

Error io_error(const std::filesystem::path& path, std::string_view what, int reason) {
  const bool full = reason == ENOSPC || reason == EDQUOT || reason == EFBIG;
  return fail(full ? ErrorCode::NoSpace : ErrorCode::Io, "{}: {}: {}", path.string(), what,
              std::strerror(reason));
}

bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  return std::filesystem::equivalent(a, b, error) && !error;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
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

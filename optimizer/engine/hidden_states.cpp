#include "optimizer/engine/hidden_states.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>

namespace quantfit::engine {
namespace {

Error io_error(const char* what) {
  const int code = errno;
  return fail(code == ENOSPC ? ErrorCode::NoSpace : ErrorCode::Io,
              "cannot {} the scratch file of hidden states: {}", what, std::strerror(code));
}

}  // namespace

HiddenStates::HiddenStates() = default;

HiddenStates::HiddenStates(HiddenStates&& other) noexcept
    : rows_(other.rows_),
      width_(other.width_),
      memory_(std::move(other.memory_)),
      file_(std::exchange(other.file_, -1)) {}

HiddenStates& HiddenStates::operator=(HiddenStates&& other) noexcept {
  if (this != &other) {
    if (file_ >= 0) close(file_);
    rows_ = other.rows_;
    width_ = other.width_;
    memory_ = std::move(other.memory_);
    file_ = std::exchange(other.file_, -1);
  }
  return *this;
}

HiddenStates::~HiddenStates() {
  if (file_ >= 0) close(file_);
}

Result<HiddenStates> HiddenStates::in_memory(std::size_t rows, std::size_t width) {
  HiddenStates out;
  out.rows_ = rows;
  out.width_ = width;
  try {
    out.memory_.resize(rows * width);
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::NoSpace, "no memory for the hidden states of {} tokens", rows);
  }
  return out;
}

Result<HiddenStates> HiddenStates::in_file(const std::filesystem::path& folder, std::size_t rows,
                                           std::size_t width) {
  HiddenStates out;
  out.rows_ = rows;
  out.width_ = width;
  std::string name = (folder / "quantfit-states-XXXXXX").string();
  out.file_ = mkstemp(name.data());
  if (out.file_ < 0) return io_error("create");
  unlink(name.c_str());
  const int status = posix_fallocate(out.file_, 0, static_cast<off_t>(rows * width * sizeof(float)));
  if (status != 0) {
    errno = status;
    return io_error("reserve space for");
  }
  return out;
}

Result<kernels::MatrixView<const float>> HiddenStates::read(std::size_t first, std::size_t rows,
                                                            std::vector<float>& buffer) const {
  if (resident())
    return kernels::MatrixView<const float>{memory_.data() + first * width_, rows, width_, width_};
  buffer.resize(rows * width_);
  auto* to = reinterpret_cast<char*>(buffer.data());
  std::size_t left = rows * width_ * sizeof(float);
  auto at = static_cast<off_t>(first * width_ * sizeof(float));
  while (left != 0) {
    const ssize_t got = pread(file_, to, left, at);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = EIO;
    if (got <= 0) return io_error("read");
    to += got, at += got, left -= static_cast<std::size_t>(got);
  }
  return kernels::MatrixView<const float>{buffer.data(), rows, width_, width_};
}

Result<kernels::MatrixView<float>> HiddenStates::read_mutable(std::size_t first, std::size_t rows,
                                                              std::vector<float>& buffer) {
  if (resident()) return kernels::MatrixView<float>{memory_.data() + first * width_, rows, width_, width_};
  QF_TRY(read(first, rows, buffer));
  return kernels::MatrixView<float>{buffer.data(), rows, width_, width_};
}

Result<void> HiddenStates::write(std::size_t first, kernels::MatrixView<const float> rows) {
  if (resident()) return outcome::success();
  for (std::size_t row = 0; row < rows.rows;) {
    // Rows that lie together are written together.
    const std::size_t together = rows.stride == width_ ? rows.rows : 1;
    const auto* from = reinterpret_cast<const char*>(rows.row(row));
    std::size_t left = together * width_ * sizeof(float);
    auto at = static_cast<off_t>((first + row) * width_ * sizeof(float));
    while (left != 0) {
      const ssize_t put = pwrite(file_, from, left, at);
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return io_error("write");
      from += put, at += put, left -= static_cast<std::size_t>(put);
    }
    row += together;
  }
  return outcome::success();
}

}  // namespace quantfit::engine

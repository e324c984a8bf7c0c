#include "cli/streams.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "cli/console.h"
#include "core/text.h"

namespace quantfit::cli {

int write_all(int descriptor, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // another program made the pipe non-blocking
      pollfd waiting{descriptor, POLLOUT, 0};
      if (poll(&waiting, 1, -1) < 0 && errno != EINTR) return errno;
      continue;
    }
    if (written < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

void secure_standard_streams() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor)
    if (fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) {
      // Read-only for standard output too: what is written to it is then lost, and said to be.
      const int opened = open("/dev/null", descriptor == STDERR_FILENO ? O_WRONLY : O_RDONLY);
      if (opened >= 0 && opened != descriptor) {
        dup2(opened, descriptor);
        close(opened);
      }
    }
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error like a full disk
}

void say(std::string_view text) noexcept {
  [[maybe_unused]] const int lost = write_all(STDERR_FILENO, text);
}

Result<void> print(std::string_view text) {
  const int reason = write_all(STDOUT_FILENO, text);
  if (reason == 0) return outcome::success();
  return fail(reason == ENOSPC ? ErrorCode::NoSpace : ErrorCode::Io,
              "standard output: {}; the answer could not be printed", std::strerror(reason));
}

void say_error(std::string_view message) {
  const bool color = ConsoleStyle::detect().color;
  say(fmt::format("{}error:{} {}\n", color ? "\x1b[31m" : "", color ? "\x1b[0m" : "", escaped(message)));
}

std::size_t columns_of_terminal(int descriptor, std::size_t otherwise) {
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* text = std::getenv("COLUMNS");
  std::size_t columns = 0;
  if (text != nullptr && std::from_chars(text, text + std::strlen(text), columns).ec == std::errc() &&
      columns > 0)
    return columns;
  return otherwise;
}

}  // namespace quantfit::cli

// A library to preload: one call of one function on files below a folder fails, or ends the process.
//
//   FAIL_CALL=FUNCTION:NUMBER:ERRNO   the NUMBER-th call, counted from 1, fails with that error number; 0:
//   none FAIL_CALL=FUNCTION:NUMBER:kill    the process is killed there FAIL_FOLDER=/absolute/folder calls on
//   other files neither count nor fail FAIL_COUNT=FILE                   how many calls there were, written
//   when the process ends
//
// FUNCTION: write, fsync, rename, ftruncate, read; each stands for all functions of its kind.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

struct Plan {
  std::string function, folder, count;
  long number = 0;
  int error = 0;  // 0: kill
};

const Plan& plan() {
  // Never destroyed: calls may come until the very end.
  static const Plan& made = *new Plan([] {
    Plan read;
    const auto value = [](const char* name) {
      const char* text = std::getenv(name);
      return std::string(text != nullptr ? text : "");
    };
    const std::string text = value("FAIL_CALL");
    read.folder = value("FAIL_FOLDER");
    read.count = value("FAIL_COUNT");
    const std::size_t first = text.find(':');
    const std::size_t second = text.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) return read;
    read.function = text.substr(0, first);
    read.number = std::atol(text.c_str() + first + 1);
    read.error = std::atoi(text.c_str() + second + 1);
    return read;
  }());
  return made;
}

std::atomic<long> calls{0};

bool is_below(std::string_view path) {
  return path.starts_with(plan().folder);
}

bool is_below(int file) {
  char self[64];
  char path[PATH_MAX];
  std::snprintf(self, sizeof(self), "/proc/self/fd/%d", file);
  const ssize_t length = readlink(self, path, sizeof(path));
  return length > 0 && is_below(std::string_view(path, static_cast<std::size_t>(length)));
}

// Whether this call is the one; errno is then set.
template <class Where>
bool fails(std::string_view function, Where where) {
  if (plan().function != function || !is_below(where)) return false;
  if (++calls != plan().number) return false;
  if (plan().error == 0) raise(SIGKILL);
  errno = plan().error;
  return true;
}

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

__attribute__((destructor)) void write_count() {
  if (plan().count.empty()) return;
  if (std::FILE* file = std::fopen(plan().count.c_str(), "w")) {
    std::fprintf(file, "%ld\n", calls.load());
    std::fclose(file);
  }
}

}  // namespace

#define ON_FILE(kind, result, name, parameters, arguments)    \
  extern "C" result name parameters {                         \
    static auto* const real = next<result parameters>(#name); \
    if (fails(kind, file)) return static_cast<result>(-1);    \
    return real arguments;                                    \
  }
#define ON_NAME(result, name, parameters, arguments)              \
  extern "C" result name parameters {                             \
    static auto* const real = next<result parameters>(#name);     \
    if (fails("rename", std::string_view(to))) return result(-1); \
    return real arguments;                                        \
  }

ON_FILE("write", ssize_t, write, (int file, const void* bytes, size_t count), (file, bytes, count))
ON_FILE("write", ssize_t, writev, (int file, const iovec* parts, int count), (file, parts, count))
ON_FILE("write", ssize_t, pwrite, (int file, const void* bytes, size_t count, off_t at),
        (file, bytes, count, at))
ON_FILE("write", ssize_t, pwrite64, (int file, const void* bytes, size_t count, off64_t at),
        (file, bytes, count, at))
ON_FILE("read", ssize_t, read, (int file, void* bytes, size_t count), (file, bytes, count))
ON_FILE("read", ssize_t, pread, (int file, void* bytes, size_t count, off_t at), (file, bytes, count, at))
ON_FILE("read", ssize_t, pread64, (int file, void* bytes, size_t count, off64_t at), (file, bytes, count, at))
ON_FILE("fsync", int, fsync, (int file), (file))
ON_FILE("fsync", int, fdatasync, (int file), (file))
ON_FILE("ftruncate", int, ftruncate, (int file, off_t length), (file, length))
ON_FILE("ftruncate", int, ftruncate64, (int file, off64_t length), (file, length))
ON_NAME(int, rename, (const char* from, const char* to), (from, to))
ON_NAME(int, renameat2, (int a, const char* from, int b, const char* to, unsigned flags),
        (a, from, b, to, flags))
ON_NAME(int, linkat, (int a, const char* from, int b, const char* to, int flags), (a, from, b, to, flags))

#include "cli/service/roots.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/file_util.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestName = 4096;
constexpr std::string_view kReadOnly = ":ro";
constexpr int kDeepestRemoval = 8;

// One part after the other, links refused: for kernels and containers without openat2.
int open_step_by_step(int folder, std::string_view path, int flags) {
  Descriptor here(fcntl(folder, F_DUPFD_CLOEXEC, 0));
  while (here.is_open() && !path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string part(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (part.empty() || part == "." || part == "..") {
      errno = EXDEV;
      return -1;
    }
    const int own = path.empty() ? flags : O_PATH | O_DIRECTORY;
    here = Descriptor(openat(here.number(), part.c_str(), own | O_NOFOLLOW | O_CLOEXEC));
  }
  return here.release();
}

int open_beneath(int folder, std::string_view path, int flags) {
  const std::string text = path.empty() ? "." : std::string(path);
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  // EAGAIN: a folder was renamed meanwhile, and the kernel cannot tell whether the path stayed inside.
  for (int attempt = 0; attempt < 8; ++attempt) {
    const long opened = syscall(SYS_openat2, folder, text.c_str(), &how, sizeof(how));
    if (opened >= 0) return static_cast<int>(opened);
    if (errno == ENOSYS || errno == EPERM) return open_step_by_step(folder, path, flags);
    if (errno != EAGAIN && errno != EINTR) return -1;
  }
  return -1;
}

bool is_root_letter(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
         (letter >= '0' && letter <= '9') || letter == '.' || letter == '-' || letter == '_';
}

// Removes what is in a folder; links themselves, and nothing behind them.
void remove_below(int parent, const char* name, int depth) {
  const int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return;
  DIR* const list = fdopendir(folder);
  if (list == nullptr) {
    close(folder);
    return;
  }
  while (const dirent* entry = readdir(list)) {
    const std::string_view one = entry->d_name;
    if (one == "." || one == ".." || unlinkat(folder, entry->d_name, 0) == 0 || depth == 0) continue;
    remove_below(folder, entry->d_name, depth - 1);
    unlinkat(folder, entry->d_name, AT_REMOVEDIR);
  }
  closedir(list);
}

Problem not_found(const FileName& name) {
  return problem(ProblemKind::NotFound, fmt::format("{}: there is no such file", name.text));
}

Problem refused(std::string_view what, int reason) {
  const Error error = io_error(std::string(what), "the system refused", reason);
  return problem_of(error);
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (number_ >= 0) close(number_);
    number_ = std::exchange(other.number_, -1);
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

bool is_plain_name(std::string_view name) {
  const auto is_control = [](char letter) {
    return static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F;
  };
  return !name.empty() && name.size() <= 255 && name.front() != '.' && is_utf8(name) &&
         std::ranges::none_of(name, is_control) && name.find('/') == std::string_view::npos;
}

Result<Roots> Roots::open(const std::vector<std::string>& given) {
  Roots roots;
  for (const std::string& text : given) {
    Root root;
    std::string folder = text;
    if (folder.ends_with(kReadOnly)) {
      folder.resize(folder.size() - kReadOnly.size());
      root.writable = false;
    }
    const std::size_t equals = folder.find('=');
    if (equals != std::string::npos && std::ranges::all_of(folder.substr(0, equals), is_root_letter)) {
      root.name = folder.substr(0, equals);
      folder.erase(0, equals + 1);
    }
    std::error_code trouble;
    root.path = fs::canonical(folder, trouble);
    if (trouble) return fail(ErrorCode::Io, "--root {}: {}", folder, trouble.message());
    if (root.name.empty()) root.name = root.path.filename().string();
    if (!is_plain_name(root.name) || !std::ranges::all_of(root.name, is_root_letter) ||
        root.name.front() == '-')
      return fail(ErrorCode::InvalidArgument,
                  "--root {}: {} cannot be the name of a root, which has letters, digits, '.', '-' and '_'; "
                  "give one: "
                  "--root NAME={}",
                  text, printable(root.name), folder);
    if (std::ranges::any_of(roots.roots_, [&](const Root& other) { return other.name == root.name; }))
      return fail(ErrorCode::InvalidArgument,
                  "--root {}: there is a root of the name {} already; give another: --root NAME={}", text,
                  root.name, folder);
    root.folder = Descriptor(::open(root.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root.folder.is_open()) return io_error(root.path, "--root", errno);
    if (root.writable && access(root.path.c_str(), W_OK | X_OK) != 0)
      return fail(ErrorCode::Io, "--root {}: the folder is not writable; say so by --root {}{}", text, text,
                  kReadOnly);
    roots.roots_.push_back(std::move(root));
  }
  return roots;
}

const Root* Roots::writable() const {
  const auto found = std::ranges::find(roots_, true, &Root::writable);
  return found == roots_.end() ? nullptr : &*found;
}

Answer<FileName> Roots::parse(std::string_view name) const {
  const auto bad = [&] {
    return problem(ProblemKind::InvalidArgument, fmt::format("{} is no name of a file here", printable(name)),
                   "files are named ROOT/PATH, without '..' and without parts that begin with a dot");
  };
  if (name.size() > kLongestName) return bad();
  FileName result;
  result.text = name;
  const std::size_t slash = name.find('/');
  if (slash == std::string_view::npos) return bad();
  std::string_view rest = name.substr(slash + 1);
  result.path = rest;
  while (true) {
    const std::size_t end = std::min(rest.find('/'), rest.size());
    if (!is_plain_name(rest.substr(0, end))) return bad();
    if (end == rest.size()) break;
    rest.remove_prefix(end + 1);
  }
  for (const Root& root : roots_)
    if (root.name == name.substr(0, slash)) result.root = &root;
  if (result.root == nullptr)
    return problem(ProblemKind::NotFound,
                   fmt::format("{}: there is no root of this name", printable(name.substr(0, slash))));
  return result;
}

Answer<Descriptor> Roots::open_file(const FileName& name) const {
  Descriptor file(open_beneath(name.root->folder.number(), name.path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  if (!file.is_open()) return not_found(name);
  struct stat status {};
  if (fstat(file.number(), &status) != 0) return refused(name.text, errno);
  if (!S_ISREG(status.st_mode))
    return problem(ProblemKind::InvalidArgument, fmt::format("{} is no file", name.text));
  return file;
}

Answer<Descriptor> Roots::open_folder(const Root& root, std::string_view path) const {
  Descriptor folder(open_beneath(root.folder.number(), path, O_RDONLY | O_DIRECTORY));
  if (!folder.is_open())
    return problem(ProblemKind::NotFound, fmt::format("{}/{}: there is no such folder", root.name, path));
  return folder;
}

bool Roots::exists(const FileName& name) const {
  const Descriptor file(open_beneath(name.root->folder.number(), name.path, O_PATH));
  return file.is_open();
}

Answer<Descriptor> Roots::make_folder(const Root& root, std::string_view path) const {
  if (!root.writable)
    return problem(ProblemKind::Forbidden, fmt::format("the root {} is for reading only", root.name));
  Descriptor here(open_beneath(root.folder.number(), "", O_RDONLY | O_DIRECTORY));
  for (std::string_view rest = path; here.is_open() && !rest.empty();) {
    const std::size_t slash = std::min(rest.find('/'), rest.size());
    const std::string part(rest.substr(0, slash));
    rest.remove_prefix(std::min(slash + 1, rest.size()));
    if (mkdirat(here.number(), part.c_str(), 0777) != 0 && errno != EEXIST)
      return refused(fmt::format("{}/{}", root.name, path), errno);
    here = Descriptor(open_beneath(here.number(), part, O_RDONLY | O_DIRECTORY));
  }
  if (!here.is_open()) return refused(fmt::format("{}/{}", root.name, path), errno);
  return here;
}

Answer<void> Roots::remove_folder(const Root& root, std::string_view path) const {
  const std::size_t slash = path.rfind('/');
  const std::string last(path.substr(slash == std::string_view::npos ? 0 : slash + 1));
  const auto parent = open_folder(root, slash == std::string_view::npos ? "" : path.substr(0, slash));
  if (!parent) return outcome::success();
  remove_below(parent.value().number(), last.c_str(), kDeepestRemoval);
  if (unlinkat(parent.value().number(), last.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
    return refused(fmt::format("{}/{}", root.name, path), errno);
  return outcome::success();
}

}  // namespace quantfit::service

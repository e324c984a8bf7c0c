// The folders that the service may touch, and how names of clients become files in them. Files are opened
// beneath a handle of their root by the kernel (openat2, RESOLVE_BENEATH): a path, a link or a race that
// leads outside fails in the kernel, and no text is compared with another to find out.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/service/problem.h"
#include "core/error.h"

namespace quantfit::service {

// A descriptor that closes itself.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  [[nodiscard]] int number() const { return number_; }
  [[nodiscard]] bool is_open() const { return number_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(number_, -1); }

 private:
  int number_ = -1;
};

struct Root {
  std::string name;            // first part of the names of its files
  std::filesystem::path path;  // absolute, without links
  bool writable = true;
  Descriptor folder;
};

// What a client calls a file: "ROOT/PATH".
struct FileName {
  std::string text;  // as given
  const Root* root = nullptr;
  std::string path;  // beneath the root, no '/' at the beginning

  [[nodiscard]] std::string last() const { return path.substr(path.rfind('/') + 1); }
};

// Immutable after opening, but for the files below it. Any thread.
class Roots {
 public:
  // Each text is "DIR", "DIR:ro" or "NAME=DIR"; a name is the last part of the folder where none is given.
  // InvalidArgument for names that are used twice or hold other characters than letters, digits, '.', '-' and
  // '_'; Io for what is no folder.
  [[nodiscard]] static Result<Roots> open(const std::vector<std::string>& given);

  [[nodiscard]] const std::vector<Root>& all() const { return roots_; }
  // The first that may be written to; null when there is none.
  [[nodiscard]] const Root* writable() const;

  // InvalidArgument for a name that is no plain path: empty parts, parts that begin with a dot, control
  // characters, bytes that are no UTF-8, too long; NotFound for an unknown root.
  [[nodiscard]] Answer<FileName> parse(std::string_view name) const;

  // NotFound, also where a link leads out of the root; InvalidArgument for what is no regular file.
  [[nodiscard]] Answer<Descriptor> open_file(const FileName& name) const;
  // A folder beneath a root; an empty path is the root itself.
  [[nodiscard]] Answer<Descriptor> open_folder(const Root& root, std::string_view path) const;
  [[nodiscard]] bool exists(const FileName& name) const;
  // Makes a folder, and those above it. Forbidden in a root that is not writable; NoSpace, InputOutput.
  [[nodiscard]] Answer<Descriptor> make_folder(const Root& root, std::string_view path) const;
  // Removes a folder with what is in it, links alone and not what they lead to; what is not there is no
  // error.
  [[nodiscard]] Answer<void> remove_folder(const Root& root, std::string_view path) const;

 private:
  std::vector<Root> roots_;
};

// Whether the name of a file or folder may be shown and used: UTF-8, no control characters, no dot in front.
[[nodiscard]] bool is_plain_name(std::string_view name);

}  // namespace quantfit::service

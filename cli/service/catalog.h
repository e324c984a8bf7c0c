// What lies beneath the roots: files by kind, and what models are.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cli/service/roots.h"

namespace quantfit::service {

// "model", "imatrix", "text", "state", "recipe"; empty for other files. By the name alone.
[[nodiscard]] std::string_view kind_of_file(std::string_view name);

struct FoundFile {
  std::string name;  // ROOT/PATH
  std::string_view kind;
  std::uint64_t bytes = 0;
  std::int64_t modified = 0;  // seconds since 1970
};
struct FoundFiles {
  std::vector<FoundFile> files;  // by name
  bool complete = true;          // false: there are more than are listed, or deeper ones
};
// Walks the roots by handles, links to folders left alone. Bounded in depth and number.
[[nodiscard]] FoundFiles find_files(const Roots& roots, std::string_view kind);

// Any thread.
class Catalog {
 public:
  explicit Catalog(const Roots& roots) : roots_(roots) {}
  [[nodiscard]] nlohmann::ordered_json files(std::string_view kind) const;
  // Headers are read once for as long as size and time of a file stay the same.
  [[nodiscard]] nlohmann::ordered_json models();
  // What `inspect --json` prints.
  [[nodiscard]] Answer<nlohmann::ordered_json> inspect(const std::string& file, bool metadata) const;

 private:
  struct Known {
    std::uint64_t bytes = 0;
    std::int64_t modified = 0;
    nlohmann::ordered_json figures;
  };
  const Roots& roots_;
  std::mutex lock_;
  std::map<std::string, Known> known_;
};

// "2026-01-02T03:04:05Z"
[[nodiscard]] std::string time_text(std::int64_t seconds_since_1970);

}  // namespace quantfit::service

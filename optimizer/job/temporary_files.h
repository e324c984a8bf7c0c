// Model files of a job that nobody asked for.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace quantfit::optimizer {

// Names of files in a folder; what lies there goes with the object.
class TemporaryFiles {
 public:
  // `kind`: a part of the names.
  TemporaryFiles(std::filesystem::path folder, std::string kind)
      : folder_(std::move(folder)), kind_(std::move(kind)) {}
  TemporaryFiles(const TemporaryFiles&) = delete;
  TemporaryFiles& operator=(const TemporaryFiles&) = delete;
  ~TemporaryFiles() {
    std::error_code ignored;
    for (const std::filesystem::path& path : paths_) std::filesystem::remove(path, ignored);
  }
  const std::filesystem::path& add() {
    return paths_.emplace_back(folder_ /
                               fmt::format("quantfit-{}-{}-{}.gguf", ::getpid(), kind_, paths_.size() + 1));
  }
  [[nodiscard]] const std::vector<std::filesystem::path>& paths() const { return paths_; }

 private:
  std::filesystem::path folder_;
  std::string kind_;
  std::vector<std::filesystem::path> paths_;
};

}  // namespace quantfit::optimizer

// Where tests find data and put files.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace quantfit::test {

// tests/data of the source tree.
[[nodiscard]] std::filesystem::path data_dir();

// The folder with the larger conformance data, or nothing where it is absent: skip then, with GTEST_SKIP and
// a sentence that says what was not run. The environment variable QUANTFIT_SHARED_DIR overrides the default.
[[nodiscard]] std::optional<std::filesystem::path> shared_dir();

// A folder that lives as long as the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// The whole file; fails the test when it cannot be read.
[[nodiscard]] std::vector<std::byte> read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::vector<std::byte>& bytes);

// A file that is a raw little-endian array of T.
template <class T>
[[nodiscard]] std::vector<T> read_array(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) __builtin_memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace quantfit::test

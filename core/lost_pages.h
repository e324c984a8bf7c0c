// Mapped files that lose pages: what happens instead of a bus error.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

namespace quantfit {

// One mapping as the handler of bus errors knows it. Reading a page that is gone (the file was cut short by
// another program, its disk fails) ends the program with a sentence that names the file and status 1. While
// somebody watches, the rest of the mapping becomes zeros instead and lost() says so: whoever watches must
// ask before a result leaves. The first mapping of the process installs the handler; bus errors elsewhere go
// to whatever handled them before.
class LossyMapping {
 public:
  // `bytes` are mapped and stay so while the object lives; not empty.
  LossyMapping(std::span<const std::byte> bytes, const std::filesystem::path& path);
  ~LossyMapping();
  LossyMapping(const LossyMapping&) = delete;
  LossyMapping& operator=(const LossyMapping&) = delete;

  // From any thread; one unwatch() for each watch().
  void watch() const noexcept;
  void unwatch() const noexcept;
  [[nodiscard]] bool lost() const noexcept;

  struct Record;

 private:
  Record* record_;
};

}  // namespace quantfit

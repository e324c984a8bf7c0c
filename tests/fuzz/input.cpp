#include "tests/fuzz/input.h"

#include <sys/mman.h>
#include <unistd.h>

namespace quantfit::fuzz {

MemoryFile::MemoryFile(std::span<const std::byte> bytes)
    : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
  expect(descriptor_ >= 0, "memfd_create works");
  std::size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t n = write(descriptor_, bytes.data() + written, bytes.size() - written);
    expect(n > 0, "a file in memory can be written");
    written += static_cast<std::size_t>(n);
  }
}

MemoryFile::~MemoryFile() {
  close(descriptor_);
}

}  // namespace quantfit::fuzz

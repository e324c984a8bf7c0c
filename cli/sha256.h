// SHA-256 (FIPS 180-4), for lists of checksums that other people's tools verify.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "core/error.h"

namespace quantfit::cli {

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  // 64 lower-case hexadecimal digits. Nothing may be added afterwards.
  [[nodiscard]] std::string hex();

 private:
  void block(const std::byte* bytes);

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::size_t pending_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

// Of a file's content; `read` is told how many bytes came in, and stops the reading with false (Interrupted).
// Io.
[[nodiscard]] Result<std::string> sha256_of(const std::filesystem::path& path,
                                            const std::function<bool(std::uint64_t)>& read);

}  // namespace quantfit::cli

// Small questions about files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/error.h"

namespace quantfit {

// What the operating system answered, as an Error: NoSpace when the disk or a quota is full, Io otherwise.
// `reason` is an error number.
[[nodiscard]] Error io_error(const std::filesystem::path& path, std::string_view what, int reason);

// True when both paths exist and are the same file, through links too.
[[nodiscard]] bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);

// The folder that a path is in: "." for a bare name.
[[nodiscard]] std::filesystem::path folder_of(const std::filesystem::path& path);

// The whole file as text; Io, or Unsupported when it is larger than `max_bytes`.
[[nodiscard]] Result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes);

}  // namespace quantfit

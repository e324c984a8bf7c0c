// What a file system says about a file: enough to notice that it is no longer the same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"

namespace quantfit {

struct FileStamp {
  std::string name;  // without folder; for people, as files may be renamed
  std::uint64_t bytes = 0;
  std::int64_t modified = 0;  // nanoseconds since 1970
  std::uint64_t inode = 0;

  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// Of a model's files, in order: those that are open and read, whatever has their names now. Io when one was
// changed since the model was opened.
[[nodiscard]] Result<std::vector<FileStamp>> file_stamps(const Model& model);

// One short text for all but the names: equal for files that nobody wrote to, moved between file systems or
// copied. Empty for no files.
[[nodiscard]] std::string stamp_key(std::span<const FileStamp> files);

}  // namespace quantfit

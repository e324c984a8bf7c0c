#include "core/file_stamp.h"

#include <sys/stat.h>

#include <cerrno>

#include "core/digest.h"
#include "core/file_util.h"

namespace quantfit {

Result<std::vector<FileStamp>> file_stamps(const Model& model) {
  std::vector<FileStamp> stamps;
  for (const GgufShard& shard : model.shards()) {
    struct stat info {};
    if (stat(shard.path.c_str(), &info) != 0) return io_error(shard.path, "cannot stat", errno);
    if (static_cast<std::uint64_t>(info.st_size) != shard.file_bytes)
      return fail(ErrorCode::Io, "{}: another file has its name since it was opened; start again",
                  shard.path.string());
    constexpr std::int64_t kNanoseconds = 1'000'000'000;
    stamps.push_back({shard.path.filename().string(), shard.file_bytes,
                      std::int64_t{info.st_mtim.tv_sec} * kNanoseconds + info.st_mtim.tv_nsec, info.st_ino});
  }
  QF_TRY(model.check_unchanged());
  return stamps;
}

std::string stamp_key(std::span<const FileStamp> files) {
  if (files.empty()) return {};
  Digest digest;
  digest.text("quantfit files 1");
  digest.number(files.size());
  for (const FileStamp& file : files) {
    digest.number(file.bytes);
    digest.number(static_cast<std::uint64_t>(file.modified));
    digest.number(file.inode);
  }
  return digest.hex();
}

}  // namespace quantfit

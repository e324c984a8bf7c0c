#include "core/file_stamp.h"

#include "core/digest.h"

namespace quantfit {

Result<std::vector<FileStamp>> file_stamps(const Model& model) {
  std::vector<FileStamp> stamps;
  for (const GgufShard& shard : model.shards())
    stamps.push_back({shard.path.filename().string(), shard.file_bytes, shard.modified, shard.inode});
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

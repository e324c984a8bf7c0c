#include "cli/output_files.h"

#include <unistd.h>

#include <algorithm>
#include <string_view>

#include "core/file_util.h"
#include "core/model.h"

namespace quantfit::cli {
namespace {

namespace fs = std::filesystem;

// Names where none is known to the file system.
constexpr long kUsualLongestName = 255;

Result<void> check_output(const fs::path& path, const std::vector<GuardedFile>& guarded, bool force) {
  std::error_code error;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!path.has_filename())
    return fail(ErrorCode::InvalidArgument, "{} is a folder; the name of a file is needed", path.string());
  if (!fs::is_directory(folder, error))
    return fail(ErrorCode::Io, "{}: the folder {} does not exist", path.string(), folder.string());
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    return fail(ErrorCode::Io, "{}: the folder {} is not writable", path.string(), folder.string());
  const long known = pathconf(folder.c_str(), _PC_NAME_MAX);
  const auto longest = static_cast<std::size_t>(known > 0 ? known : kUsualLongestName);
  if (path.filename().string().size() > longest)
    return fail(ErrorCode::Io, "{}: the name has {} bytes, its folder takes {}", path.string(),
                path.filename().string().size(), longest);
  if (fs::is_directory(path, error)) return fail(ErrorCode::Io, "{} is a folder", path.string());
  if (fs::is_symlink(fs::symlink_status(path, error)) && !fs::exists(path, error))
    return fail(ErrorCode::InvalidArgument, "{} is a link to a file that does not exist", path.string());
  for (const GuardedFile& file : guarded)
    if (!file.path.empty() && same_file(path, file.path))
      return fail(ErrorCode::InvalidArgument, "{}: the output would replace {}", path.string(), file.what);
  if (fs::exists(path, error) && !force)
    return fail(ErrorCode::InvalidArgument, "{} exists already; --force replaces it", path.string());
  return outcome::success();
}

}  // namespace

void guard_model(const Model& model, const std::string& what, std::vector<GuardedFile>& guarded) {
  for (const GgufShard& shard : model.shards()) guarded.push_back({shard.path, what});
}

Result<void> check_outputs(const std::vector<fs::path>& outputs, const std::vector<GuardedFile>& guarded,
                           bool force) {
  std::vector<fs::path> seen;
  for (const fs::path& path : outputs) {
    QF_TRY(check_output(path, guarded, force));
    std::error_code error;
    const fs::path folder = fs::canonical(path.has_parent_path() ? path.parent_path() : fs::path("."), error);
    fs::path full = folder / path.filename();
    if (std::ranges::find(seen, full) != seen.end())
      return fail(ErrorCode::InvalidArgument, "{} is the name of two outputs", path.string());
    // What does not exist yet may not be a guarded file by another spelling either: a new state file.
    for (const GuardedFile& file : guarded) {
      if (file.path.empty()) continue;
      const fs::path home =
          fs::canonical(file.path.has_parent_path() ? file.path.parent_path() : fs::path("."), error);
      if (home / file.path.filename() == full)
        return fail(ErrorCode::InvalidArgument, "{}: the output would replace {}", path.string(), file.what);
    }
    seen.push_back(std::move(full));
  }
  return outcome::success();
}

std::string model_stem(const fs::path& model) {
  std::string stem = model.stem().string();
  // PREFIX-00001-of-00003
  constexpr std::string_view kShape = "-00000-of-00000";
  if (stem.size() <= kShape.size()) return stem;
  const std::string_view tail = std::string_view(stem).substr(stem.size() - kShape.size());
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    const bool digit = tail[i] >= '0' && tail[i] <= '9';
    if (kShape[i] == '0' ? !digit : tail[i] != kShape[i]) return stem;
  }
  stem.resize(stem.size() - kShape.size());
  return stem;
}

}  // namespace quantfit::cli

#include "optimizer/job/statistics_beside.h"

#include <algorithm>

#include "state/statistics_files.h"

namespace quantfit::optimizer {

namespace fs = std::filesystem;

fs::path statistics_path(const fs::path& state, std::string_view text_fingerprint, std::string_view suffix) {
  return state::path_beside(state, state::statistics_name(state, text_fingerprint, suffix));
}

Result<bool> is_known(const state::StateStore& store, const fs::path& path, std::string_view kind,
                      std::string_view identity, const CancellationToken& cancel) {
  QF_ASSIGN(const std::vector<state::StatisticsFile> files, store.statistics_files());
  const auto file = std::ranges::find_if(files, [&](const state::StatisticsFile& one) {
    return one.name == path.filename() && one.kind == kind && one.text_fingerprint == identity;
  });
  if (file == files.end()) return false;
  const auto digest = state::file_digest(path, &cancel);
  if (!digest && digest.error().code == ErrorCode::Interrupted) return digest.error();
  return digest && digest.value() == file->fingerprint;
}

Result<void> remember(state::StateStore& store, const fs::path& path, std::string_view kind,
                      std::string_view identity, const CancellationToken& cancel) {
  state::StatisticsFile file;
  QF_ASSIGN(file.fingerprint, state::file_digest(path, &cancel));
  file.name = path.filename().string();
  file.kind = kind;
  std::error_code failed;
  file.bytes = fs::file_size(path, failed);
  if (failed) return fail(ErrorCode::Io, "{}: {}", path.string(), failed.message());
  file.text_fingerprint = identity;
  return store.save_statistics_file(file);
}

}  // namespace quantfit::optimizer

#include "state/statistics_files.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <system_error>

#include "core/atomic_file.h"
#include "core/digest.h"
#include "core/file_util.h"
#include "core/text.h"
#include "state/state_store.h"

namespace quantfit::state {
namespace {

constexpr std::size_t kTextDigits = 16;
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

// Calls take(piece) for the bytes of the file from first to last.
template <class Take>
Result<void> read_pieces(const std::filesystem::path& path, const CancellationToken* cancel,
                         const Take& take) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(ErrorCode::Io, "{}: {}", path.string(), std::generic_category().message(errno));
  std::vector<char> piece(kPieceBytes);
  while (in) {
    if (cancel != nullptr && cancel->cancelled())
      return fail(ErrorCode::Interrupted, "{}: interrupted while reading", path.string());
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    QF_TRY(take(std::as_bytes(std::span(piece.data(), static_cast<std::size_t>(in.gcount())))));
  }
  if (in.bad()) return fail(ErrorCode::Io, "{}: cannot be read", path.string());
  return outcome::success();
}

}  // namespace

Result<std::string> file_digest(const std::filesystem::path& path, const CancellationToken* cancel) {
  Digest digest;
  QF_TRY(read_pieces(path, cancel, [&](std::span<const std::byte> piece) -> Result<void> {
    digest.bytes(piece);
    return outcome::success();
  }));
  return digest.hex();
}

std::string statistics_name(const std::filesystem::path& state, std::string_view text_fingerprint,
                            std::string_view kind) {
  return fmt::format("{}-{}.{}", state.stem().string(), text_fingerprint.substr(0, kTextDigits), kind);
}

std::vector<std::filesystem::path> statistics_files_of(const std::filesystem::path& state) {
  const std::string begin = state.stem().string() + "-";
  const auto ours = [&](std::string_view name) {
    if (!name.starts_with(begin) || !name.ends_with(".gguf")) return false;
    name.remove_prefix(begin.size());
    return name.find_first_not_of("0123456789abcdef") == kTextDigits && name[kTextDigits] == '.';
  };
  std::vector<std::filesystem::path> files;
  const std::filesystem::path folder = state.has_parent_path() ? state.parent_path() : ".";
  std::error_code trouble;
  for (std::filesystem::directory_iterator at(folder, trouble), end; !trouble && at != end;
       at.increment(trouble))
    if (ours(at->path().filename().string())) files.push_back(path_beside(state, at->path().filename()));
  std::ranges::sort(files);
  return files;
}

std::filesystem::path path_beside(const std::filesystem::path& state, const std::string& name) {
  return state.parent_path() / name;
}

Result<void> copy_statistics_files(const std::filesystem::path& from, const std::filesystem::path& to,
                                   const CancellationToken* cancel) {
  QF_ASSIGN(const auto store, StateStore::open_read_only(from, cancel));
  QF_ASSIGN(const auto files, store.statistics_files());
  for (const StatisticsFile& file : files) {
    const std::filesystem::path source = path_beside(from, file.name);
    const std::filesystem::path target = path_beside(to, file.name);
    if (same_file(source, target)) continue;
    std::error_code trouble;
    if (std::filesystem::exists(target, trouble)) {
      QF_ASSIGN(const std::string there, file_digest(target, cancel));
      if (there == file.fingerprint) continue;
      return fail(ErrorCode::InvalidArgument,
                  "{}: has the place of a statistics file of {} but other content; move it away",
                  target.string(), from.string());
    }
    QF_ASSIGN(auto copy, AtomicFile::create(target, file.bytes, Existing::Keep));
    Digest digest;
    QF_TRY(read_pieces(source, cancel, [&](std::span<const std::byte> piece) {
      digest.bytes(piece);
      return copy.write(piece);
    }));
    if (digest.hex() != file.fingerprint)
      return fail(ErrorCode::Malformed, "{}: not the bytes that {} names; nothing was copied",
                  source.string(), from.string());
    QF_TRY(copy.commit());
  }
  return outcome::success();
}

Result<std::vector<std::string>> check_statistics_files(const std::filesystem::path& state,
                                                        const std::vector<StatisticsFile>& files,
                                                        const CancellationToken* cancel) {
  std::vector<std::string> troubles;
  for (const StatisticsFile& file : files) {
    const std::filesystem::path path = path_beside(state, file.name);
    const auto digest = file_digest(path, cancel);
    if (!digest && digest.error().code == ErrorCode::Interrupted) return digest.error();
    if (!digest)
      troubles.push_back(fmt::format("statistics file is missing: {}", digest.error().message));
    else if (digest.value() != file.fingerprint)
      troubles.push_back(fmt::format("{}: not the bytes that the state file names", path.string()));
  }
  return troubles;
}

}  // namespace quantfit::state

// The GGUF files beside a state file that it names by fingerprint: what is too large for rows of a table.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "state/records.h"

namespace quantfit::state {

// Digest of all bytes of a file. Io when it cannot be read, Interrupted when cancelled.
[[nodiscard]] Result<std::string> file_digest(const std::filesystem::path& path,
                                              const CancellationToken* cancel = nullptr);

// What a statistics file of the state file `state` is called: STATE-TEXT.KIND, TEXT the first 16 digits of
// the text's fingerprint, `kind` for example "moments.gguf".
[[nodiscard]] std::string statistics_name(const std::filesystem::path& state,
                                          std::string_view text_fingerprint, std::string_view kind);
// Files of such names beside the state file, by name, whether it names them or not.
[[nodiscard]] std::vector<std::filesystem::path> statistics_files_of(const std::filesystem::path& state);

// Where a statistics file of the state file is.
[[nodiscard]] std::filesystem::path path_beside(const std::filesystem::path& state, const std::string& name);

// Copies the statistics files that `from` names into the folder of `to`, unless a file of that name with
// the same content is there. Each appears complete or not at all. Io when one is missing; Malformed when its
// bytes are not those that the state file names; InvalidArgument when another file has its place.
[[nodiscard]] Result<void> copy_statistics_files(const std::filesystem::path& from,
                                                 const std::filesystem::path& to,
                                                 const CancellationToken* cancel = nullptr);

// What is wrong with the statistics files of a state file, one sentence each: missing, other bytes. Reads
// all of them. Empty when all is well.
[[nodiscard]] Result<std::vector<std::string>> check_statistics_files(
    const std::filesystem::path& state, const std::vector<StatisticsFile>& files,
    const CancellationToken* cancel = nullptr);

}  // namespace quantfit::state

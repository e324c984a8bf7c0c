// Looking after a state file: is everything in it sound, what in it may go.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/progress.h"

namespace quantfit::state {

// Everything that can be checked without the model: structure, indexes, references between tables, every
// value, and the bytes of the statistics files beside it. One sentence per trouble with those files; damage
// of the state file itself is an Error, as anywhere else. Changes nothing.
[[nodiscard]] Result<std::vector<std::string>> verify_file(const std::filesystem::path& path,
                                                           const CancellationToken* cancel = nullptr);

struct PruneRequest {
  // Of each run's recipes the newest so many stay. Nothing: all of them.
  std::optional<std::uint64_t> keep_recipes;
  bool dry_run = false;  // only says what would go
};

// What went, one sentence each with its reason, and the size of the file around it.
struct PruneReport {
  std::vector<std::string> removed;
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;   // the same after a dry run
  std::uint64_t bytes_beside = 0;  // of statistics files that went, or would go
};

// Removes what nothing will read again:
//  - runs that another run of the same importance matrix, effort, sampling, metric and unit with a newer
//    encoder replaces, with their recipes; and runs without measurements
//  - sensitivity sets that are partial
//  - importance matrices that no run refers to and that no sensitivity set was measured under
//  - statistics files that nothing which stays was measured with, and those of this state file that it does
//    not name; entries whose file is not there any more, or another one of a later entry
//  - recipes beyond `keep_recipes`
// and gives the space back. What stands in the file goes as a whole or not at all, and before the files
// beside it. Checkpoints of unfinished passes stay.
[[nodiscard]] Result<PruneReport> prune_file(const std::filesystem::path& path, const PruneRequest& request,
                                             const CancellationToken* cancel = nullptr);

}  // namespace quantfit::state

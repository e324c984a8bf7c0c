// Bringing state files together: measurements of several machines, or of files that went different ways.
#pragma once

#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "state/contents.h"

namespace quantfit::state {

// Brings into the state file `into` what the `others` know, each of them in one transaction; they are only
// read. `into` is made when it does not exist. Statistics files come along: what is missing beside `into` is
// copied there. After success `into` holds the same whatever the order of `others` and however often they
// are merged, directly or through other merged files (contents.h, join()).
//
// IdentityMismatch when a file is about another model, ShapeMismatch when a tensor is not the same in two
// files, Io when a statistics file is missing beside the state file that names it. What was merged before
// the failing file stays.
[[nodiscard]] Result<MergeSummary> merge_files(const std::filesystem::path& into,
                                               const std::vector<std::filesystem::path>& others,
                                               const CancellationToken* cancel = nullptr);

// Writes into `database` what `theirs` knows. The file at `path` is named in messages.
[[nodiscard]] Result<MergeSummary> merge_contents(Database& database, const Contents& theirs,
                                                  const std::filesystem::path& path);

}  // namespace quantfit::state

// Files of statistics beside a state file: what they are called, and whether the state file knows them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/progress.h"
#include "state/state_store.h"

namespace quantfit::optimizer {

// state::statistics_name in the folder of the state file.
[[nodiscard]] std::filesystem::path statistics_path(const std::filesystem::path& state,
                                                    std::string_view text_fingerprint,
                                                    std::string_view suffix);

// Whether the state file names this file, of this kind and identity, and its bytes are those that it names.
// `identity`: what decides the file's content, the text's fingerprint in front.
[[nodiscard]] Result<bool> is_known(const state::StateStore& store, const std::filesystem::path& path,
                                    std::string_view kind, std::string_view identity,
                                    const CancellationToken& cancel);

// Adds the file to the state file's list.
[[nodiscard]] Result<void> remember(state::StateStore& store, const std::filesystem::path& path,
                                    std::string_view kind, std::string_view identity,
                                    const CancellationToken& cancel);

}  // namespace quantfit::optimizer

// The files that a command will write: checked before hours of work, not after.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"

namespace quantfit {
class Model;
}

namespace quantfit::cli {

// A file that is being read or kept, which nothing may replace.
struct GuardedFile {
  std::filesystem::path path;
  std::string what;  // "the model it is made from"
};

// Adds every shard of the model.
void guard_model(const Model& model, const std::string& what, std::vector<GuardedFile>& guarded);

// Looks at every path before anything is measured. Io where the folder is missing or not writable or the name
// is too long for it; InvalidArgument where a guarded file would be replaced (whatever `force` says), a link
// leads nowhere, two outputs are the same file, or one exists already without `force`.
[[nodiscard]] Result<void> check_outputs(const std::vector<std::filesystem::path>& outputs,
                                         const std::vector<GuardedFile>& guarded, bool force);

// "model" of "dir/model-00001-of-00003.gguf" and "model.gguf": what other files are named after.
[[nodiscard]] std::string model_stem(const std::filesystem::path& model);

}  // namespace quantfit::cli

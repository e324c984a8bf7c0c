// `--shard`: which part of the measuring is this process's.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"
#include "optimizer/measurement/shard.h"

namespace quantfit::cli {

// Value of an environment variable, or null.
using Environment = std::function<const char*(const char* name)>;

// "3/16"; "auto": number and count from a Slurm array or job, Open MPI's ranks, or, for the number alone, an
// indexed Job of Kubernetes, where "auto/16" says the count. Empty: everything. InvalidArgument when the text
// or the environment has no such number, saying what was looked for.
[[nodiscard]] Result<optimizer::Shard> parse_shard(std::string_view text, const Environment& environment);

}  // namespace quantfit::cli

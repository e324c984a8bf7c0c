// What is in a state file, as plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "state/contents.h"

namespace quantfit::cli {

struct StateReport {
  std::string path;
  std::uint64_t bytes = 0;             // of the state file
  std::uint64_t statistics_bytes = 0;  // of the files beside it, as it knows them
  std::string last_change;             // the latest time in it, UTC in ISO 8601; empty: none
  state::Contents contents;
  std::vector<std::string> may_go;  // what pruning would remove
};

// "3 min ago", "5 h ago", "12 days ago" for a time in ISO 8601, `now` in seconds since 1970; the time itself
// where it cannot be read.
[[nodiscard]] std::string age_text(const std::string& time, std::int64_t now);

}  // namespace quantfit::cli

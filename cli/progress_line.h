// One phase of long work at one moment, and how it is shown: a line that never wraps, a line of a log, an
// event.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace quantfit::cli {

struct ProgressState {
  std::string phase;  // "sampling"; empty between phases
  std::uint64_t total = 0, done = 0;
  std::string what;             // the tensor at hand, as its file names it
  std::uint64_t saved = 0;      // tensors of this phase that are on disk
  double seconds = 0;           // since the phase began
  double bytes_per_weight = 0;  // of the source; 0: unknown
  bool finished = false;
};

struct LineStyle {
  std::size_t columns = 80;  // of the terminal; the line takes one less, so that no terminal wraps it
  bool color = false;
  bool utf8 = true;  // block characters, or ASCII
};

// What a phase counts: "weights", "recipes"; "steps" for a phase that is not known here.
[[nodiscard]] std::string_view unit_of(std::string_view phase);

// Columns that a terminal may take for the text: what could be wide counts as two.
[[nodiscard]] std::size_t most_columns(std::string_view text);

// Phase, share and bar, time left, speed, what is saved, the tensor: as much as there is room for, the most
// important first. No newline.
[[nodiscard]] std::string bar_line(const ProgressState& state, const LineStyle& style);
// The same for logs: everything, no bar, no newline.
[[nodiscard]] std::string plain_line(const ProgressState& state);
// The event "progress" of docs/progress-events.md.
[[nodiscard]] nlohmann::ordered_json progress_event(const ProgressState& state);

}  // namespace quantfit::cli

#include "cli/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "cli/console.h"
#include "cli/wrap.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

constexpr std::pair<std::string_view, std::string_view> kUnits[] = {
    {"sampling", "weights"},
    {"writing", "weights"},
    {"comparing static recipes", "recipes"},
    {"comparing predictions", "positions"},
    {"checksums", "bytes"},
};
constexpr std::size_t kWidestBar = 28;
constexpr std::size_t kNarrowestBar = 8;
constexpr std::size_t kNarrowestName = 8;
// From here on code points may take two columns (East Asian wide, emoji).
constexpr unsigned kFirstWide = 0x1100;

double share_of(const ProgressState& state) {
  if (state.finished || state.total == 0) return 1;
  // The end is reached when it is told, not when the estimate of the work was too low.
  return std::min(double(state.done) / double(state.total), 0.99);
}

double speed_of(const ProgressState& state) {
  return state.seconds > 0 ? double(state.done) / state.seconds : 0;
}

// Nothing as long as nothing was done.
std::optional<double> seconds_left(const ProgressState& state) {
  const double speed = speed_of(state);
  if (speed <= 0 || state.finished) return std::nullopt;
  return std::max(double(state.total) - double(state.done), 0.0) / speed;
}

// Coarse, so that the line does not flicker.
std::string left_text(double seconds) {
  if (seconds < 60) return fmt::format("{:.0f} s left", seconds);
  const auto minutes = static_cast<std::uint64_t>(std::llround(seconds / 60));
  return minutes < 60 ? fmt::format("{} min left", minutes)
                      : fmt::format("{} h {:02} min left", minutes / 60, minutes % 60);
}

std::string time_text(const ProgressState& state) {
  if (state.finished) return format_duration(state.seconds);
  const auto left = seconds_left(state);
  return left ? left_text(*left) : std::string();
}

std::string speed_text(const ProgressState& state) {
  return fmt::format("{} {}/s", format_count(speed_of(state)), unit_of(state.phase));
}

std::string bytes_text(const ProgressState& state) {
  const double bytes = speed_of(state) * state.bytes_per_weight;
  if (bytes <= 0 || unit_of(state.phase) != "weights") return "";
  return bytes < 1000 ? fmt::format("{:.0f} B/s", bytes) : format_count(bytes) + "B/s";
}

std::string saved_text(const ProgressState& state) {
  return state.saved == 0 ? "" : fmt::format("{} tensors saved", state.saved);
}

unsigned code_point(std::string_view text, std::size_t& size) {
  const auto lead = static_cast<unsigned char>(text[0]);
  size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  size = std::min(size, text.size());
  unsigned value = size == 1 ? lead : lead & (0xFFU >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) value = value << 6 | (static_cast<unsigned char>(text[i]) & 0x3FU);
  return value;
}

// The text, cut to so many columns.
std::string fit(std::string_view text, std::size_t columns, bool utf8) {
  if (most_columns(text) <= columns) return std::string(text);
  const std::string_view dots = utf8 ? "…" : "..";
  const std::size_t room = columns - std::min(columns, most_columns(dots));
  std::size_t taken = 0, used = 0;
  while (taken < text.size()) {
    std::size_t size = 0;
    const std::size_t width = code_point(text.substr(taken), size) >= kFirstWide ? 2 : 1;
    if (used + width > room) break;
    used += width;
    taken += size;
  }
  return columns < most_columns(dots) ? std::string(text.substr(0, taken))
                                      : std::string(text.substr(0, taken)).append(dots);
}

}  // namespace

std::string_view unit_of(std::string_view phase) {
  const auto* known = std::ranges::find(kUnits, phase, &std::pair<std::string_view, std::string_view>::first);
  return known == std::end(kUnits) ? "steps" : known->second;
}

std::size_t most_columns(std::string_view text) {
  std::size_t columns = 0;
  while (!text.empty()) {
    std::size_t size = 0;
    const unsigned point = code_point(text, size);
    columns += point < kFirstWide || point == 0x2026 ? 1 : 2;  // the ellipsis is ours
    text.remove_prefix(size);
  }
  return columns;
}

std::string bar_line(const ProgressState& state, const LineStyle& style) {
  const std::size_t width = std::max<std::size_t>(style.columns, 2) - 1;
  constexpr std::string_view kGap = "  ";
  const std::string head = fmt::format("{:<9}", escaped(state.phase));
  const std::string share = fmt::format("{:3.0f} %", 100 * share_of(state));
  const std::size_t least = most_columns(head) + 1 + share.size();
  if (least > width) return fit(fmt::format("{} {}", escaped(state.phase), share), width, style.utf8);

  // What there is room for, the most important first.
  std::size_t room = width - least;
  std::string tail;
  const auto add = [&](const std::string& part) {
    if (part.empty() || part.size() + kGap.size() > room) return;
    tail += kGap;
    tail += part;
    room -= part.size() + kGap.size();
  };
  add(time_text(state));
  std::size_t bar_columns = 0;
  if (room >= kNarrowestBar + 1) {
    bar_columns = std::min(kWidestBar, std::max(kNarrowestBar, room / 3));
    room -= bar_columns + 1;
  }
  add(speed_text(state));
  add(bytes_text(state));
  add(saved_text(state));
  if (!state.what.empty() && !state.finished && room >= kNarrowestName + kGap.size()) {
    tail += kGap;
    tail += fit(escaped(state.what), room - kGap.size(), style.utf8);
  }
  std::string bar;
  if (bar_columns != 0) {
    const auto filled = static_cast<std::size_t>(share_of(state) * double(bar_columns));
    bar += style.color ? " \x1b[36m" : " ";
    for (std::size_t i = 0; i < bar_columns; ++i)
      bar += style.utf8 ? (i < filled ? "█" : "░") : (i < filled ? "#" : ".");
    if (style.color) bar += "\x1b[0m";
  }
  return head + bar + ' ' + share + tail;
}

std::string plain_line(const ProgressState& state) {
  std::string line = fmt::format("{}: {:.0f} %", escaped(state.phase), 100 * share_of(state));
  for (const std::string& part : {speed_text(state), bytes_text(state), time_text(state), saved_text(state),
                                  state.finished ? std::string() : escaped(state.what)})
    if (!part.empty()) line += ", " + part;
  return line;
}

nlohmann::ordered_json progress_event(const ProgressState& state) {
  nlohmann::ordered_json event = {{"event", "progress"},          {"phase", state.phase},
                                  {"unit", unit_of(state.phase)}, {"done", state.done},
                                  {"total", state.total},         {"seconds", state.seconds},
                                  {"per_second", speed_of(state)}};
  if (state.bytes_per_weight > 0 && unit_of(state.phase) == "weights")
    event["bytes_per_second"] = speed_of(state) * state.bytes_per_weight;
  if (const auto left = seconds_left(state)) event["seconds_left"] = *left;
  event["tensors_saved"] = state.saved;
  if (!state.what.empty()) event["tensor"] = state.what;
  return event;
}

}  // namespace quantfit::cli

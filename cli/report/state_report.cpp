#include "cli/report/state_report.h"

#include <fmt/format.h>

#include <ctime>

namespace quantfit::cli {

std::string age_text(const std::string& time, std::int64_t now) {
  std::tm fields{};
  if (strptime(time.c_str(), "%Y-%m-%dT%H:%M:%SZ", &fields) == nullptr) return time;
  const std::int64_t seconds = now - static_cast<std::int64_t>(timegm(&fields));
  constexpr std::int64_t kMinute = 60;
  constexpr std::int64_t kHour = 60 * kMinute;
  constexpr std::int64_t kDay = 24 * kHour;
  if (seconds < 0) return "in the future";
  if (seconds < kMinute) return "now";
  if (seconds < kHour) return fmt::format("{} min ago", seconds / kMinute);
  if (seconds < 2 * kDay) return fmt::format("{} h ago", seconds / kHour);
  return fmt::format("{} days ago", seconds / kDay);
}

}  // namespace quantfit::cli

#include "cli/duration.h"

#include <charconv>

#include "core/text.h"

namespace quantfit::cli {

Result<double> parse_duration(std::string_view text) {
  double seconds = 0;
  std::string_view left = text;
  while (!left.empty()) {
    double number = 0;
    const auto [end, error] =
        std::from_chars(left.data(), left.data() + left.size(), number, std::chars_format::fixed);
    left.remove_prefix(static_cast<std::size_t>(end - left.data()));
    double unit = 0;
    if (error == std::errc() && number >= 0 && !left.empty()) {
      if (left.front() == 's') unit = 1;
      if (left.front() == 'm') unit = 60;
      if (left.front() == 'h') unit = 3600;
      if (left.front() == 'd') unit = 86400;
    }
    if (unit == 0) {
      seconds = 0;
      break;
    }
    seconds += number * unit;
    left.remove_prefix(1);
  }
  if (!(seconds > 0) || seconds > 1e9)
    return fail(ErrorCode::InvalidArgument, "{} is no duration; say 90s, 45m, 2h or 1h30m", printable(text));
  return seconds;
}

}  // namespace quantfit::cli

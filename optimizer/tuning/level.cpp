#include "optimizer/tuning/level.h"

namespace quantfit::tuning {

std::string_view to_string(Level level) {
  switch (level) {
    case Level::None:
      return "none";
    case Level::Norms:
      return "norms";
    case Level::Scales:
      return "scales";
    case Level::Codes:
      return "codes";
  }
  return "";
}

std::optional<Level> parse_level(std::string_view word) {
  for (const Level level : {Level::None, Level::Norms, Level::Scales, Level::Codes})
    if (to_string(level) == word) return level;
  return std::nullopt;
}

}  // namespace quantfit::tuning

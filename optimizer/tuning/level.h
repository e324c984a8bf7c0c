// How much of a file is tuned.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace quantfit::tuning {

// Each has what the one before it has.
enum class Level : std::uint8_t {
  None,
  Norms,   // F32 tensors: norms, biases, routers
  Scales,  // and the binary16 scales and minimums of blocks
  Codes,   // and the codes of weights within their grids
};

[[nodiscard]] std::string_view to_string(Level level);
// "none", "norms", "scales", "codes"; nothing for other words.
[[nodiscard]] std::optional<Level> parse_level(std::string_view word);

}  // namespace quantfit::tuning

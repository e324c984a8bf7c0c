#include "core/gguf_layout.h"

namespace quantfit {

Result<std::uint64_t> checked_tensor_bytes(Format format, const std::array<std::uint64_t, 4>& ne) {
  constexpr std::uint64_t kLimit = (std::uint64_t{1} << 63) - 1;
  std::uint64_t product = 1;
  bool empty = false;
  for (const std::uint64_t extent : ne) {
    if (extent == 0) {
      empty = true;
    } else {
      if (product > kLimit / extent)
        return fail(ErrorCode::ShapeMismatch, "its dimensions {} x {} x {} x {} multiply to 2^63 or more",
                    ne[0], ne[1], ne[2], ne[3]);
      product *= extent;
    }
  }
  QF_TRY(row_bytes(format, ne[0]));
  if (empty) return std::uint64_t{0};
  return tensor_bytes(format, ne[0], ne[1] * ne[2] * ne[3]);
}

std::string printable(std::string_view text) {
  constexpr std::size_t kShown = 100;
  std::string result = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7f)
      result += fmt::format("\\x{:02x}", code);
    else
      result += c;
  }
  result += text.size() > kShown ? "...'" : "'";
  return result;
}

}  // namespace quantfit

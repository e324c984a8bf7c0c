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

}  // namespace quantfit

#include "optimizer/planning/tuned_share.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "kernels/block_codes.h"

namespace quantfit::optimizer {
namespace {

struct Point {
  double bpw, scales, codes;
};

// Divergence of whole files over that before tuning by level, text near the tuned one: the dense example
// model at 2.2, 2.6, 3, 3.5 and 4.5 bpw (docs/guides/tune.md). The ends are extrapolated.
constexpr Point kMeasured[] = {{1.5, 0.52, 0.42},   {2.2, 0.579, 0.489}, {2.6, 0.665, 0.560},
                               {3.0, 0.665, 0.586}, {3.5, 0.749, 0.637}, {4.5, 0.829, 0.696},
                               {6.6, 0.88, 0.8},    {8.5, 0.95, 0.9}};

}  // namespace

double tuned_share(Format format) {
  const FormatTraits& of = traits(format);
  if (of.kind == FormatKind::Float) return 1;
  const double bpw = 8.0 * static_cast<double>(of.block_bytes) / static_cast<double>(of.block_len);
  const auto share = kernels::code_shape(format).count != 0 ? &Point::codes : &Point::scales;
  const auto* above = std::ranges::find_if(kMeasured, [&](const Point& point) { return point.bpw >= bpw; });
  if (above == std::begin(kMeasured)) return above->*share;
  if (above == std::end(kMeasured)) return std::prev(above)->*share;
  const Point& below = *std::prev(above);
  return std::lerp(below.*share, above->*share, (bpw - below.bpw) / (above->bpw - below.bpw));
}

}  // namespace quantfit::optimizer

// What tuning is expected to leave of a format's error.
#pragma once

#include "core/format.h"

namespace quantfit::optimizer {

// The part of a tensor's predicted error that is left when the file has been tuned with codes, above 0 and at
// most 1. The fewer bits a weight has, the more tuning mends. 1 for formats that nothing is lost in or can
// move (float ones).
[[nodiscard]] double tuned_share(Format format);

}  // namespace quantfit::optimizer

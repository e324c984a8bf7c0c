// Ctrl-C: the first asks the work to stop at the next row and keeps what was
// finished, the second ends at once.
#pragma once

#include "core/progress.h"

namespace quantfit::cli {

// Installs handlers for SIGINT and SIGTERM as long as it lives. One at a time.
class InterruptHandler {
 public:
  InterruptHandler();
  ~InterruptHandler();
  InterruptHandler(const InterruptHandler&) = delete;
  InterruptHandler& operator=(const InterruptHandler&) = delete;

  [[nodiscard]] const CancellationToken& token() const;
};

}  // namespace quantfit::cli

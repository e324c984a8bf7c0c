// Ctrl-C and its relatives: the first asks the work to stop at the next row and keeps what was finished, a
// second one ends at once.
#pragma once

#include "core/progress.h"

namespace quantfit::cli {

// As long as it lives, SIGINT, SIGTERM, SIGHUP and SIGQUIT cancel the token of one job. One at a time, since
// signals belong to the process. Signals that were ignored when the program started stay ignored (nohup).
class InterruptHandler {
 public:
  // `json`: what is said about it is an event (docs/progress-events.md).
  InterruptHandler(CancellationToken& token, bool json);
  ~InterruptHandler();
  InterruptHandler(const InterruptHandler&) = delete;
  InterruptHandler& operator=(const InterruptHandler&) = delete;

  // 128 and the number of the signal that came, the status by which a shell knows it; 0 when none did.
  [[nodiscard]] static int exit_status();
};

}  // namespace quantfit::cli

// What the program's exit status means; listed in its help.
#pragma once

#include "core/error.h"

namespace quantfit::cli {

// A run that a signal ended has 128 and the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kBadUsage = 2,
  kInfeasible = 3,
  kInterrupted = 130,
};

[[nodiscard]] constexpr ExitCode exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::Infeasible:
      return kInfeasible;
    case ErrorCode::Interrupted:
      return kInterrupted;
    case ErrorCode::InvalidArgument:
      return kBadUsage;
    default:
      return kFailed;
  }
}

}  // namespace quantfit::cli

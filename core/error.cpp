#include "core/error.h"

namespace quantfit {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::InvalidArgument:
      return "invalid argument";
    case ErrorCode::Io:
      return "input/output";
    case ErrorCode::NoSpace:
      return "no space";
    case ErrorCode::Malformed:
      return "malformed file";
    case ErrorCode::Unsupported:
      return "unsupported";
    case ErrorCode::ShapeMismatch:
      return "shape mismatch";
    case ErrorCode::IdentityMismatch:
      return "identity mismatch";
    case ErrorCode::Infeasible:
      return "infeasible";
    case ErrorCode::Interrupted:
      return "interrupted";
    case ErrorCode::Internal:
      return "internal";
  }
  return "unknown";
}

}  // namespace quantfit

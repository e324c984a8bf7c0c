#include "optimizer/parallel/first_failure.h"

#include <utility>

namespace quantfit::optimizer {

void FirstFailure::report(Error error) {
  const std::scoped_lock guard(lock_);
  if (!error_) error_ = std::move(error);
  reported_ = true;
}

Result<void> FirstFailure::result() const {
  if (error_) return *error_;
  return outcome::success();
}

}  // namespace quantfit::optimizer

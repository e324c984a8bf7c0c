// The first of the failures that many threads may meet.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include "core/error.h"

namespace quantfit::optimizer {

// Safe to use from any thread, but for result(), which wants the others to be done.
class FirstFailure {
 public:
  // Later ones are dropped: they are often only its consequences.
  void report(Error error);
  // True once there is one: the others may stop.
  [[nodiscard]] bool reported() const { return reported_.load(std::memory_order_relaxed); }
  [[nodiscard]] Result<void> result() const;

 private:
  std::mutex lock_;
  std::atomic<bool> reported_{false};
  std::optional<Error> error_;
};

}  // namespace quantfit::optimizer

// The threads of one piece of work.
#pragma once

#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <optional>
#include <utility>

namespace quantfit::optimizer {

// An arena of so many threads, the caller's own among them; 0: one per core. More threads than cores are
// possible: that is what was asked for. Where the system refuses so many, as many as it gives.
class Workers {
 public:
  explicit Workers(unsigned threads);

  // Runs `function` inside the arena: what it starts in oneTBB stays there.
  template <class Function>
  auto run(Function&& function) {
    return arena_.execute(std::forward<Function>(function));
  }
  [[nodiscard]] int threads() const { return arena_.max_concurrency(); }

 private:
  std::optional<tbb::global_control> limit_;
  tbb::task_arena arena_;
};

}  // namespace quantfit::optimizer

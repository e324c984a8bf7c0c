// The threads of a run, and the scratch memory of each.
#pragma once

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "optimizer/engine/aligned_floats.h"

namespace quantfit::engine {

// `threads` 0: all cores. run() enters the arena; inside, for_each() spreads work. Results must not depend on
// which thread does what: tasks write to places of their own.
class Workers {
 public:
  explicit Workers(unsigned threads)
      : control_(threads == 0 ? std::nullopt
                              : std::make_optional<tbb::global_control>(
                                    tbb::global_control::max_allowed_parallelism, threads)),
        arena_(threads == 0 ? tbb::task_arena::automatic : static_cast<int>(threads)),
        scratch_(static_cast<std::size_t>(arena_.max_concurrency())) {}

  [[nodiscard]] std::size_t threads() const { return scratch_.size(); }

  // At least that many floats for each thread from now on.
  void reserve_scratch(std::size_t floats) {
    for (AlignedFloats& one : scratch_)
      if (one.size() < floats) one = AlignedFloats(floats);
  }

  template <class Function>
  auto run(Function&& function) {
    return arena_.execute(std::forward<Function>(function));
  }

  // function(i, scratch) for i = 0 .. count - 1, in any order, on the threads of the arena. Called inside
  // run().
  template <class Function>
  void for_each(std::size_t count, const Function& function) {
    if (count == 0) return;
    if (count == 1 || scratch_.size() == 1) {
      float* scratch = scratch_of_this_thread();
      for (std::size_t i = 0; i < count; ++i) function(i, scratch);
      return;
    }
    tbb::parallel_for(std::size_t{0}, count, [&](std::size_t i) { function(i, scratch_of_this_thread()); });
  }

  // function(first, rows, scratch) over pieces of `rows_in_all`.
  template <class Function>
  void for_rows(std::size_t rows_in_all, std::size_t piece, const Function& function) {
    for_each((rows_in_all + piece - 1) / piece, [&](std::size_t i, float* scratch) {
      const std::size_t first = i * piece;
      function(first, std::min(piece, rows_in_all - first), scratch);
    });
  }

 private:
  float* scratch_of_this_thread() const {
    const int index = tbb::this_task_arena::current_thread_index();
    return scratch_[index < 0 ? 0 : static_cast<std::size_t>(index)].data();
  }

  std::optional<tbb::global_control> control_;
  tbb::task_arena arena_;
  std::vector<AlignedFloats> scratch_;
};

}  // namespace quantfit::engine

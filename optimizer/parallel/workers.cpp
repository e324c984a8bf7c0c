#include "optimizer/parallel/workers.h"

namespace quantfit::optimizer {

Workers::Workers(unsigned threads)
    : arena_(threads == 0 ? tbb::task_arena::automatic : static_cast<int>(threads)) {
  // Without it the system's number of cores is the limit.
  if (threads != 0) limit_.emplace(tbb::global_control::max_allowed_parallelism, threads);
}

}  // namespace quantfit::optimizer

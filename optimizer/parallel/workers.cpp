#include "optimizer/parallel/workers.h"

#include <future>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace quantfit::optimizer {

namespace {

// How many of `wanted` threads there can be at once, the caller's own among them. oneTBB ends the program
// when the system refuses it one (a limit of processes, or of memory for stacks), so it is asked beforehand.
unsigned possible_threads(unsigned wanted) {
  std::vector<std::thread> others;
  std::promise<void> all_counted;
  const std::shared_future<void> counted = all_counted.get_future().share();
  try {
    others.reserve(wanted);
    while (others.size() + 1 < wanted) others.emplace_back([counted] { counted.wait(); });
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {
  }
  all_counted.set_value();
  for (std::thread& other : others) other.join();
  const auto possible = static_cast<unsigned>(others.size()) + 1;
  // Where the limit was met, what the work itself needs is left.
  return possible < wanted ? possible / 2 + 1 : wanted;
}

}  // namespace

Workers::Workers(unsigned threads) {
  const auto wanted = threads != 0 ? threads : static_cast<unsigned>(tbb::this_task_arena::max_concurrency());
  const unsigned possible = possible_threads(wanted);
  // Without it the system's number of cores is the limit.
  if (threads != 0 || possible < wanted)
    limit_.emplace(tbb::global_control::max_allowed_parallelism, possible);
  arena_.initialize(static_cast<int>(possible));
}

}  // namespace quantfit::optimizer

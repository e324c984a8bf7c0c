#include <gtest/gtest.h>
#include <sys/resource.h>
#include <tbb/parallel_for.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>

#include "optimizer/parallel/first_failure.h"
#include "optimizer/parallel/workers.h"

namespace quantfit::optimizer {
namespace {

TEST(Workers, AreAsManyAsAskedForEvenAboveTheCores) {
  for (const unsigned threads : {1U, 3U, 7U}) {
    Workers workers(threads);
    EXPECT_EQ(workers.threads(), static_cast<int>(threads));
    std::atomic<int> done{0};
    EXPECT_EQ(workers.run([&] {
      tbb::parallel_for(0, 1000, [&](int) { ++done; });
      return tbb::this_task_arena::max_concurrency();
    }),
              static_cast<int>(threads));
    EXPECT_EQ(done, 1000);
  }
}

TEST(FirstFailure, IsTheFirst) {
  FirstFailure failure;
  EXPECT_FALSE(failure.reported());
  EXPECT_TRUE(failure.result());
  failure.report(fail(ErrorCode::Io, "first"));
  failure.report(fail(ErrorCode::NoSpace, "second"));
  EXPECT_TRUE(failure.reported());
  EXPECT_EQ(failure.result().error().message, "first");
}

// Whether the system keeps a limit of the address space: user-mode emulators, for one, take it and leave it
// out.
bool address_space_is_limited() {
  rlimit before{};
  if (getrlimit(RLIMIT_AS, &before) != 0) return false;
  const rlimit limited{std::min(rlim_t{1} << 46, before.rlim_max), before.rlim_max};
  rlimit after{};
  const bool kept = setrlimit(RLIMIT_AS, &limited) == 0 && getrlimit(RLIMIT_AS, &after) == 0 &&
                    after.rlim_cur == limited.rlim_cur;
  return setrlimit(RLIMIT_AS, &before) == 0 && kept;
}

// Address space for a few stacks only: what is asked for beyond that is not there.
TEST(WorkersDeathTest, ThreadsThatCannotBeCreatedAreDoneWithout) {
  if (!address_space_is_limited()) GTEST_SKIP() << "limits of the address space have no effect here";
  const auto work = [] {
    std::ifstream statm("/proc/self/statm");
    rlim_t pages = 0;
    statm >> pages;
    const rlim_t bytes = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{150} << 20);
    const rlimit limited{bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limited) != 0) _exit(2);
    Workers workers(200);
    std::atomic<int> sum = 0;
    workers.run([&] { tbb::parallel_for(0, 1000, [&](int i) { sum += i; }); });
    _exit(sum == 499500 && workers.threads() < 200 ? 0 : 3);
  };
  EXPECT_EXIT(work(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace quantfit::optimizer

#include <gtest/gtest.h>
#include <tbb/parallel_for.h>

#include <atomic>

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

}  // namespace
}  // namespace quantfit::optimizer

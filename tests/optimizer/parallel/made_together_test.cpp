#include "optimizer/parallel/made_together.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>

namespace quantfit::optimizer {
namespace {

using Body = std::function<void(std::size_t)>;

// All at once, and back when all are done.
void on_threads(int count, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t) threads.emplace_back([&body, t] { body(t); });
  for (std::thread& thread : threads) thread.join();
}

TEST(MadeTogether, IsMadeOnceAndLoopsAreWhole) {
  for (int round = 0; round < 200; ++round) {
    MadeTogether object;
    std::array<std::atomic<int>, 64> done{};
    std::atomic<int> made{0};
    on_threads(4, [&](int) {
      const bool here = object.call([&](const MadeTogether::ForEach& each) {
        const Body inner = [&](std::size_t i) { ++done.at(i); };
        each(8, [&](std::size_t block) { each(8, [&](std::size_t i) { inner(8 * block + i); }); });
      });
      made += here ? 1 : 0;
      for (const std::atomic<int>& one : done) EXPECT_EQ(one, 1);
    });
    EXPECT_EQ(made, 1);
    EXPECT_FALSE(object.call([](const MadeTogether::ForEach&) { FAIL(); }));
  }
}

// Two turns of a loop that wait for each other need two threads.
TEST(MadeTogether, WhoWaitsTakesPart) {
  MadeTogether object;
  std::atomic<int> there{0};
  std::atomic<bool> met{false};
  on_threads(2, [&](int) {
    (void)object.call([&](const MadeTogether::ForEach& each) {
      each(2, [&](std::size_t) {
        ++there;
        const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
        while (there < 2 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
        if (there == 2) met = true;
      });
    });
  });
  EXPECT_TRUE(met);
}

// As experts' factors stand on the one of their layer.
TEST(MadeTogether, ObjectsThatStandOnOneAnotherEnd) {
  for (int round = 0; round < 2000; ++round) {
    MadeTogether shared;
    std::array<MadeTogether, 2> own;
    std::atomic<int> turns{0};
    const Body turn = [&](std::size_t) { ++turns; };
    on_threads(4, [&](int t) {
      for (int i = 0; i < 4; ++i)
        (void)own.at(static_cast<std::size_t>((t + i) % 2)).call([&](const MadeTogether::ForEach& each) {
          (void)shared.call([&](const MadeTogether::ForEach& of_shared) { of_shared(3, turn); });
          each(2, turn);
        });
    });
    ASSERT_EQ(turns, 3 + 2 * 2);
  }
}

TEST(MadeTogether, WhatFailsIsTriedAgainByTheNext) {
  MadeTogether object;
  EXPECT_THROW(object.call([](const MadeTogether::ForEach& each) {
    each(4, [](std::size_t i) {
      if (i == 2) throw std::runtime_error("no");
    });
  }),
               std::runtime_error);
  EXPECT_THROW(object.call([](const MadeTogether::ForEach&) { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_TRUE(object.call([](const MadeTogether::ForEach&) {}));
}

}  // namespace
}  // namespace quantfit::optimizer

#include "optimizer/parallel/made_together.h"

#include <algorithm>

namespace quantfit::optimizer {

bool MadeTogether::call(const std::function<void(const ForEach&)>& make) {
  std::unique_lock lock(mutex_);
  while (state_ != State::Nobody) {
    if (state_ == State::Done) return false;
    if (Loop* loop = open_loop(); loop != nullptr)
      work(*loop, lock);
    else
      changed_.wait(lock);
  }
  state_ = State::Busy;
  lock.unlock();
  const auto end_as = [&](State state) {
    lock.lock();
    state_ = state;
    changed_.notify_all();
  };
  try {
    make([this](std::size_t count, const std::function<void(std::size_t)>& body) { run(count, body); });
  } catch (...) {
    end_as(State::Nobody);
    throw;
  }
  end_as(State::Done);
  return true;
}

// Who waits for the last workers of its loop helps in others, which these may have begun. That never ends in
// a circle: a thread waits only for a loop that it began after everything below it on its stack.
void MadeTogether::run(std::size_t count, const std::function<void(std::size_t)>& body) {
  Loop loop{count, &body};
  std::unique_lock lock(mutex_);
  loops_.push_back(&loop);
  changed_.notify_all();
  work(loop, lock);
  std::erase(loops_, &loop);
  while (loop.workers > 0) {
    if (Loop* other = open_loop(); other != nullptr)
      work(*other, lock);
    else
      changed_.wait(lock);
  }
  if (loop.failure != nullptr) std::rethrow_exception(loop.failure);
}

void MadeTogether::work(Loop& loop, std::unique_lock<std::mutex>& lock) {
  ++loop.workers;
  while (loop.open()) {
    const std::size_t i = loop.next++;
    lock.unlock();
    std::exception_ptr failure;
    try {
      (*loop.body)(i);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure != nullptr && loop.failure == nullptr) loop.failure = failure;
  }
  if (--loop.workers == 0) changed_.notify_all();
}

MadeTogether::Loop* MadeTogether::open_loop() const {
  const auto found =
      std::find_if(loops_.rbegin(), loops_.rend(), [](const Loop* loop) { return loop->open(); });
  return found == loops_.rend() ? nullptr : *found;
}

}  // namespace quantfit::optimizer

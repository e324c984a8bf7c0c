// Something made once, by all threads that want it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <vector>

namespace quantfit::optimizer {

// Threads that call while another one makes it take part in its loops instead of waiting. What is made may
// ask for another object of this class, made in the same way, but never for itself in a circle. Safe to use
// from any thread.
class MadeTogether {
 public:
  // Calls body(0) .. body(count - 1) in any order, on any of the threads, and returns when all are done.
  using ForEach = std::function<void(std::size_t count, const std::function<void(std::size_t)>& body)>;

  // Returns when it is made: true where this call did it. `make` is called once in the life of the object;
  // when it throws, or a loop of it, that leaves this call, and the next one tries again.
  bool call(const std::function<void(const ForEach&)>& make);

 private:
  struct Loop {
    std::size_t count;
    const std::function<void(std::size_t)>* body;
    std::size_t next = 0, workers = 0;
    std::exception_ptr failure = {};
    [[nodiscard]] bool open() const { return next < count && failure == nullptr; }
  };
  enum class State { Nobody, Busy, Done };

  void run(std::size_t count, const std::function<void(std::size_t)>& body);
  void work(Loop& loop, std::unique_lock<std::mutex>& lock);
  [[nodiscard]] Loop* open_loop() const;

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  State state_ = State::Nobody;
  std::vector<Loop*> loops_;  // that are under way, the innermost last
};

}  // namespace quantfit::optimizer

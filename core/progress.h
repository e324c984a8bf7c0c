// How long work tells its caller where it stands, and how the caller tells it to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace quantfit {

// Receives progress from worker threads: implementations must be safe to call from any thread.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // A phase of `total` units of work begins ("sampling", weights).
  virtual void begin(std::string_view phase, std::uint64_t total) = 0;
  // `done` more units were finished; `what` names the tensor at hand.
  virtual void advance(std::uint64_t done, std::string_view what) = 0;
  virtual void end() = 0;
  // What was found out about `what` is on disk now, and no later failure takes it away.
  virtual void saved(std::string_view /*what*/) {}
};

// Swallows everything.
class NoProgress final : public ProgressSink {
 public:
  void begin(std::string_view, std::uint64_t) override {}
  void advance(std::uint64_t, std::string_view) override {}
  void end() override {}
};

// A phase that ends on every way out. `progress` must outlive it.
class ProgressPhase {
 public:
  ProgressPhase(ProgressSink& progress, std::string_view name, std::uint64_t total) : progress_(progress) {
    progress_.begin(name, total);
  }
  ~ProgressPhase() { progress_.end(); }
  ProgressPhase(const ProgressPhase&) = delete;
  ProgressPhase& operator=(const ProgressPhase&) = delete;

 private:
  ProgressSink& progress_;
};

// Set once, from a signal handler too; read by every worker between rows.
class CancellationToken {
 public:
  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_{false};
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may set it");
};

}  // namespace quantfit

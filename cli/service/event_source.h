// Where streams of events get them from.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace quantfit::service {

// Used by the thread of the sockets alone.
class EventSource {
 public:
  struct Batch {
    std::string text;        // of server-sent events, whole ones; empty: there are none now
    std::uint64_t last = 0;  // number of the last one in it
    bool over = false;       // nothing will follow
  };
  using Waiter = std::uint64_t;

  virtual ~EventSource() = default;
  // Events of a job behind `after`, about 64 KiB at most.
  virtual Batch read(const std::string& job, std::uint64_t after) = 0;
  // Calls `ready` once, when a job has something new or is over; not before this returns.
  virtual Waiter wait(const std::string& job, std::function<void()> ready) = 0;
  virtual void stop_waiting(const std::string& job, Waiter waiter) = 0;
};

}  // namespace quantfit::service

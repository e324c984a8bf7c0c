// What happens to jobs, kept on disk and handed to streams. An event is shown only once it is stored, so that
// no number is ever given twice, whatever happens to the service.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cli/service/event_source.h"
#include "cli/service/job_store.h"
#include "core/log.h"

namespace quantfit::service {

class EventLog final : public EventSource {
 public:
  EventLog(boost::asio::io_context& io, JobStore& store, Logger& logger)
      : timer_(io), store_(store), logger_(logger) {}

  // A job is at work: more events will come.
  void open(const std::string& job);
  // Stored within a tenth of a second, or up to a whole one where many streams wait. `data` is JSON on one
  // line.
  void add(const std::string& job, std::string name, std::string data);
  // Nothing more will come; what was added is stored now.
  void close(const std::string& job);
  // Forgets a job whose events were removed.
  void forget(const std::string& job);
  // Stores what was added.
  void flush();
  // The number of the last event that is stored.
  [[nodiscard]] std::uint64_t last(const std::string& job);

  Batch read(const std::string& job, std::uint64_t after) override;
  Waiter wait(const std::string& job, std::function<void()> ready) override;
  void stop_waiting(const std::string& job, Waiter waiter) override;

 private:
  struct Shown {
    std::int64_t number;
    std::string text;  // as a stream has it
  };
  struct Stream {
    bool open = false;
    std::int64_t last = 0;     // given
    std::int64_t stored = 0;   // shown
    std::deque<Shown> recent;  // without gaps, up to `stored`
    std::map<Waiter, std::function<void()>> waiting;
  };
  void wake(Stream& stream);
  void tidy(const std::string& job);

  boost::asio::steady_timer timer_;
  JobStore& store_;
  Logger& logger_;
  std::map<std::string, Stream> streams_;
  std::vector<JobEvent> pending_;
  std::size_t waiting_ = 0;  // waiters of all streams
  Waiter next_waiter_ = 1;
  bool armed_ = false;
};

}  // namespace quantfit::service

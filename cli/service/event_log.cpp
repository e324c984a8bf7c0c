#include "cli/service/event_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace quantfit::service {
namespace {

// One transaction, and one piece of every stream, takes all events of this time: longer the more streams
// there are, so that a crowd of watchers takes no time worth speaking of from the job that it watches.
constexpr std::chrono::microseconds kDelay{100'000}, kDelayPerStream{700}, kLongestDelay{1'000'000};
constexpr std::size_t kMostRecent = 256;
constexpr std::uint64_t kRowsAtATime = 256;
constexpr std::size_t kMostBytes = std::size_t{64} << 10;

std::string stream_text(const JobEvent& event) {
  return fmt::format("id: {}\nevent: {}\ndata: {}\n\n", event.number, event.name, event.data);
}

}  // namespace

void EventLog::open(const std::string& job) {
  Stream& stream = streams_[job];
  if (stream.open) return;
  stream.open = true;
  if (const auto last = store_.last_event(job)) stream.last = stream.stored = last.value();
  stream.recent.clear();
}

void EventLog::add(const std::string& job, std::string name, std::string data) {
  Stream& stream = streams_[job];
  pending_.push_back({job, ++stream.last, std::move(name), std::move(data)});
  if (std::exchange(armed_, true)) return;
  const auto streams = static_cast<std::chrono::microseconds::rep>(waiting_);
  timer_.expires_after(std::min(kDelay + kDelayPerStream * streams, kLongestDelay));
  timer_.async_wait([this](boost::system::error_code stopped) {
    armed_ = false;
    if (!stopped) flush();
  });
}

void EventLog::flush() {
  if (pending_.empty()) return;
  const std::vector<JobEvent> events = std::exchange(pending_, {});
  // A full disk takes the past away from streams that break off, and not the present from those that listen.
  if (auto stored = store_.add_events(events); !stored)
    logger_.log(LogLevel::Warning, "events of jobs are not kept: " + stored.error().message);
  std::map<std::string, bool> changed;
  for (const JobEvent& event : events) {
    Stream& stream = streams_[event.job];
    stream.stored = event.number;
    stream.recent.push_back({event.number, stream_text(event)});
    if (stream.recent.size() > kMostRecent) stream.recent.pop_front();
    changed[event.job] = true;
  }
  for (const auto& [job, yes] : changed)
    if (const auto stream = streams_.find(job); stream != streams_.end()) wake(stream->second);
}

void EventLog::wake(Stream& stream) {
  const auto waiting = std::exchange(stream.waiting, {});
  waiting_ -= waiting.size();
  for (const auto& [waiter, ready] : waiting) ready();
}

void EventLog::close(const std::string& job) {
  flush();
  const auto found = streams_.find(job);
  if (found == streams_.end()) return;
  found->second.open = false;
  wake(found->second);
  tidy(job);
}

void EventLog::forget(const std::string& job) {
  const auto found = streams_.find(job);
  if (found == streams_.end()) return;
  wake(found->second);
  streams_.erase(job);
}

// What is over is read from the file.
void EventLog::tidy(const std::string& job) {
  const auto found = streams_.find(job);
  if (found != streams_.end() && !found->second.open && found->second.waiting.empty()) streams_.erase(found);
}

std::uint64_t EventLog::last(const std::string& job) {
  if (const auto found = streams_.find(job); found != streams_.end() && found->second.open)
    return static_cast<std::uint64_t>(found->second.stored);
  const auto last = store_.last_event(job);
  return last ? static_cast<std::uint64_t>(last.value()) : 0;
}

EventSource::Batch EventLog::read(const std::string& job, std::uint64_t after) {
  Batch batch;
  batch.last = after;
  const auto number = static_cast<std::int64_t>(after);
  const auto found = streams_.find(job);
  const bool open = found != streams_.end() && found->second.open;
  if (open) {
    const Stream& stream = found->second;
    if (number >= stream.stored) return batch;
    if (!stream.recent.empty() && number + 1 >= stream.recent.front().number) {
      for (const Shown& shown : stream.recent) {
        if (shown.number <= number) continue;
        if (batch.text.size() > kMostBytes) break;
        batch.text += shown.text;
        batch.last = static_cast<std::uint64_t>(shown.number);
      }
      return batch;
    }
  }
  const auto rows = store_.events(job, number, kRowsAtATime);
  if (rows)
    for (const JobEvent& event : rows.value()) {
      if (batch.text.size() > kMostBytes) break;
      batch.text += stream_text(event);
      batch.last = static_cast<std::uint64_t>(event.number);
    }
  batch.over = batch.text.empty() && !open;
  return batch;
}

EventSource::Waiter EventLog::wait(const std::string& job, std::function<void()> ready) {
  streams_[job].waiting[next_waiter_] = std::move(ready);
  ++waiting_;
  return next_waiter_++;
}

void EventLog::stop_waiting(const std::string& job, Waiter waiter) {
  if (const auto found = streams_.find(job); found != streams_.end()) {
    waiting_ -= found->second.waiting.erase(waiter);
    tidy(job);
  }
}

}  // namespace quantfit::service

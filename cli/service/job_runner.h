// Jobs: what is asked for goes into the queue on disk, and from there one after the other into processes of
// their own. The state file of a model is used by one job at a time.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/service/event_log.h"
#include "cli/service/job_store.h"
#include "cli/service/results.h"
#include "cli/service/roots.h"
#include "core/log.h"

namespace quantfit::service {

// What the jobs share out among them.
struct JobShares {
  unsigned jobs = 1;               // at a time
  unsigned threads = 1;            // of each
  std::uint64_t memory_bytes = 0;  // of each, for running a model; 0: no limit
};

// The words behind "quantfit" that do what the job does.
[[nodiscard]] std::vector<std::string> job_words(const JobRecord& job);

// Thread of the sockets alone.
class JobRunner {
 public:
  JobRunner(boost::asio::io_context& io, JobStore& store, EventLog& events, const Roots& roots,
            Logger& logger, JobShares shares, int lock);
  ~JobRunner();

  // Takes up what was under way when the service ended, and begins to work. Errors of the store.
  [[nodiscard]] Result<void> start();
  // Interrupts what runs, which goes on after the next start; `ended` is called when no process is left.
  void stop(std::function<void()> ended);

  struct Created {
    nlohmann::ordered_json job;
    bool before = false;  // by an earlier request with the same key
  };
  // `body`: {"command": ..., "options": {...}}. KeyReused where the key made another job; what read_options()
  // refuses.
  [[nodiscard]] Answer<Created> create(const std::string& body, const std::string& key);
  [[nodiscard]] Answer<nlohmann::ordered_json> show(const std::string& id);
  [[nodiscard]] Answer<nlohmann::ordered_json> list(const std::string& status, const std::string& before,
                                                    const std::string& limit);
  // Conflict where the job is in no state for it.
  [[nodiscard]] Answer<nlohmann::ordered_json> cancel(const std::string& id);
  [[nodiscard]] Answer<nlohmann::ordered_json> retry(const std::string& id);
  [[nodiscard]] Answer<void> remove(const std::string& id);

  [[nodiscard]] Answer<nlohmann::ordered_json> results(const std::string& id);
  [[nodiscard]] Answer<Response> result(const std::string& id, const std::string& name,
                                        const Request& request);
  [[nodiscard]] std::map<std::string, std::uint64_t> counts();

 private:
  struct Running;

  [[nodiscard]] Answer<JobRecord> find(const std::string& id);
  using Places = std::map<std::string, std::size_t>;  // of queued jobs, 1 is next
  [[nodiscard]] Places places();
  [[nodiscard]] nlohmann::ordered_json to_json(const JobRecord& job) { return to_json(job, places()); }
  [[nodiscard]] nlohmann::ordered_json to_json(const JobRecord& job, const Places& places);
  [[nodiscard]] nlohmann::ordered_json progress_of(
      const std::string& id) const;  // null where it does not run
  void tell(const JobRecord& job);   // an event about the job itself
  void fill();                       // starts as many as may run
  [[nodiscard]] Result<void> launch(JobRecord job);
  void read(const std::shared_ptr<Running>& running, bool out);
  void take_line(Running& running, std::string_view line);
  void wait_for_children();
  void reap();
  void finish_if_ended(const std::shared_ptr<Running>& running);
  void finish(Running& running);
  void interrupt(Running& running);
  void warn(const Error& error);

  boost::asio::io_context& io_;
  JobStore& store_;
  EventLog& events_;
  const Roots& roots_;
  Logger& logger_;
  JobShares shares_;
  int lock_;
  boost::asio::signal_set children_;
  std::map<std::string, std::shared_ptr<Running>> running_;
  std::function<void()> ended_;
  bool stopping_ = false;
};

}  // namespace quantfit::service

// The queue and the history of jobs in one SQLite file: what is in it survives whatever happens to the
// service.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "state/sqlite.h"

namespace quantfit::service {

enum class JobStatus { Queued, Running, Done, Failed, Cancelled };
[[nodiscard]] std::string_view to_string(JobStatus status);  // "queued"
[[nodiscard]] std::optional<JobStatus> parse_job_status(std::string_view text);

struct JobRecord {
  std::string id;             // 16 hexadecimal digits
  std::int64_t sequence = 0;  // ascending in the order of creation; given by insert()
  std::string command;        // "quantize"
  std::string given;          // options as they came, JSON
  std::string options;        // options as they are passed on, JSON
  std::string outputs;        // JSON array of pairs: option, name of a file in the folder
  std::string state;          // ROOT/PATH of the state file
  std::string folder;         // ROOT/PATH of what it makes; empty: it makes no files
  JobStatus status = JobStatus::Queued;
  bool stopping = false;   // a cancellation that was asked for
  std::int64_t place = 0;  // in the queue: the lowest is next; given by insert() and requeue()
  std::int64_t created = 0, started = 0, finished = 0;  // seconds since 1970; 0: not yet
  std::int64_t attempts = 0;
  std::optional<std::int64_t> exit_status;
  std::string problem;             // a problem document; empty: none
  std::uint64_t answer_bytes = 0;  // of the document that the command printed

  [[nodiscard]] bool is_over() const { return status != JobStatus::Queued && status != JobStatus::Running; }
};

struct JobEvent {
  std::string job;
  std::int64_t number = 0;  // ascending within the job, from 1
  std::string name;         // "progress"
  std::string data;         // JSON on one line
};

// Thread of the sockets alone. Errors are those of state/sqlite.h.
class JobStore {
 public:
  // Unsupported for a file of a newer program, Malformed for one of others.
  [[nodiscard]] static Result<JobStore> open(const std::filesystem::path& path);

  // At the end of the queue. `key` may be empty; InvalidArgument never: look with by_key() first.
  [[nodiscard]] Result<void> insert(JobRecord& job, const std::string& key, const std::string& digest);
  [[nodiscard]] Result<std::optional<JobRecord>> find(const std::string& id);
  struct Keyed {
    std::string job;
    std::string digest;  // of the body that made it
  };
  [[nodiscard]] Result<std::optional<Keyed>> by_key(const std::string& key);
  // Newest first.
  [[nodiscard]] Result<std::vector<JobRecord>> list(std::optional<JobStatus> status, std::int64_t before,
                                                    std::uint64_t limit);
  // Queued and running ones, in the order of the queue.
  [[nodiscard]] Result<std::vector<JobRecord>> unfinished();
  [[nodiscard]] Result<std::map<std::string, std::uint64_t>> counts();

  // Everything but what never changes. `answer`: the document that the command printed; nothing: as it was.
  [[nodiscard]] Result<void> update(const JobRecord& job, const std::optional<std::string>& answer = {});
  // The same, at the end of the queue.
  [[nodiscard]] Result<void> requeue(JobRecord& job);
  // With its events.
  [[nodiscard]] Result<void> remove(const std::string& id);
  [[nodiscard]] Result<std::string> answer(const std::string& id);

  // All or none. Of events named progress only the latest of each job stays.
  [[nodiscard]] Result<void> add_events(std::span<const JobEvent> events);
  [[nodiscard]] Result<std::vector<JobEvent>> events(const std::string& job, std::int64_t after,
                                                     std::uint64_t limit);
  [[nodiscard]] Result<std::int64_t> last_event(const std::string& job);

 private:
  explicit JobStore(state::Database database) : database_(std::move(database)) {}
  state::Database database_;
};

}  // namespace quantfit::service

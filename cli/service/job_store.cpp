#include "cli/service/job_store.h"

#include <utility>

namespace quantfit::service {
namespace {

using state::Database;
using state::Statement;
using state::Transaction;

// "qfsv"
constexpr std::int64_t kApplication = 0x71667376;
constexpr std::int64_t kVersion = 1;

constexpr std::pair<JobStatus, std::string_view> kStatuses[] = {{JobStatus::Queued, "queued"},
                                                                {JobStatus::Running, "running"},
                                                                {JobStatus::Done, "done"},
                                                                {JobStatus::Failed, "failed"},
                                                                {JobStatus::Cancelled, "cancelled"}};

constexpr state::Sql kSchema =
    "CREATE TABLE job (sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, command TEXT NOT "
    "NULL,"
    " given TEXT NOT NULL, options TEXT NOT NULL, outputs TEXT NOT NULL, state TEXT NOT NULL, folder TEXT "
    "NOT NULL,"
    " status TEXT NOT NULL, stopping INTEGER NOT NULL, place INTEGER NOT NULL, created INTEGER NOT NULL,"
    " started INTEGER NOT NULL, finished INTEGER NOT NULL, attempts INTEGER NOT NULL, exit_status INTEGER,"
    " problem TEXT NOT NULL, answer TEXT NOT NULL, answer_bytes INTEGER NOT NULL DEFAULT 0, key TEXT UNIQUE, "
    "digest TEXT NOT NULL) STRICT;"
    "CREATE INDEX job_status ON job (status, place);"
    "CREATE TABLE event (job TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL,"
    " PRIMARY KEY (job, number)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX event_progress ON event (job, number) WHERE name = 'progress';"
    "PRAGMA application_id = 1902539638;"
    "PRAGMA user_version = 1;";
static_assert(kApplication == 1902539638);

#define QF_JOB_COLUMNS                                                                                \
  "sequence, id, command, given, options, outputs, state, folder, status, stopping, place, created, " \
  "started, "                                                                                         \
  "finished, attempts, exit_status, problem, answer_bytes"

JobRecord record_of(Statement& row) {
  JobRecord job;
  job.sequence = row.integer(0);
  job.id = row.text(1);
  job.command = row.text(2);
  job.given = row.text(3);
  job.options = row.text(4);
  job.outputs = row.text(5);
  job.state = row.text(6);
  job.folder = row.text(7);
  job.status = parse_job_status(row.text(8)).value_or(JobStatus::Failed);
  job.stopping = row.integer(9) != 0;
  job.place = row.integer(10);
  job.created = row.integer(11);
  job.started = row.integer(12);
  job.finished = row.integer(13);
  job.attempts = row.integer(14);
  if (!row.is_null(15)) job.exit_status = row.integer(15);
  job.problem = row.text(16);
  job.answer_bytes = row.unsigned_integer(17);
  return job;
}

Result<std::vector<JobRecord>> records_of(Statement& statement) {
  std::vector<JobRecord> jobs;
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    jobs.push_back(record_of(statement));
  }
  QF_TRY(statement.finish());
  return jobs;
}

// The only number of a statement's only row; 0 without one.
Result<std::int64_t> number_of(Statement& statement) {
  QF_ASSIGN(const bool row, statement.step());
  const std::int64_t number = row ? statement.integer(0) : 0;
  QF_TRY(statement.finish());
  return number;
}

Result<std::int64_t> number_of(Database& database, state::Sql sql) {
  QF_ASSIGN(auto statement, Statement::prepare(database, sql));
  return number_of(statement);
}

Result<std::int64_t> next_place(Database& database) {
  return number_of(database, "SELECT COALESCE(MAX(place), 0) + 1 FROM job");
}

}  // namespace

std::string_view to_string(JobStatus status) {
  for (const auto& [one, name] : kStatuses)
    if (one == status) return name;
  return "failed";
}

std::optional<JobStatus> parse_job_status(std::string_view text) {
  for (const auto& [status, name] : kStatuses)
    if (name == text) return status;
  return std::nullopt;
}

Result<JobStore> JobStore::open(const std::filesystem::path& path) {
  QF_ASSIGN(Database database, Database::open(path, state::Access::ReadWrite));
  QF_ASSIGN(const std::int64_t application, number_of(database, "PRAGMA application_id"));
  QF_ASSIGN(const std::int64_t version, number_of(database, "PRAGMA user_version"));
  QF_ASSIGN(const std::int64_t tables, number_of(database, "SELECT COUNT(*) FROM sqlite_schema"));
  if (tables != 0 && application != kApplication)
    return fail(ErrorCode::Malformed, "{}: the file is no queue of quantfit's service", path.string());
  if (tables != 0 && version > kVersion)
    return fail(ErrorCode::Unsupported, "{}: written by a newer version of the program", path.string());
  QF_TRY(database.use_write_ahead_log());
  if (tables == 0) {
    QF_ASSIGN(auto transaction, Transaction::begin_write(database));
    QF_TRY(database.execute(kSchema));
    QF_TRY(transaction.commit());
  }
  return JobStore(std::move(database));
}

Result<void> JobStore::insert(JobRecord& job, const std::string& key, const std::string& digest) {
  QF_ASSIGN(auto transaction, Transaction::begin_write(database_));
  QF_ASSIGN(job.place, next_place(database_));
  {
    QF_ASSIGN(auto insertion,
              Statement::prepare(
                  database_,
                  "INSERT INTO job (id, command, given, options, outputs, state, folder, status, "
                  "stopping, place, created, started, finished, attempts, exit_status, problem, answer, "
                  "key, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, 0, 0, NULL, '', '', ?, ?)"));
    QF_TRY(insertion.run(job.id, job.command, job.given, job.options, job.outputs, job.state, job.folder,
                         to_string(job.status), job.place, job.created,
                         key.empty() ? std::optional<std::string>() : std::optional(key), digest));
  }
  job.sequence = database_.last_insert_rowid();
  return transaction.commit();
}

Result<std::optional<JobRecord>> JobStore::find(const std::string& id) {
  QF_ASSIGN(auto statement, Statement::prepare(database_, "SELECT " QF_JOB_COLUMNS " FROM job WHERE id = ?"));
  QF_TRY(statement.bind(id));
  QF_ASSIGN(std::vector<JobRecord> jobs, records_of(statement));
  if (jobs.empty()) return std::optional<JobRecord>();
  return std::optional(std::move(jobs.front()));
}

Result<std::optional<JobStore::Keyed>> JobStore::by_key(const std::string& key) {
  QF_ASSIGN(auto statement, Statement::prepare(database_, "SELECT id, digest FROM job WHERE key = ?"));
  QF_TRY(statement.bind(key));
  QF_ASSIGN(const bool row, statement.step());
  std::optional<Keyed> keyed;
  if (row) keyed = Keyed{statement.text(0), statement.text(1)};
  QF_TRY(statement.finish());
  return keyed;
}

Result<std::vector<JobRecord>> JobStore::list(std::optional<JobStatus> status, std::int64_t before,
                                              std::uint64_t limit) {
  QF_ASSIGN(
      auto statement,
      Statement::prepare(database_, "SELECT " QF_JOB_COLUMNS
                                    " FROM job WHERE (?1 = '' OR status = ?1) AND (?2 = 0 OR sequence < ?2) "
                                    "ORDER BY sequence DESC LIMIT ?3"));
  QF_TRY(statement.bind(status ? to_string(*status) : std::string_view(), before, limit));
  return records_of(statement);
}

Result<std::vector<JobRecord>> JobStore::unfinished() {
  QF_ASSIGN(auto statement,
            Statement::prepare(database_, "SELECT " QF_JOB_COLUMNS
                                          " FROM job WHERE status IN ('queued', 'running') ORDER BY place"));
  return records_of(statement);
}

Result<std::map<std::string, std::uint64_t>> JobStore::counts() {
  QF_ASSIGN(
      auto statement,
      Statement::prepare(database_, "SELECT status, COUNT(*) FROM job GROUP BY status ORDER BY status"));
  std::map<std::string, std::uint64_t> counts;
  for (const auto& [status, name] : kStatuses) counts[std::string(name)] = 0;
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    counts[statement.text(0)] = statement.unsigned_integer(1);
  }
  QF_TRY(statement.finish());
  return counts;
}

Result<void> JobStore::update(const JobRecord& job, const std::optional<std::string>& answer) {
  QF_ASSIGN(
      auto statement,
      Statement::prepare(database_,
                         "UPDATE job SET status = ?, stopping = ?, place = ?, started = ?, finished = ?, "
                         "attempts = ?, exit_status = ?, problem = ?, answer = COALESCE(?, answer), "
                         "answer_bytes = COALESCE(?, answer_bytes) WHERE id = ?"));
  return statement.run(to_string(job.status), job.stopping, job.place, job.started, job.finished,
                       job.attempts, job.exit_status, job.problem, answer,
                       answer ? std::optional<std::uint64_t>(answer->size()) : std::nullopt, job.id);
}

Result<void> JobStore::requeue(JobRecord& job) {
  QF_ASSIGN(auto transaction, Transaction::begin_write(database_));
  QF_ASSIGN(job.place, next_place(database_));
  QF_TRY(update(job, ""));
  return transaction.commit();
}

Result<void> JobStore::remove(const std::string& id) {
  QF_ASSIGN(auto transaction, Transaction::begin_write(database_));
  {
    QF_ASSIGN(auto events, Statement::prepare(database_, "DELETE FROM event WHERE job = ?"));
    QF_TRY(events.run(id));
    QF_ASSIGN(auto job, Statement::prepare(database_, "DELETE FROM job WHERE id = ?"));
    QF_TRY(job.run(id));
  }
  return transaction.commit();
}

Result<std::string> JobStore::answer(const std::string& id) {
  QF_ASSIGN(auto statement, Statement::prepare(database_, "SELECT answer FROM job WHERE id = ?"));
  QF_TRY(statement.bind(id));
  QF_ASSIGN(const bool row, statement.step());
  std::string text = row ? statement.text(0) : std::string();
  QF_TRY(statement.finish());
  return text;
}

Result<void> JobStore::add_events(std::span<const JobEvent> events) {
  QF_ASSIGN(auto transaction, Transaction::begin_write(database_));
  {
    QF_ASSIGN(auto outdated,
              Statement::prepare(database_, "DELETE FROM event WHERE job = ? AND name = 'progress'"));
    QF_ASSIGN(
        auto insertion,
        Statement::prepare(database_, "INSERT INTO event (job, number, name, data) VALUES (?, ?, ?, ?)"));
    for (const JobEvent& event : events) {
      if (event.name == "progress") QF_TRY(outdated.run(event.job));
      QF_TRY(insertion.run(event.job, event.number, event.name, event.data));
    }
  }
  return transaction.commit();
}

Result<std::vector<JobEvent>> JobStore::events(const std::string& job, std::int64_t after,
                                               std::uint64_t limit) {
  QF_ASSIGN(auto statement,
            Statement::prepare(
                database_,
                "SELECT number, name, data FROM event WHERE job = ? AND number > ? ORDER BY number LIMIT ?"));
  QF_TRY(statement.bind(job, after, limit));
  std::vector<JobEvent> events;
  while (true) {
    QF_ASSIGN(const bool row, statement.step());
    if (!row) break;
    events.push_back({job, statement.integer(0), statement.text(1), statement.text(2)});
  }
  QF_TRY(statement.finish());
  return events;
}

Result<std::int64_t> JobStore::last_event(const std::string& job) {
  QF_ASSIGN(auto statement,
            Statement::prepare(database_, "SELECT COALESCE(MAX(number), 0) FROM event WHERE job = ?"));
  QF_TRY(statement.bind(job));
  return number_of(statement);
}

}  // namespace quantfit::service

#include "cli/service/job_runner.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <ctime>
#include <optional>
#include <set>
#include <utility>

#include "cli/exit_code.h"
#include "cli/report/json.h"
#include "cli/service/child.h"
#include "cli/service/command_options.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

namespace asio = boost::asio;
using Json = nlohmann::ordered_json;

// A job that was asked to stop has this long before it is killed: nothing is lost by that but the rows at
// hand.
constexpr std::chrono::milliseconds kGrace{700};
constexpr std::size_t kMostAnswerBytes = std::size_t{64} << 20;
constexpr std::size_t kLongestLine = std::size_t{64} << 10;

std::int64_t now() {
  return static_cast<std::int64_t>(std::time(nullptr));
}

Problem ended_by(int signal_number) {
  return problem(ProblemKind::Internal,
                 fmt::format("the job's process was ended by signal {}", signal_number),
                 signal_number == SIGKILL
                     ? "the system does so when memory runs out; what was measured is kept: retry goes on"
                     : "what was measured is kept: retry goes on");
}

// `publish` knows which files of its folder are finished and right.
bool continues_in_its_folder(std::string_view command) {
  return command == "publish";
}

// The kind of problem that an event of the kind "error" names by its code.
ProblemKind kind_of_code(const std::string& code) {
  for (const ErrorCode one : {ErrorCode::InvalidArgument, ErrorCode::Io, ErrorCode::NoSpace,
                              ErrorCode::Malformed, ErrorCode::Unsupported, ErrorCode::ShapeMismatch,
                              ErrorCode::IdentityMismatch, ErrorCode::Infeasible, ErrorCode::Interrupted})
    if (quantfit::to_string(one) == code) return problem_of(Error{one, ""}).kind;
  return ProblemKind::Internal;
}

}  // namespace

std::vector<std::string> job_words(const JobRecord& job) {
  CommandOptions options;
  options.command = job.command;
  options.options = Json::parse(job.options, nullptr, false);
  std::vector<std::string> words = words_of(options);
  for (const Json& output : Json::parse(job.outputs, nullptr, false)) {
    words.push_back(output[0].get<std::string>());
    const std::string name = output[1];
    words.push_back(name.empty() ? job.folder : job.folder + '/' + name);
  }
  return words;
}

struct JobRunner::Running {
  Running(asio::io_context& io, JobRecord own) : job(std::move(own)), out(io), err(io), grace(io) {}

  JobRecord job;
  pid_t process = -1;
  asio::posix::stream_descriptor out, err;
  std::array<char, 16384> out_buffer{}, err_buffer{};
  asio::steady_timer grace;
  std::string answer;     // what it printed
  std::string line;       // of an event, not whole yet
  bool skipping = false;  // the rest of a line that is too long
  int open_ends = 2;
  std::optional<int> status;  // as waitpid() tells it
  Json progress;              // the last event of that name; null before
  std::optional<Problem> trouble;
};

JobRunner::JobRunner(asio::io_context& io, JobStore& store, EventLog& events, const Roots& roots,
                     Logger& logger, JobShares shares, int lock)
    : io_(io),
      store_(store),
      events_(events),
      roots_(roots),
      logger_(logger),
      shares_(shares),
      lock_(lock),
      children_(io, SIGCHLD) {}

JobRunner::~JobRunner() = default;

void JobRunner::warn(const Error& error) {
  logger_.log(LogLevel::Warning, error.message);
}

Result<void> JobRunner::start() {
  wait_for_children();
  QF_ASSIGN(std::vector<JobRecord> jobs, store_.unfinished());
  for (JobRecord& job : jobs) {
    events_.open(job.id);
    if (job.status != JobStatus::Running) continue;
    job.status = job.stopping ? JobStatus::Cancelled : JobStatus::Queued;
    if (job.stopping) job.finished = now();
    job.stopping = false;
    QF_TRY(store_.update(job));
    tell(job);
    if (job.is_over()) events_.close(job.id);
  }
  fill();
  return outcome::success();
}

void JobRunner::stop(std::function<void()> ended) {
  stopping_ = true;
  ended_ = std::move(ended);
  for (const auto& [id, running] : running_) interrupt(*running);
  if (running_.empty()) {
    children_.cancel();
    events_.flush();
    ended_();
  }
}

Json JobRunner::progress_of(const std::string& id) const {
  const auto running = running_.find(id);
  return running == running_.end() ? Json() : running->second->progress;
}

void JobRunner::tell(const JobRecord& job) {
  events_.open(job.id);
  std::string text = cli::line_text(to_json(job));
  text.pop_back();
  events_.add(job.id, "job", std::move(text));
}

Answer<Json> JobRunner::cancel(const std::string& id) {
  QF_ASSIGN(JobRecord job, find(id));
  if (job.is_over())
    return problem(ProblemKind::Conflict, fmt::format("the job is {} already", to_string(job.status)));
  if (job.status == JobStatus::Queued) {
    job.status = JobStatus::Cancelled;
    job.finished = now();
    QF_ANSWER_TRY(store_.update(job));
    tell(job);
    events_.close(job.id);
    return to_json(job);
  }
  const auto running = running_.find(id);
  if (running == running_.end()) return problem(ProblemKind::Internal, "the job has no process");
  if (!job.stopping) {
    running->second->job.stopping = job.stopping = true;
    QF_ANSWER_TRY(store_.update(job));
    tell(job);
    interrupt(*running->second);
  }
  return to_json(job);
}

Answer<Json> JobRunner::retry(const std::string& id) {
  QF_ASSIGN(JobRecord job, find(id));
  if (job.status != JobStatus::Failed && job.status != JobStatus::Cancelled)
    return problem(ProblemKind::Conflict,
                   fmt::format("the job is {}: there is nothing to do again", to_string(job.status)));
  job.status = JobStatus::Queued;
  job.stopping = false;
  job.finished = 0;
  job.exit_status.reset();
  job.problem.clear();
  job.answer_bytes = 0;
  QF_ANSWER_TRY(store_.requeue(job));
  tell(job);
  fill();
  return show(id);
}

void JobRunner::fill() {
  if (stopping_) return;
  const auto jobs = store_.unfinished();
  if (!jobs) return warn(jobs.error());
  std::set<std::string> states;
  for (const auto& [id, running] : running_)
    if (!running->job.state.empty()) states.insert(running->job.state);
  for (const JobRecord& job : jobs.value()) {
    if (running_.size() >= shares_.jobs) return;
    // Whoever waits for a state file keeps its place: the next job of the same model finds what this one
    // measured.
    if (job.status != JobStatus::Queued || (!job.state.empty() && !states.insert(job.state).second)) continue;
    if (auto launched = launch(job); !launched) {
      warn(launched.error());
      return;
    }
  }
}

Result<void> JobRunner::launch(JobRecord job) {
  std::vector<std::string> words = job_words(job);
  for (const char* word : {"--progress", "json", "--json"}) words.emplace_back(word);
  if (!job.folder.empty() && job.attempts > 0 && !continues_in_its_folder(job.command)) {
    // What is in the job's own folder is from an attempt that was cut off.
    const auto name = roots_.parse(job.folder);
    if (name && roots_.remove_folder(*name.value().root, name.value().path))
      (void)roots_.make_folder(*name.value().root, name.value().path);
  }
  job.status = JobStatus::Running;
  job.started = now();
  ++job.attempts;
  QF_TRY(store_.update(job));
  auto child = start_child(words, lock_);
  if (!child) {
    job.status = JobStatus::Failed;
    job.finished = now();
    job.problem = service::to_json(problem_of(child.error())).dump();
    QF_TRY(store_.update(job));
    tell(job);
    events_.close(job.id);
    return outcome::success();
  }
  auto running = std::make_shared<Running>(io_, std::move(job));
  running->process = child.value().process;
  running->out.assign(child.value().out.release());
  running->err.assign(child.value().err.release());
  running_[running->job.id] = running;
  tell(running->job);
  read(running, true);
  read(running, false);
  return outcome::success();
}

void JobRunner::read(const std::shared_ptr<Running>& running, bool out) {
  auto& stream = out ? running->out : running->err;
  auto& buffer = out ? running->out_buffer : running->err_buffer;
  stream.async_read_some(
      asio::buffer(buffer), [this, running, out](boost::system::error_code error, std::size_t count) {
        const std::string_view text((out ? running->out_buffer : running->err_buffer).data(), count);
        if (out) {
          if (running->answer.size() + count <= kMostAnswerBytes) running->answer += text;
        } else {
          std::string_view rest = text;
          while (!rest.empty()) {
            const std::size_t end = std::min(rest.find('\n'), rest.size());
            if (running->line.size() + end > kLongestLine) running->skipping = true;
            if (!running->skipping) running->line += rest.substr(0, end);
            if (end == rest.size()) break;
            if (!running->skipping) take_line(*running, running->line);
            running->line.clear();
            running->skipping = false;
            rest.remove_prefix(end + 1);
          }
        }
        if (!error) return read(running, out);
        --running->open_ends;
        finish_if_ended(running);
      });
}

// A line of --progress json. What else a process may write there (a library's last words) is a message.
void JobRunner::take_line(Running& running, std::string_view line) {
  Json event = Json::parse(line, nullptr, false);
  if (!event.is_object() || !event.contains("event") || !event["event"].is_string()) {
    if (line.empty()) return;
    event = {{"event", "message"}, {"level", "warning"}, {"text", to_utf8(line)}};
  }
  const std::string name = event["event"];
  if (name == "progress") running.progress = event;
  if (name == "error" && event.contains("text") && event["text"].is_string())
    running.trouble = problem(kind_of_code(event.value("code", "")), event["text"]);
  std::string text = cli::line_text(event);
  text.pop_back();
  const bool plain = name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos;
  events_.add(running.job.id, plain ? name : "message", std::move(text));
}

void JobRunner::wait_for_children() {
  children_.async_wait([this](boost::system::error_code error, int /*number*/) {
    if (error) return;
    wait_for_children();
    reap();
  });
}

void JobRunner::reap() {
  const auto all = running_;
  for (const auto& [id, running] : all) {
    int status = 0;
    if (running->status || waitpid(running->process, &status, WNOHANG) != running->process) continue;
    running->status = status;
    finish_if_ended(running);
  }
}

void JobRunner::interrupt(Running& running) {
  if (running.status) return;
  kill(running.process, SIGINT);
  running.grace.expires_after(kGrace);
  running.grace.async_wait([this, id = running.job.id](boost::system::error_code stopped) {
    const auto found = running_.find(id);
    if (!stopped && found != running_.end() && !found->second->status) kill(found->second->process, SIGKILL);
  });
}

void JobRunner::finish_if_ended(const std::shared_ptr<Running>& running) {
  if (running->open_ends != 0 || !running->status) return;
  running->grace.cancel();
  finish(*running);
  running_.erase(running->job.id);
  if (!stopping_) return fill();
  if (running_.empty() && ended_) {
    children_.cancel();
    events_.flush();
    ended_();
  }
}

void JobRunner::finish(Running& running) {
  JobRecord& job = running.job;
  const int status = *running.status;
  const bool ended_itself = WIFEXITED(status);
  std::optional<std::string> answer;
  job.exit_status = ended_itself ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  job.finished = now();
  if (job.exit_status == cli::kDone) {
    job.status = JobStatus::Done;
    answer = std::move(running.answer);
  } else if (job.stopping) {
    job.status = JobStatus::Cancelled;
    job.problem.clear();
  } else if (stopping_) {
    // Interrupted by the end of the service: it goes on after the next start.
    job.status = JobStatus::Queued;
    job.finished = 0;
    job.exit_status.reset();
  } else {
    job.status = JobStatus::Failed;
    if (!running.trouble)
      running.trouble = ended_itself ? problem(ProblemKind::Internal,
                                               fmt::format("the job ended with status {}", *job.exit_status))
                                     : ended_by(WTERMSIG(status));
    job.problem = cli::line_text(service::to_json(*running.trouble));
    if (job.exit_status == cli::kInfeasible) answer = std::move(running.answer);  // says what could be
  }
  job.stopping = false;
  if (answer) job.answer_bytes = answer->size();
  if (auto stored = store_.update(job, answer); !stored) {
    // The queue on disk says that it runs: after the next start it is done again, to the same bytes.
    warn(stored.error());
  }
  running.progress = nullptr;
  tell(job);
  events_.flush();
  if (job.is_over()) events_.close(job.id);
}

}  // namespace quantfit::service

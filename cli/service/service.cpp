#include "cli/service/service.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <latch>
#include <memory>
#include <thread>

#include "cli/service/api.h"
#include "cli/service/server.h"
#include "core/file_util.h"
#include "core/text.h"

namespace quantfit::service {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

constexpr std::uint64_t kLongestTokenFile = std::uint64_t{1} << 20;
constexpr std::string_view kOwnFolder = ".quantfit";
// From the working folder: clients may see this name in a message, and no other of a place outside of the
// roots.
constexpr const char* kQueue = "../service.sqlite";
constexpr int kFirstHandedOver = 3;  // sd_listen_fds(3)
constexpr unsigned kWorkers = 4;
// For jobs to stop and replies to be taken at the end.
constexpr std::chrono::seconds kPatience{5};
constexpr std::chrono::milliseconds kLastReplies{300};
// The processes of a service that was killed are killed by the kernel; they hold the lock until they are
// gone.
constexpr std::chrono::seconds kLockTime{10};
constexpr std::chrono::milliseconds kLockPause{20};

// Workers give way to jobs, which compute for hours: what answers at once takes milliseconds. So much that a
// crowd at sliders slows a job that keeps all cores busy by less than a twentieth, and a slider still follows
// the hand.
constexpr int kNiceOfWorkers = 10;
void give_way(asio::thread_pool& workers) {
  const auto all = std::make_shared<std::latch>(kWorkers);  // so that every one of them takes part
  for (unsigned i = 0; i < kWorkers; ++i)
    asio::post(workers, [all] {
      setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceOfWorkers);
      all->arrive_and_wait();
    });
}

// Connections are descriptors: as many as the system allows.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// A socket that systemd listens on for us; -1: there is none.
int handed_over_socket() {
  const char* const process = std::getenv("LISTEN_PID");
  const char* const count = std::getenv("LISTEN_FDS");
  if (process == nullptr || count == nullptr) return -1;
  const bool ours = std::to_string(getpid()) == process && std::string_view(count) == "1";
  unsetenv("LISTEN_PID");
  unsetenv("LISTEN_FDS");
  if (!ours) return -1;
  fcntl(kFirstHandedOver, F_SETFD, FD_CLOEXEC);
  return kFirstHandedOver;
}

// The folder of the service's own files, absolute.
Result<fs::path> own_folder(const ServiceOptions& options, const Roots& roots) {
  fs::path folder = options.data;
  if (folder.empty()) {
    if (const char* given = std::getenv("STATE_DIRECTORY"); given != nullptr && *given != '\0')
      folder = given;
    else if (const Root* root = roots.writable())
      folder = root->path / kOwnFolder;
    else
      return fail(ErrorCode::InvalidArgument,
                  "--data FOLDER is needed where no root may be written to: the queue is kept in it");
  }
  std::error_code trouble;
  fs::create_directories(folder, trouble);
  if (!trouble) folder = fs::canonical(folder, trouble);
  if (trouble) return fail(ErrorCode::Io, "--data {}: {}", folder.string(), trouble.message());
  return folder;
}

// Held by the service and by its jobs: two services in one folder would run one queue twice. Io.
Result<Descriptor> lock_folder(const fs::path& own) {
  const fs::path path = own / "lock";
  Descriptor lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock.is_open()) return io_error(path, "cannot open", errno);
  const auto deadline = std::chrono::steady_clock::now() + kLockTime;
  while (flock(lock.number(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return io_error(path, "cannot lock", errno);
    if (std::chrono::steady_clock::now() > deadline)
      return fail(ErrorCode::Io, "{}: another service works in this folder; --data names another one",
                  own.string());
    std::this_thread::sleep_for(kLockPause);
  }
  return lock;
}

// Stands for the one that is made when everything else is there.
struct LateHandler final : Handler {
  Handler* handler = nullptr;
  void handle(Request request, std::function<void(Response)> reply) override {
    handler->handle(std::move(request), std::move(reply));
  }
};

// A folder in which every root stands under its name: the working folder of the service and of its jobs, so
// that files have one name everywhere, in requests, in messages and on command lines.
Result<void> enter_roots(const fs::path& own, const Roots& roots) {
  const fs::path folder = own / "roots";
  std::error_code trouble;
  fs::remove_all(folder, trouble);
  fs::create_directory(folder, trouble);
  for (const Root& root : roots.all())
    if (!trouble) fs::create_directory_symlink(root.path, folder / root.name, trouble);
  if (!trouble) fs::current_path(folder, trouble);
  if (trouble) return fail(ErrorCode::Io, "{}: {}", folder.string(), trouble.message());
  return outcome::success();
}

Result<AccessRules> access_rules(const ServiceOptions& options, const asio::ip::tcp::endpoint& endpoint) {
  AccessRules rules;
  rules.loopback = endpoint.address().is_loopback();
  rules.port = endpoint.port();
  for (const std::string& host : options.hosts) {
    const auto parsed = parse_host(host);
    if (!parsed || parsed->port)
      return fail(ErrorCode::InvalidArgument, "--host: '{}' is no name of a host", host);
    rules.hosts.push_back(parsed->host);
  }
  return rules;
}

}  // namespace

Result<void> run_service(const ServiceOptions& options, cli::Console& console) {
  QF_ASSIGN(asio::ip::tcp::endpoint endpoint, parse_endpoint(options.listen));
  std::vector<std::string> tokens;
  if (!options.token_file.empty()) {
    QF_ASSIGN(const std::string text, read_text_file(options.token_file, kLongestTokenFile));
    QF_ASSIGN(tokens, parse_tokens(text));
  }
  QF_ASSIGN(const Roots roots, Roots::open(options.roots));
  QF_ASSIGN(const fs::path own, own_folder(options, roots));
  raise_descriptor_limit();

  asio::io_context io(1);
  asio::thread_pool workers(kWorkers);
  give_way(workers);
  Limits limits;
  if (options.connections != 0) limits.connections = options.connections;
  if (options.streams != 0) limits.streams = options.streams;
  if (options.request_seconds != 0) {
    limits.header_time = std::chrono::seconds(options.request_seconds);
    limits.body_time = 2 * limits.header_time;
  }
  Metrics metrics;

  QF_ASSIGN(const Descriptor lock, lock_folder(own));
  QF_TRY(enter_roots(own, roots));
  QF_ASSIGN(JobStore store, JobStore::open(kQueue));
  EventLog events(io, store, console.logger());
  Catalog catalog(roots);
  Planner planner(roots);
  const unsigned cores =
      options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency());
  const JobShares shares{options.jobs, std::max(1U, cores / options.jobs), options.memory / options.jobs};
  JobRunner jobs(io, store, events, roots, console.logger(), shares, lock.number());
  LateHandler late;
  Shared shared{late, events, workers, console.logger(), limits, metrics};
  Server server(io, shared);
  if (const int socket = handed_over_socket(); socket >= 0)
    QF_TRY(server.adopt(socket));
  else
    QF_TRY(server.listen(endpoint));
  endpoint = server.endpoint();
  if (!endpoint.address().is_loopback() && tokens.empty() && !options.insecure)
    return fail(
        ErrorCode::InvalidArgument,
        "--listen {}: others can reach this address; give --token-file FILE, or --insecure where everybody "
        "may use the service",
        endpoint.address().to_string());
  QF_ASSIGN(AccessRules rules, access_rules(options, endpoint));
  rules.tokens = tokens;
  Access access(std::move(rules));
  Api api(
      {io, workers, roots, access, catalog, planner, jobs, events, metrics, limits, shares, !tokens.empty()});
  late.handler = &api;
  QF_TRY(jobs.start());

  asio::signal_set signals(io, SIGINT, SIGTERM);
  signals.add(SIGHUP);
  signals.add(SIGQUIT);
  asio::steady_timer patience(io);
  signals.async_wait([&](boost::system::error_code error, int /*number*/) {
    if (error) return;
    console.logger().log(LogLevel::Info, "stopping");
    planner.stop();
    server.wind_up();
    patience.expires_after(kPatience);
    patience.async_wait([&](boost::system::error_code over) {
      if (!over) io.stop();
    });
    jobs.stop([&] {
      patience.expires_after(kLastReplies);
      patience.async_wait([&](auto) { io.stop(); });
    });
  });
  server.start();
  const std::string address = endpoint.address().to_string();
  console.print(fmt::format("http://{}:{}/\n", endpoint.address().is_v6() ? '[' + address + ']' : address,
                            endpoint.port()));
  io.run();
  // What is left ends while everything it uses is still here.
  workers.join();
  server.cut_off();
  io.restart();
  io.poll();
  return outcome::success();
}

}  // namespace quantfit::service

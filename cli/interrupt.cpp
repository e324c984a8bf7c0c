#include "cli/interrupt.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace quantfit::cli {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
// `timeout` and terminals send one request twice; a person takes longer to ask again.
constexpr std::int64_t kSameRequestNanoseconds = 300'000'000;

std::atomic<CancellationToken*> g_token{nullptr};
std::atomic<int> g_signal{0};
std::atomic<bool> g_json{false};
std::atomic<std::int64_t> g_first_time{0};
static_assert(std::atomic<CancellationToken*>::is_always_lock_free &&
              std::atomic<std::int64_t>::is_always_lock_free);

std::int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

extern "C" void on_signal(int number) {
  int none = 0;
  if (!g_signal.compare_exchange_strong(none, number)) {
    if (now() - g_first_time.load() > kSameRequestNanoseconds) _exit(128 + number);
    return;
  }
  g_first_time.store(now());
  if (CancellationToken* token = g_token.load()) token->cancel();
  constexpr char kNote[] = "\nstopping after the rows in progress; press Ctrl-C again to end at once\n";
  constexpr char kEvent[] = "{\"event\":\"stopping\"}\n";
  [[maybe_unused]] const auto written = g_json.load() ? write(STDERR_FILENO, kEvent, sizeof(kEvent) - 1)
                                                      : write(STDERR_FILENO, kNote, sizeof(kNote) - 1);
}

// Replaces `before` by `after`, and nothing else.
void exchange_handler(int number, void (*before)(int), void (*after)(int)) {
  struct sigaction action {};
  if (sigaction(number, nullptr, &action) != 0 || action.sa_handler != before) return;
  action.sa_handler = after;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(number, &action, nullptr);
}

}  // namespace

InterruptHandler::InterruptHandler(CancellationToken& token, bool json) {
  g_json.store(json);
  g_token.store(&token);
  for (const int number : kSignals) exchange_handler(number, SIG_DFL, on_signal);
}

InterruptHandler::~InterruptHandler() {
  for (const int number : kSignals) exchange_handler(number, on_signal, SIG_DFL);
  g_token.store(nullptr);
}

int InterruptHandler::exit_status() {
  const int number = g_signal.load();
  return number == 0 ? 0 : 128 + number;
}

}  // namespace quantfit::cli

#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "cli/exit_code.h"

namespace quantfit::cli {
namespace {

CancellationToken g_token;
std::atomic<int> g_signals{0};

extern "C" void on_signal(int) {
  if (g_signals.fetch_add(1) > 0) _exit(kInterrupted);  // temporary files are left to the next run's clean-up
  g_token.cancel();
  constexpr char kNote[] = "\nstopping after the rows in progress; press Ctrl-C again to end at once\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, kNote, sizeof(kNote) - 1);
}

void install(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

InterruptHandler::InterruptHandler() {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error like a full disk
  install(on_signal);
}

InterruptHandler::~InterruptHandler() {
  install(SIG_DFL);
}

const CancellationToken& InterruptHandler::token() const {
  return g_token;
}

}  // namespace quantfit::cli

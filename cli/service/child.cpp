#include "cli/service/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace quantfit::service {
namespace {

constexpr const char* kProgram = "/proc/self/exe";

// Between fork and exec only what is safe in a copy of one thread of many.
[[noreturn]] void become(char* const* words, int out, int err, int inherited, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before the line above
  setpgid(0, 0);
  const int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    [[maybe_unused]] const ssize_t written = write(score, "500", 3);
  }
  const int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  if (inherited >= 0) fcntl(inherited, F_SETFD, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(kProgram, words);
  _exit(127);
}

}  // namespace

Result<Child> start_child(const std::vector<std::string>& words, int inherited) {
  const auto failed = [] {
    return fail(ErrorCode::Io, "the job cannot be started: {}", std::strerror(errno));
  };
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0) return failed();
  Child child;
  child.out = Descriptor(out[0]);
  const Descriptor out_end(out[1]);
  if (pipe2(err, O_CLOEXEC) != 0) return failed();
  child.err = Descriptor(err[0]);
  const Descriptor err_end(err[1]);
  std::string name = "quantfit";
  std::vector<std::string> copies = words;
  std::vector<char*> arguments = {name.data()};
  for (std::string& word : copies) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  child.process = fork();
  if (child.process < 0) return failed();
  if (child.process == 0) become(arguments.data(), out_end.number(), err_end.number(), inherited, parent);
  return child;
}

}  // namespace quantfit::service

// Running the real program in tests.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace quantfit::test {

struct ProcessResult {
  int exit_code = -1;  // of a normal exit; 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

// A started child whose standard output and error go to temporary files.
class Process {
 public:
  Process(const std::vector<std::string>& command,
          const std::map<std::string, std::string>& environment = {});
  ~Process();  // kills and reaps what still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool running();
  void signal(int number) const;
  // Waits for the end.
  [[nodiscard]] ProcessResult wait();

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = 0;
  std::filesystem::path out_, err_;
};

// Runs to the end.
[[nodiscard]] ProcessResult run(const std::vector<std::string>& command,
                                const std::map<std::string, std::string>& environment = {});

}  // namespace quantfit::test

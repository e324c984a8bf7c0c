// What a person sees while the program works: progress and messages on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"

namespace quantfit::cli {

class OptionTable;

struct ConsoleStyle {
  bool terminal = false;  // standard error is a terminal: one line that is redrawn
  bool color = false;     // NO_COLOR is unset and it is a terminal
  bool quiet = false;     // no progress, warnings only

  [[nodiscard]] static ConsoleStyle detect();
};

// What every command that takes long lets people choose.
struct ConsoleOptions {
  bool quiet = false;
};
void add_console_options(OptionTable& table, ConsoleOptions& options);

// A bar with speed and time left on a terminal; otherwise a plain line per phase and every few seconds.
// Progress is counted in weights. Thread-safe.
class ConsoleProgress final : public ProgressSink {
 public:
  explicit ConsoleProgress(ConsoleStyle style) : style_(style) {}
  void begin(std::string_view phase, std::uint64_t total) override;
  void advance(std::uint64_t done, std::string_view what) override;
  void end() override;

 private:
  void draw(bool last);

  ConsoleStyle style_;
  std::mutex lock_;
  std::string phase_, what_;
  std::uint64_t total_ = 0, done_ = 0;
  std::chrono::steady_clock::time_point started_, drawn_;
};

class ConsoleLogger final : public Logger {
 public:
  explicit ConsoleLogger(ConsoleStyle style) : style_(style) {}
  void log(LogLevel level, std::string_view message) override;

 private:
  ConsoleStyle style_;
};

// One job's ears and voice, whoever runs it: a terminal here, a connection elsewhere.
struct JobContext {
  ProgressSink& progress;
  Logger& logger;
  const CancellationToken& cancel;
};

// The same on a terminal.
class Console {
 public:
  explicit Console(const ConsoleOptions& options);
  [[nodiscard]] JobContext context() { return {progress_, logger_, token_}; }
  [[nodiscard]] Logger& logger() { return logger_; }
  [[nodiscard]] ProgressSink& progress() { return progress_; }
  [[nodiscard]] CancellationToken& token() { return token_; }

  // Adds to the answer on standard output. When that is lost the work goes on, and finish() says so.
  void print(std::string_view text);
  // Says what went wrong; the exit status that it means.
  [[nodiscard]] int fail(const Error& error);
  // The exit status of a command that ended with `status`: a failure where its answer could not be printed.
  [[nodiscard]] int finish(int status);

 private:
  ConsoleStyle style_;
  ConsoleProgress progress_;
  ConsoleLogger logger_;
  CancellationToken token_;
  std::optional<Error> lost_;  // why standard output did not take everything
};

// "3.2 s", "4 min 10 s", "2 h 05 min".
[[nodiscard]] std::string format_duration(double seconds);
// "1.23 G", "456.0 M", "12.0 k": decimal multiples of a count.
[[nodiscard]] std::string format_count(double count);

}  // namespace quantfit::cli

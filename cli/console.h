// What a person or a launcher sees while the program works: progress and messages on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/progress_line.h"
#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"

namespace quantfit::cli {

class OptionTable;

// How progress is shown.
enum class ProgressMode : std::uint8_t { Bar, Plain, Json, None };

// What every command that takes long lets people choose.
struct ConsoleOptions {
  bool quiet = false;
  bool verbose = false;
  std::string progress = "auto";  // "auto", "bar", "plain", "json", "none"
  std::string log_file;           // empty: none
  bool json = false;              // the answer is one JSON document, errors too
  std::string command;            // the words that started it, for a shell
};
void add_console_options(OptionTable& table, ConsoleOptions& options);

struct ConsoleStyle {
  ProgressMode progress = ProgressMode::Plain;
  bool color = false;  // standard error is a terminal, and NO_COLOR is unset or empty
  bool utf8 = true;    // the locale is one of UTF-8
  bool quiet = false;  // warnings and errors only
  bool verbose = false;

  [[nodiscard]] static ConsoleStyle detect(const ConsoleOptions& options = {});
};

// Standard error and the log file of one job. On a terminal the last line is progress, redrawn in place and
// cut to the terminal's present width; messages go above it. Otherwise a line per phase and every few
// seconds, or one JSON object per line. What cannot be written is lost and ends nothing. Thread-safe.
class Display final : public ProgressSink, public Logger {
 public:
  explicit Display(ConsoleStyle style) : style_(style) {}
  ~Display() override;
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;

  // Everything is also added to that file, with times. InvalidArgument when it exists and is no log of this
  // program; Io.
  [[nodiscard]] Result<void> open_log(const std::string& path);

  void begin(std::string_view phase, std::uint64_t total) override;
  void advance(std::uint64_t done, std::string_view what) override;
  void end() override;
  void saved(std::string_view what) override;

  void log(LogLevel level, std::string_view message) override;
  // What is shown even when quiet: how to go on.
  void tell(std::string_view message);
  void table(std::string_view lines);
  void error(std::string_view message, ErrorCode code);
  // The end of the program.
  void ended(int status);

  // Source bytes per weight of the model at hand, for speeds.
  void reads(double bytes_per_weight);

 private:
  void draw();  // the lock is held
  void write_line(std::string_view level, std::string_view color, std::string_view label,
                  std::string_view message);
  void write_event(const nlohmann::ordered_json& event);
  void write_log(std::string_view level, std::string_view message);
  void measure_time();

  ConsoleStyle style_;
  std::mutex lock_;
  ProgressState state_;
  bool worth_telling_ = false;  // the phase is one that takes long, or took long: short ones pass in silence
  bool drawn_ = false;          // the cursor stands on a line of progress
  int log_ = -1;
  std::chrono::steady_clock::time_point started_, shown_;
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
  [[nodiscard]] JobContext context() { return {display_, display_, token_}; }
  [[nodiscard]] Logger& logger() { return display_; }
  [[nodiscard]] ProgressSink& progress() { return display_; }
  [[nodiscard]] Display& display() { return display_; }
  [[nodiscard]] CancellationToken& token() { return token_; }

  // The command as it was given.
  [[nodiscard]] const std::string& command() const { return command_; }

  // Adds to the answer on standard output. When that is lost the work goes on, and finish() says so.
  void print(std::string_view text);
  // Says what people need to know even when they asked for quiet: how to go on.
  void tell(std::string_view text) { display_.tell(text); }
  // Lines that explain a message, shown as they are; foreign text in them was escaped.
  void table(std::string_view lines) { display_.table(lines); }
  // Says what went wrong; the exit status that it means.
  [[nodiscard]] int fail(const Error& error);
  // The exit status of a command that ended with `status`: a failure where its answer could not be printed.
  // With JSON a document that holds the errors, unless another one was printed.
  [[nodiscard]] int finish(int status);

 private:
  Display display_;
  CancellationToken token_;
  std::string command_;
  bool json_ = false;
  bool printed_ = false;
  std::vector<Error> errors_;
  std::optional<Error> lost_;  // why standard output did not take everything
};

// "3.2 s", "4 min 10 s", "2 h 05 min".
[[nodiscard]] std::string format_duration(double seconds);
// "1.23 G", "456.0 M", "12.0 k": decimal multiples of a count.
[[nodiscard]] std::string format_count(double count);

}  // namespace quantfit::cli

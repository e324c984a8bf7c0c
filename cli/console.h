// What a person sees while the program works: progress and messages on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "core/log.h"
#include "core/progress.h"

namespace quantfit::cli {

struct ConsoleStyle {
  bool terminal = false;  // standard error is a terminal: one line that is redrawn
  bool color = false;     // NO_COLOR is unset and it is a terminal
  bool quiet = false;     // no progress, warnings only

  [[nodiscard]] static ConsoleStyle detect();
};

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

// "3.2 s", "4 min 10 s", "2 h 05 min".
[[nodiscard]] std::string format_duration(double seconds);
// "1.23 G", "456.0 M", "12.0 k": decimal multiples of a count.
[[nodiscard]] std::string format_count(double count);

}  // namespace quantfit::cli

// Where library code says what a person may want to know. Nothing below `cli` prints.
#pragma once

#include <string_view>

namespace quantfit {

enum class LogLevel { Debug, Info, Warning };

// Implementations must be safe to call from any thread.
class Logger {
 public:
  virtual ~Logger() = default;
  virtual void log(LogLevel level, std::string_view message) = 0;
};

class NoLogger final : public Logger {
 public:
  void log(LogLevel, std::string_view) override {}
};

}  // namespace quantfit

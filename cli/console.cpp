#include "cli/console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/option_table.h"
#include "cli/streams.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{100};
constexpr std::chrono::seconds kPlainInterval{10};
constexpr int kBarWidth = 28;

}  // namespace

ConsoleStyle ConsoleStyle::detect() {
  ConsoleStyle style;
  const char* term = std::getenv("TERM");
  style.terminal = isatty(STDERR_FILENO) != 0 && (term == nullptr || std::string_view(term) != "dumb");
  const char* no_color = std::getenv("NO_COLOR");
  style.color = style.terminal && (no_color == nullptr || *no_color == '\0');
  return style;
}

void ConsoleProgress::begin(std::string_view phase, std::uint64_t total) {
  const std::scoped_lock guard(lock_);
  phase_ = phase;
  what_.clear();
  total_ = total;
  done_ = 0;
  started_ = drawn_ = std::chrono::steady_clock::now();
  if (!style_.quiet && !style_.terminal)
    say(fmt::format("{}: {} weights\n", phase_, format_count(double(total_))));
}

void ConsoleProgress::advance(std::uint64_t done, std::string_view what) {
  const std::scoped_lock guard(lock_);
  done_ += done;
  const auto now = std::chrono::steady_clock::now();
  if (style_.quiet || now - drawn_ < (style_.terminal ? std::chrono::milliseconds(kRedrawInterval)
                                                      : std::chrono::milliseconds(kPlainInterval)))
    return;
  what_ = escaped(what);
  drawn_ = now;
  draw(false);
}

void ConsoleProgress::end() {
  const std::scoped_lock guard(lock_);
  if (style_.quiet || phase_.empty()) return;
  what_.clear();
  draw(true);
  phase_.clear();
}

void ConsoleProgress::draw(bool last) {
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  const double share = total_ == 0 ? 1.0 : std::min(double(done_) / double(total_), 1.0);
  const double speed = elapsed > 0 ? double(done_) / elapsed : 0;
  const double left = speed > 0 ? std::max(double(total_) - double(done_), 0.0) / speed : 0;
  const std::string time = last ? format_duration(elapsed) : format_duration(left) + " left";
  if (!style_.terminal) {
    say(fmt::format("{}: {:3.0f} %, {} weights/s, {}{}{}\n", phase_, 100 * share, format_count(speed), time,
                    what_.empty() ? "" : ", at ", what_));
    return;
  }
  const int filled = static_cast<int>(share * kBarWidth);
  std::string bar;
  for (int i = 0; i < kBarWidth; ++i) bar += i < filled ? "█" : "░";
  // The line is cut to the usual width, so that redrawing never wraps.
  std::string tail = fmt::format(" {:3.0f} %  {} weights/s  {}", 100 * share, format_count(speed), time);
  if (!what_.empty() && tail.size() + what_.size() + kBarWidth < 105) tail += "  " + what_;
  say(fmt::format("\r{:<9}{}{}{}{}\x1b[K{}", phase_, style_.color ? "\x1b[36m" : "", bar,
                  style_.color ? "\x1b[0m" : "", tail, last ? "\n" : ""));
}

void ConsoleLogger::log(LogLevel level, std::string_view message) {
  if (level == LogLevel::Warning) {
    say(fmt::format("{}warning:{} {}\n", style_.color ? "\x1b[33m" : "", style_.color ? "\x1b[0m" : "",
                    escaped(message)));
  } else if (!style_.quiet) {
    say(fmt::format("{}\n", escaped(message)));
  }
}

void add_console_options(OptionTable& table, ConsoleOptions& options) {
  table.flag("--quiet", options.quiet, "no progress").alias("-q");
}

Console::Console(const ConsoleOptions& options)
    : style_([&] {
        ConsoleStyle style = ConsoleStyle::detect();
        style.quiet = options.quiet;
        return style;
      }()),
      progress_(style_),
      logger_(style_) {}

void Console::print(std::string_view text) {
  if (lost_) return;
  if (auto printed = cli::print(text); !printed) lost_ = printed.error();
}

int Console::fail(const Error& error) {
  say_error(error.message);
  if (error.code == ErrorCode::Interrupted && InterruptHandler::exit_status() != 0)
    return InterruptHandler::exit_status();
  return exit_code_of(error.code);
}

int Console::finish(int status) {
  if (!lost_) return status;
  say_error(lost_->message);
  return status == kDone ? kFailed : status;
}

std::string format_duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::uint64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::string format_count(double count) {
  if (count >= 1e9) return fmt::format("{:.2f} G", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.1f} M", count / 1e6);
  if (count >= 1e3) return fmt::format("{:.1f} k", count / 1e3);
  return fmt::format("{:.0f}", count);
}

}  // namespace quantfit::cli

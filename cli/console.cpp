#include "cli/console.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/exit_code.h"
#include "cli/interrupt.h"
#include "cli/option_table.h"
#include "cli/report/json.h"
#include "cli/streams.h"
#include "core/clock.h"
#include "core/text.h"

namespace quantfit::cli {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{200};
constexpr std::chrono::milliseconds kEventInterval{500};
constexpr std::chrono::milliseconds kPlainInterval{10'000};
constexpr std::size_t kUsualColumns = 80;
constexpr std::string_view kLogHeader = "quantfit log\n";

std::chrono::milliseconds interval_of(ProgressMode mode) {
  switch (mode) {
    case ProgressMode::Bar:
      return kRedrawInterval;
    case ProgressMode::Json:
      return kEventInterval;
    case ProgressMode::Plain:
    case ProgressMode::None:
      break;
  }
  return kPlainInterval;
}

bool is_utf8_locale() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"})
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') {
      const std::string lower = to_lower(value);
      return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
    }
  return false;
}

std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::Debug:
      return "debug";
    case LogLevel::Info:
      return "info";
    case LogLevel::Warning:
      return "warning";
  }
  return "info";
}

}  // namespace

void add_console_options(OptionTable& table, ConsoleOptions& options) {
  table.flag("--quiet", options.quiet, "warnings and errors only").alias("-q");
  table.flag("--verbose", options.verbose, "also what only a few want to know: files, versions, every tensor")
      .alias("-v")
      .not_with("--quiet");
  table
      .add("--progress", options.progress, "HOW",
           "bar: one line that is redrawn; plain: lines; json: one event a line; none; auto: a bar on a "
           "terminal, plain lines elsewhere")
      .one_of({"auto", "bar", "plain", "json", "none"});
  table.add("--log-file", options.log_file, "FILE", "add all messages, with times, to this file").file();
}

ConsoleStyle ConsoleStyle::detect(const ConsoleOptions& options) {
  ConsoleStyle style;
  const char* term = std::getenv("TERM");
  const bool terminal = isatty(STDERR_FILENO) != 0 && (term == nullptr || std::string_view(term) != "dumb");
  const char* no_color = std::getenv("NO_COLOR");
  style.color = terminal && (no_color == nullptr || *no_color == '\0');
  style.utf8 = is_utf8_locale();
  style.quiet = options.quiet;
  style.verbose = options.verbose;
  style.progress = terminal ? ProgressMode::Bar : ProgressMode::Plain;
  if (options.progress == "bar") style.progress = ProgressMode::Bar;
  if (options.progress == "plain") style.progress = ProgressMode::Plain;
  if (options.progress == "json") style.progress = ProgressMode::Json;
  if (options.progress == "none") style.progress = ProgressMode::None;
  if (options.quiet && style.progress != ProgressMode::Json) style.progress = ProgressMode::None;
  return style;
}

Display::~Display() {
  if (log_ >= 0) close(log_);
}

Result<void> Display::open_log(const std::string& path) {
  const auto failed = [&] { return fail(ErrorCode::Io, "--log-file {}: {}", path, std::strerror(errno)); };
  log_ = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (log_ < 0) return failed();
  struct stat status {};
  if (fstat(log_, &status) != 0) return failed();
  if (!S_ISREG(status.st_mode)) return outcome::success();
  std::array<char, kLogHeader.size()> head{};
  if (status.st_size == 0) {
    write_all(log_, kLogHeader);
  } else if (pread(log_, head.data(), head.size(), 0) != static_cast<ssize_t>(head.size()) ||
             std::string_view(head.data(), head.size()) != kLogHeader) {
    close(log_);
    log_ = -1;
    return fail(ErrorCode::InvalidArgument,
                "--log-file {}: the file exists and is no log of quantfit; nothing is added to it", path);
  }
  return outcome::success();
}

void Display::measure_time() {
  state_.seconds = seconds_since(started_);
}

void Display::begin(std::string_view phase, std::uint64_t total) {
  const std::scoped_lock guard(lock_);
  const double bytes_per_weight = state_.bytes_per_weight;
  state_ = {};
  state_.bytes_per_weight = bytes_per_weight;
  state_.phase = phase;
  state_.total = total;
  started_ = shown_ = std::chrono::steady_clock::now();
  const std::string first =
      fmt::format("{}: {} {}", escaped(phase), format_count(double(total)), unit_of(phase));
  write_log("phase", first);
  worth_telling_ = unit_of(phase) == "weights";
  if (style_.progress == ProgressMode::Plain && worth_telling_) say(first + '\n');
  if (style_.progress == ProgressMode::Json)
    write_event({{"event", "phase"}, {"phase", phase}, {"unit", unit_of(phase)}, {"total", total}});
}

void Display::advance(std::uint64_t done, std::string_view what) {
  const std::scoped_lock guard(lock_);
  state_.done += done;
  const auto now = std::chrono::steady_clock::now();
  if (now - shown_ < interval_of(style_.progress)) return;
  shown_ = now;
  worth_telling_ = true;
  state_.what = what;
  measure_time();
  draw();
}

void Display::saved(std::string_view what) {
  const std::scoped_lock guard(lock_);
  ++state_.saved;
  if (style_.progress == ProgressMode::Json)
    write_event({{"event", "saved"}, {"tensor", what}, {"tensors_saved", state_.saved}});
  else if (style_.verbose)
    write_line("debug", "", "", fmt::format("saved {}", what));
  else
    write_log("debug", fmt::format("saved {}", what));
}

void Display::end() {
  const std::scoped_lock guard(lock_);
  if (state_.phase.empty()) return;
  measure_time();
  state_.finished = true;
  state_.what.clear();
  if (worth_telling_ || style_.progress == ProgressMode::Json) draw();
  if (drawn_) say("\n");
  drawn_ = false;
  write_log("phase", plain_line(state_));
  if (style_.progress == ProgressMode::Json)
    write_event({{"event", "phase_end"}, {"phase", state_.phase}, {"seconds", state_.seconds}});
  state_.phase.clear();
}

void Display::draw() {
  switch (style_.progress) {
    case ProgressMode::Bar: {
      // Asked anew each time: the window may have another width by now.
      const LineStyle line{columns_of_terminal(STDERR_FILENO, kUsualColumns), style_.color, style_.utf8};
      say('\r' + bar_line(state_, line) + "\x1b[K");
      drawn_ = true;
      return;
    }
    case ProgressMode::Plain:
      say(plain_line(state_) + '\n');
      return;
    case ProgressMode::Json:
      write_event(progress_event(state_));
      return;
    case ProgressMode::None:
      return;
  }
}

void Display::write_line(std::string_view level, std::string_view color, std::string_view label,
                         std::string_view message) {
  write_log(level, message);
  if (style_.progress == ProgressMode::Json) {
    write_event({{"event", "message"}, {"level", level}, {"text", message}});
    return;
  }
  const bool colored = style_.color && !color.empty();
  say(fmt::format("{}{}{}{}{}{}\n", drawn_ ? "\r\x1b[K" : "", colored ? color : "", label,
                  colored ? "\x1b[0m" : "", label.empty() ? "" : " ", escaped(message)));
  if (!drawn_) return;
  drawn_ = false;
  if (!state_.phase.empty()) draw();
}

void Display::write_event(const nlohmann::ordered_json& event) {
  say(line_text(event));
}

void Display::write_log(std::string_view level, std::string_view message) {
  if (log_ < 0) return;
  std::tm now{};
  const std::time_t seconds = std::time(nullptr);
  gmtime_r(&seconds, &now);
  write_all(log_, fmt::format("{:%Y-%m-%dT%H:%M:%SZ} {} {}\n", now, level, escaped(message)));
}

void Display::log(LogLevel level, std::string_view message) {
  const std::scoped_lock guard(lock_);
  const bool shown = level == LogLevel::Warning || (level == LogLevel::Info && !style_.quiet) ||
                     (level == LogLevel::Debug && style_.verbose);
  if (!shown) return write_log(name_of(level), message);
  const bool warning = level == LogLevel::Warning;
  write_line(name_of(level), warning ? "\x1b[33m" : "", warning ? "warning:" : "", message);
}

void Display::tell(std::string_view message) {
  const std::scoped_lock guard(lock_);
  write_line("info", "", "", message);
}

void Display::table(std::string_view lines) {
  const std::scoped_lock guard(lock_);
  if (style_.progress != ProgressMode::Json && !lines.empty()) say(lines);
}

void Display::error(std::string_view message, ErrorCode code) {
  const std::scoped_lock guard(lock_);
  if (style_.progress == ProgressMode::Json) {
    write_log("error", message);
    write_event({{"event", "error"}, {"code", to_string(code)}, {"text", message}});
  } else {
    write_line("error", "\x1b[31m", "error:", message);
  }
}

void Display::ended(int status) {
  const std::scoped_lock guard(lock_);
  write_log("end", fmt::format("exit status {}", status));
  if (style_.progress == ProgressMode::Json) write_event({{"event", "end"}, {"exit_status", status}});
}

void Display::reads(double bytes_per_weight) {
  const std::scoped_lock guard(lock_);
  state_.bytes_per_weight = bytes_per_weight;
}

Console::Console(const ConsoleOptions& options)
    : display_(ConsoleStyle::detect(options)), command_(options.command), json_(options.json) {}

void Console::print(std::string_view text) {
  if (lost_) return;
  printed_ = true;
  if (auto printed = cli::print(text); !printed) lost_ = printed.error();
}

int Console::fail(const Error& error) {
  display_.error(error.message, error.code);
  errors_.push_back(error);
  if (error.code == ErrorCode::Interrupted && InterruptHandler::exit_status() != 0)
    return InterruptHandler::exit_status();
  return exit_code_of(error.code);
}

int Console::finish(int status) {
  if (json_ && !printed_ && !errors_.empty()) print(document_text(error_document(errors_, status)));
  if (lost_) {
    display_.error(lost_->message, lost_->code);
    if (status == kDone) status = kFailed;
  }
  display_.ended(status);
  return status;
}

std::string format_duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
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

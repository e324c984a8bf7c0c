// Progress: a line that never wraps, lines of a log, events; what reaches standard error and what does not.

#include "cli/progress_line.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/wrap.h"
#include "core/text.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using cli::ProgressState;
using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

ProgressState some_state() {
  ProgressState state;
  state.phase = "sampling";
  state.total = 1'000'000'000;
  state.done = 420'000'000;
  state.what = "blk.11.ffn_up_exps.weight";
  state.saved = 17;
  state.seconds = 42;
  state.bytes_per_weight = 2;
  return state;
}

std::string without_colors(std::string text) {
  for (const std::string_view code : {"\x1b[36m", "\x1b[0m"})
    for (std::size_t at = text.find(code); at != std::string::npos; at = text.find(code))
      text.erase(at, code.size());
  return text;
}

TEST(ProgressLine, NeverTakesTheLastColumn) {
  std::vector<ProgressState> states = {some_state(), {}};
  states[1].phase = "comparing static recipes";
  states.push_back(some_state());
  states.back().what = "\u5c42.0.\u6ce8\u610f\u529b\u5c42.0.\u6ce8\u610f\u529b.weight";
  states.push_back(some_state());
  states.back().what = "bad\xff\x1b[2J" + std::string(200, 'x');
  states.push_back(some_state());
  states.back().finished = true;
  for (const ProgressState& state : states)
    for (std::size_t columns = 2; columns <= 300; ++columns)
      for (const bool utf8 : {true, false}) {
        const std::string line = cli::bar_line(state, {columns, false, utf8});
        std::size_t blocks = 0;  // one column each, which most_columns() does not know
        for (std::size_t at = 0; at + 3 <= line.size(); ++at)
          if (line.compare(at, 3, "█") == 0 || line.compare(at, 3, "░") == 0) ++blocks;
        EXPECT_LE(cli::most_columns(line) - blocks, columns - 1) << columns << ": " << line;
        EXPECT_TRUE(is_utf8(line)) << columns;
        EXPECT_EQ(line.find('\n'), std::string::npos);
        EXPECT_EQ(line.find('\x1b'), std::string::npos);
        EXPECT_EQ(without_colors(cli::bar_line(state, {columns, true, utf8})), line)
            << "colours take no room";
      }
}

TEST(ProgressLine, ShowsTheMoreTheWiderItIs) {
  const ProgressState state = some_state();
  EXPECT_EQ(cli::bar_line(state, {16, false, true}), "sampling   42 %");
  const std::string narrow = cli::bar_line(state, {60, false, true});
  for (const char* part : {" 42 %", "58 s left", "10.0 M weights/s"}) EXPECT_THAT(narrow, HasSubstr(part));
  const std::string wide = cli::bar_line(state, {200, false, true});
  for (const char* part : {"█", " 42 %", "58 s left", "10.0 M weights/s", "20.0 MB/s", "17 tensors saved",
                           "blk.11.ffn_up_exps.weight"})
    EXPECT_THAT(wide, HasSubstr(part));
  EXPECT_THAT(cli::bar_line(state, {200, false, false}), Not(HasSubstr("█")));
  const auto event = cli::progress_event(state);
  EXPECT_EQ(event["done"], 420'000'000U);
  EXPECT_DOUBLE_EQ(event["bytes_per_second"].get<double>(), 2e7);
  EXPECT_DOUBLE_EQ(event["seconds_left"].get<double>(), 58);
  EXPECT_EQ(event["tensors_saved"], 17U);
}

TEST(ProgressLine, IsAtItsEndOnlyWhenToldSo) {
  ProgressState state = some_state();
  state.done = 2 * state.total;  // the estimate was too low
  EXPECT_THAT(cli::plain_line(state), HasSubstr("99 %"));
  state.finished = true;
  EXPECT_THAT(cli::plain_line(state), HasSubstr("100 %"));
}

std::vector<std::string> planning(const TemporaryFolder& folder, std::vector<std::string> options) {
  std::vector<std::string> all = {QUANTFIT_BINARY,
                                  "plan",
                                  test::data_dir() / "tale-dense-F16.gguf",
                                  "--objective",
                                  "prior",
                                  "--error-feedback",
                                  "off",
                                  "--imatrix",
                                  test::data_dir() / "tale-dense.imatrix.gguf",
                                  "--effort",
                                  "fast",
                                  "--formats",
                                  "Q3_K,Q4_K",
                                  "--target-bpw",
                                  "4",
                                  "--state",
                                  folder / "s.qfstate"};
  all.insert(all.end(), options.begin(), options.end());
  return all;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Progress, EventsAreOneObjectALineAndTellEverything) {
  const TemporaryFolder folder;
  const ProcessResult result = test::run(planning(folder, {"--progress", "json", "-v"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::map<std::string, int> events;
  std::uint64_t saved = 0;
  for (const std::string& line : lines_of(result.err)) {
    const auto event = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(event.is_object()) << line;
    ++events[event["event"].get<std::string>()];
    if (event["event"] == "saved") saved = event["tensors_saved"].get<std::uint64_t>();
    if (event["event"] == "end") {
      EXPECT_EQ(event["exit_status"], 0);
    }
  }
  EXPECT_EQ(events["phase"], 2) << "sampling, comparing static recipes";
  EXPECT_EQ(events["phase_end"], 2);
  EXPECT_GE(events["progress"], 1);
  EXPECT_GE(events["message"], 1);
  EXPECT_EQ(events["end"], 1);
  EXPECT_EQ(saved, 44U);
  EXPECT_EQ(events["saved"], 44);
  // Errors are events too, of usage as well.
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--progress=json", "--nonsense"},
                                                  {"--progress", "json", "--preset", "Q4_K_M"}}) {
    const ProcessResult failed = test::run(planning(folder, options));
    EXPECT_EQ(failed.exit_code, 2);
    bool error = false;
    for (const std::string& line : lines_of(failed.err)) {
      const auto event = nlohmann::json::parse(line, nullptr, false);
      ASSERT_TRUE(event.is_object()) << line;
      error |= event["event"] == "error" && event["code"] == "invalid argument";
    }
    EXPECT_TRUE(error) << failed.err;
  }
}

TEST(Progress, QuietVerboseAndPlainSayWhatTheyPromise) {
  const TemporaryFolder folder;
  EXPECT_EQ(test::run(planning(folder, {"-q"})).err, "");
  const TemporaryFolder other;
  const std::string verbose = test::run(planning(other, {"-v"})).err;
  for (const char* part : {"fingerprint", "encoder version", "saved blk.0.ffn_up.weight", "is not compared"})
    EXPECT_THAT(verbose, HasSubstr(part));
  EXPECT_THAT(verbose, Not(HasSubstr("\x1b"))) << "no terminal, no colours";
  const std::string usual = test::run(planning(other, {})).err;
  EXPECT_THAT(usual, HasSubstr("were measured before"));
  EXPECT_THAT(usual, Not(HasSubstr("comparing"))) << "what takes no time passes in silence";
  EXPECT_THAT(usual, Not(HasSubstr("fingerprint")));
  EXPECT_EQ(test::run(planning(other, {"-q", "-v"})).exit_code, 2);
  EXPECT_EQ(test::run(planning(other, {"--progress", "fancy"})).exit_code, 2);
}

TEST(Progress, LogsAreAddedToAndNothingElseIs) {
  const TemporaryFolder folder;
  const std::string log = folder / "run.log";
  ASSERT_EQ(test::run(planning(folder, {"-q", "--log-file", log})).exit_code, 0);
  ASSERT_EQ(test::run(planning(folder, {"--log-file", log, "--min-type", "nowhere=Q4_K"})).exit_code, 2);
  const std::vector<std::byte> bytes = test::read_file(log);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  EXPECT_THAT(text, HasSubstr("phase sampling"));
  EXPECT_THAT(text, HasSubstr("saved blk.0.ffn_up.weight"));
  EXPECT_THAT(text, HasSubstr("error --min-type"));
  EXPECT_THAT(text, HasSubstr("exit status 2"));
  const std::vector<std::byte> state = test::read_file(folder / "s.qfstate");
  const ProcessResult refused = test::run(planning(folder, {"--log-file", folder / "s.qfstate"}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("no log of quantfit"));
  EXPECT_EQ(test::read_file(folder / "s.qfstate"), state);
  EXPECT_EQ(test::run(planning(folder, {"--log-file", folder / "no" / "x.log"})).exit_code, 1);
}

// What the program writes to a terminal of so many columns, which is made narrower meanwhile.
std::string on_a_terminal(const std::vector<std::string>& command, unsigned short columns,
                          const char* no_color) {
  winsize size{};
  size.ws_col = columns;
  size.ws_row = 24;
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    if (no_color != nullptr)
      setenv("NO_COLOR", no_color, 1);
    else
      unsetenv("NO_COLOR");
    std::vector<char*> arguments;
    arguments.reserve(command.size() + 1);
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  std::string text;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(terminal, buffer, sizeof(buffer))) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  int status = 0;
  waitpid(child, &status, 0);
  close(terminal);
  EXPECT_EQ(status, 0) << text;
  return text;
}

TEST(Progress, ATerminalGetsOneLineThatFits) {
  for (const unsigned short columns :
       {std::uint16_t{20}, std::uint16_t{60}, std::uint16_t{80}, std::uint16_t{200}}) {
    const TemporaryFolder folder;
    // The answer goes elsewhere; only standard error is the terminal.
    std::string line = "exec \"$@\" > /dev/null";
    std::vector<std::string> command = {"/bin/sh", "-c", line, "sh"};
    const auto run = planning(folder, {"--threads", "1"});
    command.insert(command.end(), run.begin(), run.end());
    const std::string text = on_a_terminal(command, columns, nullptr);
    EXPECT_THAT(text, HasSubstr("100 %"));
    // Between returns and newlines: each piece of progress has less than the terminal's columns.
    std::istringstream pieces(text);
    for (std::string piece; std::getline(pieces, piece, '\r');) {
      if (piece.find('%') == std::string::npos) continue;
      piece = without_colors(piece.substr(0, piece.find("\x1b[K")));
      EXPECT_LT(cli::columns_of(piece), columns) << piece;
    }
    EXPECT_EQ(columns >= 60, text.find("\x1b[36m") != std::string::npos) << "colours, where there is a bar";
    const TemporaryFolder other;
    command.resize(4);
    const auto again = planning(other, {});
    command.insert(command.end(), again.begin(), again.end());
    EXPECT_THAT(on_a_terminal(command, columns, "1"), Not(HasSubstr("\x1b[36m")));
  }
}

}  // namespace
}  // namespace quantfit

// Standard streams that are closed, full or gone; names that would command a terminal; signals.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/gguf_writer.h"
#include "core/model.h"
#include "core/text.h"
#include "tests/support/process.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using test::ProcessResult;
using test::TemporaryFolder;
using testing::HasSubstr;
using testing::Not;

std::string quantize(const TemporaryFolder& folder, const std::string& options = "") {
  return std::string(QUANTFIT_BINARY) + " quantize --objective prior --error-feedback off " +
         (test::data_dir() / "tale-dense-F16.gguf").string() + " --imatrix " +
         (test::data_dir() / "tale-dense.imatrix.gguf").string() + " --effort fast --target-bpw 4 -o " +
         (folder / "out.gguf").string() + " " + options;
}

ProcessResult shell(const std::string& line) {
  return test::run({"/bin/sh", "-c", line});
}

TEST(Streams, LostMessagesNeverEndARun) {
  for (const char* redirection : {"2>&-", "2>/dev/full", "2>&- <&- >/dev/null"}) {
    const TemporaryFolder folder;
    const auto result = shell(quantize(folder) + redirection);
    EXPECT_EQ(result.exit_code, 0) << redirection;
    EXPECT_TRUE(Model::open(folder / "out.gguf")) << redirection;
  }
  const TemporaryFolder folder;
  // A reader that leaves at once; the status is that of the program.
  const auto result = shell("{ " + quantize(folder) + " 2>&1 >/dev/null; echo $? > " +
                            (folder / "status").string() + "; } | true");
  EXPECT_EQ(result.exit_code, 0);
  std::string status;
  std::ifstream(folder / "status") >> status;
  EXPECT_EQ(status, "0");
  EXPECT_TRUE(Model::open(folder / "out.gguf"));
}

TEST(Streams, LostAnswersAreAFailureAtTheEnd) {
  for (const char* redirection : {">/dev/full", ">&-"}) {
    const TemporaryFolder folder;
    const auto result = shell(quantize(folder, "--json ") + redirection);
    EXPECT_EQ(result.exit_code, 1) << redirection;
    EXPECT_THAT(result.err, HasSubstr("standard output")) << redirection;
    EXPECT_TRUE(Model::open(folder / "out.gguf")) << "the file is made all the same";
  }
  EXPECT_EQ(shell(std::string(QUANTFIT_BINARY) + " --help > /dev/full").exit_code, 1);
  EXPECT_EQ(shell(std::string(QUANTFIT_BINARY) + " inspect " +
                  (test::data_dir() / "tale-dense-F16.gguf").string() + " > /dev/full")
                .exit_code,
            1);
}

// A copy of the example model in which one tensor has another name.
void write_renamed(const std::filesystem::path& path, const std::string& from, const std::string& to) {
  std::vector<std::byte> bytes = test::read_file(test::data_dir() / "tale-dense-F16.gguf");
  ASSERT_EQ(from.size(), to.size());
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  const std::size_t at = std::string_view(begin, bytes.size()).find(from);
  ASSERT_NE(at, std::string_view::npos);
  std::memcpy(bytes.data() + at, to.data(), to.size());
  test::write_file(path, bytes);
}

TEST(Streams, ForeignTextIsEscaped) {
  const TemporaryFolder folder;
  write_renamed(folder / "clear.gguf", "blk.0.ffn_norm.weight", "blk.0.\x1b[2J\x1b[Hm.weight");
  const auto text = test::run({QUANTFIT_BINARY, "inspect", folder / "clear.gguf", "--tensors"});
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text.out, HasSubstr("\\x1b[2J"));
  const auto json = test::run({QUANTFIT_BINARY, "inspect", folder / "clear.gguf", "--json"});
  EXPECT_THAT(json.out, Not(HasSubstr("\x1b")));
  EXPECT_FALSE(nlohmann::json::parse(json.out, nullptr, false).is_discarded());
  const auto error = test::run({QUANTFIT_BINARY, "inspect", folder / "\x1b[31mmissing"});
  EXPECT_EQ(error.exit_code, 1);
  EXPECT_THAT(error.err, Not(HasSubstr("\x1b")));
}

TEST(Streams, CurvesTakeAnyName) {
  const TemporaryFolder folder;
  write_renamed(folder / "odd.gguf", "blk.0.ffn_up.weight", "blk.0.\xff,n_up.weight");
  const auto with = [&](const char* option) {
    return test::run({QUANTFIT_BINARY, "frontier", folder / "odd.gguf", "--effort", "fast", option});
  };
  const auto json = with("--json");
  EXPECT_EQ(json.exit_code, 0) << json.err;
  EXPECT_FALSE(nlohmann::json::parse(json.out, nullptr, false).is_discarded());
  EXPECT_TRUE(is_utf8(json.out));
  const auto csv = with("--csv");
  EXPECT_EQ(csv.exit_code, 0);
  EXPECT_THAT(csv.out, HasSubstr("\"blk.0.\\xff,n_up.weight\""));
}

TEST(Signals, EndWithTheirOwnStatusAndTellHowToContinue) {
  const std::vector<std::pair<int, int>> cases = {
      {SIGINT, 130}, {SIGTERM, 143}, {SIGHUP, 129}, {SIGQUIT, 131}};
  for (const auto& [number, status] : cases) {
    const TemporaryFolder folder;
    test::Process process({QUANTFIT_BINARY, "quantize", test::data_dir() / "tale-dense-F16.gguf",
                           "--objective", "prior", "--error-feedback", "off", "--imatrix",
                           test::data_dir() / "tale-dense.imatrix.gguf", "--effort", "max", "--target-bpw",
                           "4", "--state", folder / "s.qfstate", "-o", folder / "out.gguf"});
    // The state file appears before the first row is measured, and after the handlers.
    for (int i = 0; i < 3000 && !std::filesystem::exists(folder / "s.qfstate"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    process.signal(number);
    process.signal(number);  // `timeout` sends its signal twice
    const ProcessResult result = process.wait();
    EXPECT_EQ(result.exit_code, status) << result.err;
    EXPECT_THAT(result.err, HasSubstr("the same command")) << number;
    EXPECT_FALSE(std::filesystem::exists(folder / "out.gguf"));
  }
}

}  // namespace
}  // namespace quantfit

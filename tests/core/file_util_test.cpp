#include "core/file_util.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::size_t files_in(const std::filesystem::path& folder) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

// No file may grow beyond `bytes` while this lives: writing fails as it does on a full quota.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limited{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

TEST(AtomicFile, AppearsOnCommitOnly) {
  const test::TemporaryFolder folder;
  const auto path = folder / "report.json";
  test::write_file(path, bytes_of("old"));
  auto file = AtomicFile::create(path);
  ASSERT_VALUE(file);
  ASSERT_VALUE(file.value().write(bytes_of("new ")));
  ASSERT_VALUE(file.value().write(bytes_of("content")));
  EXPECT_EQ(file.value().written(), 11U);
  EXPECT_EQ(test::read_file(path), bytes_of("old"));
  ASSERT_VALUE(file.value().commit());
  EXPECT_EQ(test::read_file(path), bytes_of("new content"));
  EXPECT_EQ(files_in(folder.path()), 1U);
  EXPECT_FALSE(file.value().commit());
  EXPECT_FALSE(file.value().write(bytes_of("more")));
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(info.st_mode & 0777, 0666 & ~mask);  // like any other file, not private
}

TEST(AtomicFile, VanishesWithoutCommit) {
  const test::TemporaryFolder folder;
  {
    auto file = AtomicFile::create(folder / "x");
    ASSERT_VALUE(file);
    ASSERT_VALUE(file.value().write(bytes_of("half")));
    AtomicFile moved = std::move(file).value();
    ASSERT_VALUE(moved.write(bytes_of("more")));
  }
  EXPECT_EQ(files_in(folder.path()), 0U);
}

TEST(AtomicFile, NothingUnderItsNameAfterAKill) {
  const test::TemporaryFolder folder;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto file = AtomicFile::create(folder / "x");
    if (!file || !file.value().write(bytes_of("half"))) _exit(1);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(AtomicFile, FullDiskIsNoSpace) {
  const test::TemporaryFolder folder;
  const auto path = folder / "x";
  {
    auto file = AtomicFile::create(path);
    ASSERT_VALUE(file);
    const FileSizeLimit limit(10000);
    const auto written = file.value().write(std::vector<std::byte>(20000));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, ErrorCode::NoSpace);
    EXPECT_FALSE(file.value().commit());  // never a file with a hole
  }
  EXPECT_EQ(files_in(folder.path()), 0U);
}

TEST(AtomicFile, ChecksFreeSpaceFirst) {
  const test::TemporaryFolder folder;
  const auto file = AtomicFile::create(folder / "x", std::uint64_t{1} << 60);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, ErrorCode::NoSpace);
  EXPECT_THAT(file.error().message, HasSubstr("1073741824.00 GiB"));
  EXPECT_THAT(file.error().message, HasSubstr("are free"));
}

TEST(AtomicFile, RefusesWhatCannotBeAFile) {
  const test::TemporaryFolder folder;
  const auto code = [](const std::filesystem::path& path) {
    const auto file = AtomicFile::create(path);
    return file ? ErrorCode::Internal : file.error().code;
  };
  EXPECT_EQ(code(folder.path()), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(folder.path() / ""), ErrorCode::InvalidArgument);
  EXPECT_EQ(code(folder / "absent" / "x"), ErrorCode::Io);
  EXPECT_EQ(code("/dev/null"), ErrorCode::InvalidArgument);
  EXPECT_EQ(files_in(folder.path()), 0U);
}

TEST(AtomicFile, LongNames) {
  const test::TemporaryFolder folder;
  const std::string name(255, 'n');
  ASSERT_VALUE(write_file_atomically(folder / name, "x"));
  EXPECT_EQ(test::read_file(folder / name), bytes_of("x"));
  EXPECT_EQ(files_in(folder.path()), 1U);
}

TEST(FileUtil, SameFileThroughLinks) {
  const test::TemporaryFolder folder;
  test::write_file(folder / "a", bytes_of("1"));
  test::write_file(folder / "b", bytes_of("1"));
  std::filesystem::create_symlink(folder / "a", folder / "link");
  std::filesystem::create_hard_link(folder / "a", folder / "hard");
  EXPECT_TRUE(same_file(folder / "a", folder.path() / "." / "a"));
  EXPECT_TRUE(same_file(folder / "a", folder / "link"));
  EXPECT_TRUE(same_file(folder / "a", folder / "hard"));
  EXPECT_FALSE(same_file(folder / "a", folder / "b"));
  EXPECT_FALSE(same_file(folder / "a", folder / "absent"));
  EXPECT_FALSE(same_file(folder / "absent", folder / "absent"));
}

TEST(FileUtil, ReadsTextUpToALimit) {
  const test::TemporaryFolder folder;
  const std::string text(50000, 'q');
  ASSERT_VALUE(write_file_atomically(folder / "t", text));
  EXPECT_EQ(read_text_file(folder / "t", 50000).value(), text);
  EXPECT_EQ(read_text_file(folder / "t", 49999).error().code, ErrorCode::Unsupported);
  EXPECT_EQ(read_text_file(folder / "absent", 10).error().code, ErrorCode::Io);
  EXPECT_EQ(read_text_file(folder.path(), 10).error().code, ErrorCode::Io);
}

}  // namespace
}  // namespace quantfit

#include "core/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <map>
#include <regex>
#include <set>

#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace {

// What the system calls below answer instead of doing anything; 0: they do what they should.
struct Faults {
  int linkat = 0;        // of files without a name: the file system knows none
  int renameat2 = 0;     // RENAME_NOREPLACE is not known
  int folder_fsync = 0;  // below 0: the process is killed there
};
Faults faults;

}  // namespace

// Defined here, so that everything linked into this program calls them in place of the C library's.
extern "C" int linkat(int from, const char* old_name, int to, const char* new_name, int flags) noexcept {
  if (faults.linkat != 0 && (flags & AT_SYMLINK_FOLLOW) != 0) {
    errno = faults.linkat;
    return -1;
  }
  return static_cast<int>(syscall(SYS_linkat, from, old_name, to, new_name, flags));
}
extern "C" int renameat2(int from, const char* old_name, int to, const char* new_name,
                         unsigned flags) noexcept {
  if (faults.renameat2 != 0) {
    errno = faults.renameat2;
    return -1;
  }
  return static_cast<int>(syscall(SYS_renameat2, from, old_name, to, new_name, flags));
}
extern "C" int fsync(int file) {
  struct stat info {};
  if (faults.folder_fsync != 0 && fstat(file, &info) == 0 && S_ISDIR(info.st_mode)) {
    if (faults.folder_fsync < 0) kill(getpid(), SIGKILL);
    errno = faults.folder_fsync;
    return -1;
  }
  return static_cast<int>(syscall(SYS_fsync, file));
}

namespace quantfit {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

std::size_t files_in(const std::filesystem::path& folder) {
  return names_in(folder).size();
}

// Makes system calls fail while it lives.
class WithFaults {
 public:
  explicit WithFaults(const Faults& wanted) { faults = wanted; }
  ~WithFaults() { faults = {}; }
};
// A file system without files that get their name later, with and without RENAME_NOREPLACE, and an ordinary
// one.
const std::map<std::string, Faults> kFileSystems = {{"all", {}},
                                                    {"no unnamed files", {.linkat = EOPNOTSUPP}},
                                                    {"neither", {.linkat = ENOENT, .renameat2 = EINVAL}}};

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

TEST(AtomicFile, NeverReplacesWhatIsToBeKept) {
  for (const auto& [name, wanted] : kFileSystems) {
    const WithFaults broken(wanted);
    const test::TemporaryFolder folder;
    const auto path = folder / "out.gguf";
    test::write_file(path, bytes_of("theirs"));
    const auto refused = AtomicFile::create(path, 0, Existing::Keep);
    ASSERT_FALSE(refused) << name;
    EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(refused.error().message, HasSubstr("exists already"));
    std::filesystem::remove(path);
    ASSERT_VALUE(write_file_atomically(path, "ours", Existing::Keep));
    EXPECT_EQ(test::read_file(path), bytes_of("ours")) << name;
    EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"out.gguf"}) << name;
    EXPECT_FALSE(write_file_atomically(path, "again", Existing::Keep));
    EXPECT_EQ(test::read_file(path), bytes_of("ours"));
  }
}

TEST(AtomicFile, WhatAppearsMeanwhileIsKeptAndOursPutBesideIt) {
  for (const auto& [name, wanted] : kFileSystems) {
    const WithFaults broken(wanted);
    for (const bool dangling : {false, true}) {
      const test::TemporaryFolder folder;
      const auto path = folder / "out.gguf";
      test::write_file(folder / "out.gguf.1", bytes_of("taken too"));
      auto file = AtomicFile::create(path, 0, Existing::Keep);
      ASSERT_VALUE(file);
      ASSERT_VALUE(file.value().write(bytes_of("ours")));
      if (dangling)
        std::filesystem::create_symlink("nowhere", path);
      else
        test::write_file(path, bytes_of("theirs"));
      const auto done = file.value().commit();
      ASSERT_FALSE(done) << name;
      EXPECT_EQ(done.error().code, ErrorCode::Io);
      EXPECT_THAT(done.error().message, HasSubstr("appeared while it was being written and was not replaced; "
                                                  "the finished file is "));
      EXPECT_THAT(done.error().message, ::testing::EndsWith("out.gguf.2"));
      if (dangling)
        EXPECT_EQ(std::filesystem::read_symlink(path), "nowhere");
      else
        EXPECT_EQ(test::read_file(path), bytes_of("theirs"));
      EXPECT_EQ(test::read_file(folder / "out.gguf.1"), bytes_of("taken too"));
      EXPECT_EQ(test::read_file(folder / "out.gguf.2"), bytes_of("ours"));
      EXPECT_EQ(files_in(folder.path()), 3U) << name;
    }
  }
}

TEST(AtomicFile, ReplacesOnRequestWhateverAppears) {
  for (const auto& [name, wanted] : kFileSystems) {
    const WithFaults broken(wanted);
    const test::TemporaryFolder folder;
    const auto path = folder / "out.gguf";
    auto file = AtomicFile::create(path, 0, Existing::Replace);
    ASSERT_VALUE(file);
    ASSERT_VALUE(file.value().write(bytes_of("ours")));
    test::write_file(path, bytes_of("theirs"));
    ASSERT_VALUE(file.value().commit());
    EXPECT_EQ(test::read_file(path), bytes_of("ours")) << name;
    EXPECT_EQ(files_in(folder.path()), 1U) << name;
  }
}

TEST(AtomicFile, LinksStandForTheirFilesAndLeadSomewhere) {
  const test::TemporaryFolder folder;
  std::filesystem::create_symlink("nowhere", folder / "dangling");
  for (const Existing existing : {Existing::Keep, Existing::Replace}) {
    const auto refused = AtomicFile::create(folder / "dangling", 0, existing);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::InvalidArgument);
    EXPECT_THAT(refused.error().message, HasSubstr("is a link to a file that does not exist"));
  }
  std::filesystem::create_directory(folder / "elsewhere");
  test::write_file(folder.path() / "elsewhere" / "file", bytes_of("old"));
  std::filesystem::create_symlink("elsewhere/file", folder / "link");
  EXPECT_FALSE(write_file_atomically(folder / "link", "new", Existing::Keep));
  ASSERT_VALUE(write_file_atomically(folder / "link", "new"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(test::read_file(folder.path() / "elsewhere" / "file"), bytes_of("new"));
}

TEST(AtomicFile, SaysThatTheFileIsInPlaceWhenOnlyItsFolderFails) {
  const test::TemporaryFolder folder;
  const WithFaults broken({.folder_fsync = EIO});
  const auto done = write_file_atomically(folder / "x", "content");
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::Io);
  EXPECT_THAT(done.error().message,
              HasSubstr("complete and in its place, but its folder could not be flushed"));
  EXPECT_EQ(test::read_file(folder / "x"), bytes_of("content"));
  EXPECT_EQ(files_in(folder.path()), 1U);
}

// A child that begins a file and then waits, until it is killed.
pid_t begin_in_child(const std::filesystem::path& path) {
  std::array<int, 2> ready{};
  if (pipe(ready.data()) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    auto file = AtomicFile::create(path);
    const bool begun = file && file.value().write(bytes_of("half"));
    if (!begun || write(ready[1], "x", 1) != 1) _exit(1);
    while (true) pause();
  }
  close(ready[1]);
  char byte = 0;
  const ssize_t count = read(ready[0], &byte, 1);
  close(ready[0]);
  return count == 1 ? child : -1;
}

TEST(AtomicFile, RemovesWhatKilledProcessesLeftAndNothingElse) {
  const WithFaults broken({.linkat = EOPNOTSUPP});
  const test::TemporaryFolder folder;
  // Names that are nearly ours.
  const std::string digits(32, 'a');
  const std::set<std::string> others = {
      "." + digits + ".quantfit",    ".x." + digits,
      "x." + digits + ".quantfit",   ".x." + digits.substr(1) + ".quantfit",
      ".x." + digits + ".quantfit2", ".x." + std::string(32, 'A') + ".quantfit"};
  for (const std::string& name : others) test::write_file(folder / name, bytes_of("theirs"));
  std::filesystem::create_symlink(*others.begin(), folder / (".link." + digits + ".quantfit"));
  const auto kept = names_in(folder.path());

  const pid_t child = begin_in_child(folder / "x");
  ASSERT_GT(child, 0);
  EXPECT_EQ(files_in(folder.path()), kept.size() + 1);
  // While it lives, its file is its own.
  ASSERT_VALUE(write_file_atomically(folder / "y", "1"));
  EXPECT_EQ(files_in(folder.path()), kept.size() + 2);
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(files_in(folder.path()), kept.size() + 2);
  ASSERT_VALUE(write_file_atomically(folder / "y", "2"));
  auto expected = kept;
  expected.insert("y");
  EXPECT_EQ(names_in(folder.path()), expected);
}

TEST(AtomicFile, ChecksTheNameBeforehand) {
  const test::TemporaryFolder folder;
  const auto code = [&](const std::filesystem::path& path, Existing existing) {
    const auto usable = check_target(path, existing);
    return usable ? std::string() : usable.error().message;
  };
  EXPECT_EQ(code(folder / "new", Existing::Keep), "");
  EXPECT_EQ(code(folder / std::string(255, 'n'), Existing::Keep), "");
  EXPECT_THAT(code(folder / std::string(256, 'n'), Existing::Replace), HasSubstr("the name has 256 bytes"));
  EXPECT_THAT(code(folder.path() / "..", Existing::Replace), HasSubstr("is not a file name"));
  EXPECT_THAT(code("", Existing::Replace), HasSubstr("is not a file name"));
  test::write_file(folder / "old", bytes_of("1"));
  EXPECT_THAT(code(folder / "old", Existing::Keep), HasSubstr("exists already"));
  EXPECT_EQ(code(folder / "old", Existing::Replace), "");
  EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"old"});
}

// Files of one set, each with its number as content.
std::vector<AtomicFile> begin_set(const test::TemporaryFolder& folder, std::size_t count, Existing existing) {
  std::vector<AtomicFile> files;
  for (std::size_t i = 0; i < count; ++i) {
    auto file = AtomicFile::create(folder / fmt::format("s{}", i), 0, existing);
    EXPECT_TRUE(file) << file.error().message;
    EXPECT_TRUE(file.value().write(bytes_of(std::to_string(i))));
    EXPECT_TRUE(file.value().seal());
    EXPECT_FALSE(file.value().write(bytes_of("more")));
    files.push_back(std::move(file).value());
  }
  return files;
}

Result<void> commit_set(std::vector<AtomicFile>& files) {
  std::vector<AtomicFile*> pointers;
  for (AtomicFile& file : files) pointers.push_back(&file);
  return AtomicFile::commit_together(pointers);
}

TEST(AtomicFile, ASetAppearsWholeOrNotAtAll) {
  for (const auto& [name, wanted] : kFileSystems) {
    const WithFaults broken(wanted);
    const test::TemporaryFolder folder;
    {
      auto files = begin_set(folder, 3, Existing::Keep);
      test::write_file(folder / "s1", bytes_of("theirs"));
      const auto done = commit_set(files);
      ASSERT_FALSE(done) << name;
      EXPECT_THAT(done.error().message, HasSubstr("s1: appeared while it was being written"));
    }
    EXPECT_EQ(names_in(folder.path()), std::set<std::string>{"s1"}) << name;
    EXPECT_EQ(test::read_file(folder / "s1"), bytes_of("theirs"));
    {
      auto files = begin_set(folder, 3, Existing::Replace);
      ASSERT_VALUE(commit_set(files));
    }
    EXPECT_EQ(names_in(folder.path()), (std::set<std::string>{"s0", "s1", "s2"})) << name;
    for (const int i : {0, 1, 2})
      EXPECT_EQ(test::read_file(folder / fmt::format("s{}", i)), bytes_of(std::to_string(i)));
  }
}

TEST(AtomicFile, TheFirstOfASetComesLastAndGoesFirst) {
  const test::TemporaryFolder folder;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Killed when the first is all that lacks, and an earlier set was there.
    for (const int i : {0, 1, 2}) test::write_file(folder / fmt::format("s{}", i), bytes_of("old"));
    auto files = begin_set(folder, 3, Existing::Replace);
    faults.folder_fsync = -1;
    (void)commit_set(files);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(std::filesystem::exists(folder / "s0"));
  EXPECT_EQ(test::read_file(folder / "s1"), bytes_of("1"));
  EXPECT_EQ(test::read_file(folder / "s2"), bytes_of("2"));
}

}  // namespace
}  // namespace quantfit

#include "core/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <chrono>
#include <thread>

#include "tests/core/gguf_bytes.h"
#include "tests/support/test_paths.h"

namespace quantfit {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr std::size_t kBytes = std::size_t{1} << 20;

// A file of 1 MiB that was last written an hour ago.
fs::path old_file(const test::TemporaryFolder& folder) {
  fs::path path = folder / "model.gguf";
  test::write_file(path, std::vector<std::byte>(kBytes, std::byte{7}));
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(1));
  return path;
}

std::uint64_t sum_of(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<std::uint64_t>(byte);
  return sum;
}

std::string message_of(const Result<void>& result) {
  return result ? std::string() : result.error().message;
}

TEST(MappedFile, UnchangedWhileNobodyWritesToIt) {
  const test::TemporaryFolder folder;
  const fs::path path = old_file(folder);
  const auto file = MappedFile::open(path);
  ASSERT_VALUE(file);
  EXPECT_EQ(sum_of(file.value()->bytes()), 7 * kBytes);
  EXPECT_EQ(message_of(file.value()->check_unchanged()), "");
  // Another file of that name is another file.
  fs::rename(path, folder / "elsewhere");
  EXPECT_EQ(message_of(file.value()->check_unchanged()), "");
  test::write_file(path, std::vector<std::byte>(3));
  EXPECT_EQ(message_of(file.value()->check_unchanged()), "");
  test::write_file(folder / "empty", {});
  const auto empty = MappedFile::open(folder / "empty");
  ASSERT_VALUE(empty);
  EXPECT_EQ(message_of(empty.value()->check_unchanged()), "");
}

TEST(MappedFile, NoticesARewriteOfTheSameSize) {
  const test::TemporaryFolder folder;
  const fs::path path = old_file(folder);
  const auto file = MappedFile::open(path);
  ASSERT_VALUE(file);
  test::write_file(path, std::vector<std::byte>(kBytes, std::byte{8}));
  const auto changed = file.value()->check_unchanged();
  ASSERT_FALSE(changed);
  EXPECT_EQ(changed.error().code, ErrorCode::Io);
  EXPECT_THAT(changed.error().message, HasSubstr(path.string() + ": another program modified it"));
}

TEST(MappedFile, LostPartsAreZerosWhileSomebodyWatches) {
  const test::TemporaryFolder folder;
  const fs::path path = old_file(folder);
  const auto file = MappedFile::open(path);
  ASSERT_VALUE(file);
  const FileWatch watch(*file.value());
  fs::resize_file(path, 8192);
  EXPECT_EQ(sum_of(file.value()->bytes()), 7 * 8192U);
  EXPECT_THAT(message_of(file.value()->check_unchanged()),
              HasSubstr("changed its size from 1048576 to 8192 bytes"));
  // A file that was cut short and is as long as before tells too: zeros were read.
  fs::resize_file(path, kBytes);
  EXPECT_THAT(message_of(file.value()->check_unchanged()), HasSubstr("a part of it could not be read"));
}

TEST(MappedFile, ManyThreadsMayMeetALostPartAtOnce) {
  const test::TemporaryFolder folder;
  const fs::path path = old_file(folder);
  const auto file = MappedFile::open(path);
  ASSERT_VALUE(file);
  const FileWatch watch(*file.value());
  fs::resize_file(path, 0);
  std::vector<std::uint64_t> sums(8, 1);
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t& sum : sums) threads.emplace_back([&] { sum = sum_of(file.value()->bytes()); });
  }
  EXPECT_EQ(sums, std::vector<std::uint64_t>(8, 0));
  EXPECT_FALSE(file.value()->check_unchanged());
}

using MappedFileDeathTest = ::testing::Test;

TEST(MappedFileDeathTest, ALostPartEndsTheProgramWithASentenceWhereNobodyWatches) {
  const test::TemporaryFolder folder;
  const auto cut_and_read = [&](bool watched_before) {
    const fs::path path = old_file(folder);
    const auto file = MappedFile::open(path);
    if (watched_before) const FileWatch watch(*file.value());
    fs::resize_file(path, 4096);
    std::printf("%d", static_cast<int>(sum_of(file.value()->bytes())));
  };
  for (const bool watched_before : {false, true})
    EXPECT_EXIT(cut_and_read(watched_before), ::testing::ExitedWithCode(1),
                "model.gguf: a part of it can no longer be read: another program cut it short");
}

TEST(MappedFileDeathTest, OtherBusErrorsStayWhatTheyAre) {
  const test::TemporaryFolder folder;
  const fs::path path = old_file(folder);
  const auto fault_elsewhere = [&] {
    const auto file = MappedFile::open(path);
    const FileWatch watch(*file.value());
    raise(SIGBUS);
  };
#if defined(__SANITIZE_ADDRESS__)
  EXPECT_DEATH(fault_elsewhere(), "");
#else
  EXPECT_EXIT(fault_elsewhere(), ::testing::KilledBySignal(SIGBUS), "");
#endif
}

}  // namespace
}  // namespace quantfit

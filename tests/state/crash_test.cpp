// Two processes, kill -9, and full disks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>

#include "state/sqlite.h"
#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

using test::TemporaryFolder;

// Runs `body` in a child process, whose exit status is what body returns.
pid_t start_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    // Nothing may escape: the child would go on as a second run of the test program.
    try {
      _exit(body());
    } catch (...) {
      _exit(97);
    }
  }
  return child;
}

// The exit status, or minus the signal that ended the child.
int wait_for(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Eight formats, so that a torn tensor would show.
TensorMeasurement wide_case(const std::string& name, int seed) {
  TensorMeasurement measurement = measurement_case(name, seed);
  measurement.errors.clear();
  for (const Format format : {Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0,
                              Format::Q2_K, Format::Q3_K, Format::Q4_K})
    measurement.errors.push_back({format, 1.0 / (seed + 3), 0.1, 0.2, 0.3});
  return measurement;
}

// Saves tensors PREFIX0, PREFIX1, ... and reports each by one byte on `report` once it is saved.
int save_many(const std::filesystem::path& path, const std::string& prefix, int count, int report) {
  auto store = StateStore::open(path, model_case());
  if (!store) {
    std::fprintf(stderr, "%s\n", store.error().message.c_str());
    return 1;
  }
  const auto run = store.value().begin_run(parameters_case(), "1");
  if (!run) return 2;
  for (int i = 0; i < count; ++i) {
    if (!store.value().save_tensor(run.value(), wide_case(fmt::format("{}{}", prefix, i), i))) return 3;
    if (report >= 0 && write(report, "x", 1) != 1) return 4;
  }
  return 0;
}

// The file does not exist yet: they also race to create it.
void save_into_one_file() {
  const TemporaryFolder folder;
  std::vector<pid_t> children;
  for (const char* prefix : {"a", "b", "c"})
    children.push_back(start_child([&] { return save_many(folder / "a.qfstate", prefix, 40, -1); }));
  for (const pid_t child : children) EXPECT_EQ(wait_for(child), 0);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.qfstate-wal"));

  auto store = StateStore::open(folder / "a.qfstate", model_case()).value();
  ASSERT_EQ(store.runs().value().size(), 1U);
  const auto loaded = store.load_run(store.runs().value()[0].id).value();
  ASSERT_EQ(loaded.size(), 120U);
  for (const char* prefix : {"a", "b", "c"})
    for (int i = 0; i < 40; ++i)
      expect_same(loaded.at(fmt::format("{}{}", prefix, i)), wide_case(fmt::format("{}{}", prefix, i), i));
}

TEST(TwoProcesses, SaveIntoOneFile) {
  for (int round = 0; round < 8 && !HasFailure(); ++round) save_into_one_file();
}

TEST(TwoProcesses, AReaderIsNotHeldUpByAWriter) {
  const TemporaryFolder folder;
  ASSERT_EQ(wait_for(start_child([&] { return save_many(folder / "a", "t", 3, -1); })), 0);
  auto database = Database::open(folder / "a", Access::ReadWrite).value();
  auto writing = Transaction::begin_write(database);
  ASSERT_TRUE(writing);
  ASSERT_TRUE(database.execute("DELETE FROM error"));
  const int answer = wait_for(start_child([&] {
    const auto store = StateStore::open_read_only(folder / "a");
    if (!store) return 1;
    const auto loaded = store.value().load_run(1);
    return loaded && loaded.value().size() == 3 && loaded.value().at("t0").errors.size() == 8 ? 0 : 2;
  }));
  EXPECT_EQ(answer, 0);
}

// What the child reported is there, nothing is torn, and work goes on.
void expect_sound(const std::filesystem::path& path, int reported) {
  auto store = StateStore::open(path, model_case());
  ASSERT_TRUE(store) << store.error().message;
  const auto run = store.value().begin_run(parameters_case(), "1");
  ASSERT_TRUE(run) << run.error().message;
  const auto loaded = store.value().load_run(run.value());
  ASSERT_TRUE(loaded) << loaded.error().message;
  const int count = static_cast<int>(loaded.value().size());
  EXPECT_GE(count, reported);
  EXPECT_LE(count, reported + 1);  // saved, but killed before the report
  for (int i = 0; i < count; ++i)
    expect_same(loaded.value().at(fmt::format("t{}", i)), wide_case(fmt::format("t{}", i), i));
  EXPECT_TRUE(store.value().save_tensor(run.value(), wide_case("after", 1)));
}

TEST(KillNine, BetweenTransactionsLosesNothing) {
  for (const int kill_after : {0, 1, 7, 30}) {
    const TemporaryFolder folder;
    const pid_t child = start_child([&] {
      auto store = StateStore::open(folder / "a", model_case()).value();
      const RunId run = store.begin_run(parameters_case(), "1").value();
      for (int i = 0; i < kill_after; ++i)
        if (!store.save_tensor(run, wide_case(fmt::format("t{}", i), i))) return 1;
      raise(SIGKILL);
      return 2;
    });
    ASSERT_EQ(wait_for(child), -SIGKILL);
    EXPECT_TRUE(std::filesystem::exists(folder / "a-wal"));  // it was no clean end
    expect_sound(folder / "a", kill_after);
    EXPECT_FALSE(std::filesystem::exists(folder / "a-wal"));
  }
}

// The clock is the child's own progress: it is killed somewhere in what follows its n-th report. What it does
// at each single write is fault_test.cpp's.
TEST(KillNine, AtAnyMomentLeavesWholeTensors) {
  for (const int reports_before : {0, 1, 2, 3, 5, 8, 13, 21, 34, 55}) {
    const TemporaryFolder folder;
    int ends[2] = {};
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = start_child([&] { return save_many(folder / "a", "t", 1'000'000, ends[1]); });
    close(ends[1]);
    int reported = 0;
    char byte = 0;
    while (reported < reports_before && read(ends[0], &byte, 1) == 1) ++reported;
    kill(child, SIGKILL);
    ASSERT_EQ(wait_for(child), -SIGKILL);
    while (read(ends[0], &byte, 1) == 1) ++reported;
    close(ends[0]);
    expect_sound(folder / "a", reported);
    if (HasFailure()) FAIL() << reported << " tensors reported";
  }
}

constexpr Sql kInsertTensor =
    "INSERT INTO tensor (tensor_id, name, role, layer, dimensions, ne0, ne1, ne2, ne3, source_format) "
    "VALUES (99, 'torn', 'x', NULL, 2, 256, 1, 1, 1, 'F16')";
constexpr Sql kInsertMeasurement =
    "INSERT INTO measurement (run_id, tensor_id, rows_sampled, saved) VALUES (1, 99, 1, 'now')";
constexpr Sql kInsertError =
    "INSERT INTO error (run_id, tensor_id, format, nmse, standard_error, bias_share, seconds) "
    "VALUES (1, 99, 'Q4_K', 0.5, 0.5, 0.5, 0.5)";

TEST(KillNine, InsideATransactionLeavesNothingOfIt) {
  for (int statements = 0; statements <= 3; ++statements) {
    for (const bool spilled : {false, true}) {
      const TemporaryFolder folder;
      const pid_t child = start_child([&] {
        if (save_many(folder / "a", "t", 5, -1) != 0) return 1;
        auto database = Database::open(folder / "a", Access::ReadWrite).value();
        // With a cache of one page, changes reach the -wal file before the commit.
        if (spilled && !database.execute("PRAGMA cache_size = 1; PRAGMA cache_spill = 1")) return 2;
        auto transaction = Transaction::begin_write(database).value();
        const std::array<Sql, 3> parts = {kInsertTensor, kInsertMeasurement, kInsertError};
        for (int i = 0; i < statements; ++i)
          if (!database.execute(parts[static_cast<std::size_t>(i)])) return 3;
        raise(SIGKILL);
        return 4;
      });
      ASSERT_EQ(wait_for(child), -SIGKILL);
      expect_sound(folder / "a", 5);
    }
  }
}

// Saves tensors until one is refused, and checks the refusal and what is there afterwards. Returns 0 when all
// is well. `make_room` ends the shortage.
int fill_up(const std::filesystem::path& path, const std::function<void()>& make_room) {
  int saved = 0;
  {
    auto opened = StateStore::open(path, model_case());
    if (!opened) return 10;
    auto& store = opened.value();
    const RunId run = store.begin_run(parameters_case(), "1").value();
    while (true) {
      const auto done = store.save_tensor(run, wide_case(fmt::format("t{}", saved), saved));
      if (!done) {
        if (done.error().code != ErrorCode::NoSpace) return 11;
        if (done.error().message.find("nothing saved before is lost") == std::string::npos) return 12;
        break;
      }
      if (++saved > 100'000) return 13;
    }
    if (saved < 10) return 14;
    // The store is still good for reading, and for writing once there is room.
    const auto loaded = store.load_run(run);
    if (!loaded || static_cast<int>(loaded.value().size()) != saved) return 15;
    make_room();
    if (!store.save_tensor(run, wide_case("after", 1))) return 16;
  }
  {
    auto reopened = StateStore::open(path, model_case());
    if (!reopened) return 17;
    const auto loaded = reopened.value().load_run(1);
    if (!loaded || static_cast<int>(loaded.value().size()) != saved + 1) return 18;
    for (int i = 0; i < saved; ++i)
      if (loaded.value().at(fmt::format("t{}", i)).errors.size() != 8) return 19;
  }
  return std::filesystem::exists(path.string() + "-wal") ? 20 : 0;
}

TEST(FullDisk, AFileSizeLimitIsReportedAndNothingIsLost) {
  const TemporaryFolder folder;
  const int answer = wait_for(start_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    rlimit limit = {600'000, RLIM_INFINITY};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    return fill_up(folder / "a", [] {
      const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
      setrlimit(RLIMIT_FSIZE, &unlimited);
    });
  }));
  EXPECT_EQ(answer, 0);
}

TEST(FullDisk, AFullFileSystemIsReportedAndNothingIsLost) {
  constexpr int kCannotMount = 77;
  const TemporaryFolder folder;
  const int answer = wait_for(start_child([&] {
    // A mount namespace of its own: the file system goes away with this process, whatever happens.
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return kCannotMount;
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return kCannotMount;
    if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=1m") != 0) return kCannotMount;
    const auto filler = folder / "filler";
    test::write_file(filler, std::vector<std::byte>(512 * 1024));
    return fill_up(folder / "a", [&] { std::filesystem::remove(filler); });
  }));
  if (answer == kCannotMount)
    GTEST_SKIP() << "a small file system cannot be mounted here; not run on a full one";
  EXPECT_EQ(answer, 0);
}

TEST(FullDisk, NoRoomForANewFile) {
  const TemporaryFolder folder;
  const int answer = wait_for(start_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    int refused = 0;
    for (rlim_t bytes = 0; bytes < 60'000; bytes += 1500) {
      rlimit limit = {bytes, RLIM_INFINITY};
      if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
      const auto store = StateStore::open(folder / "a", model_case());
      if (!store && store.error().code != ErrorCode::NoSpace) return 2;
      if (!store) ++refused;
    }
    const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &unlimited);
    if (refused < 5) return 4;
    return StateStore::open(folder / "a", model_case()) ? 0 : 3;
  }));
  EXPECT_EQ(answer, 0);
}

}  // namespace
}  // namespace quantfit::state

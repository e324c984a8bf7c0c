// Every system call by which SQLite writes, cuts, syncs, reads or opens, failing once, one after the other:
// the answer is right, nothing is half-written, and the next run has the same content.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "tests/state/state_cases.h"
#include "tests/support/test_paths.h"

namespace quantfit::state {
namespace {

// What happens at the call that `countdown` reaches zero at.
struct Fault {
  std::string_view call;  // "write", "truncate", "sync", "read", "open"
  int countdown = 0;      // 1: the next call; 0: never
  int system_error = 0;   // 0: the process ends as by kill -9
  bool struck = false;

  // True when this call is to fail, with errno set.
  bool strikes(std::string_view name) {
    if (name != call || countdown == 0 || --countdown != 0) return false;
    struck = true;
    if (system_error == 0) raise(SIGKILL);
    errno = system_error;
    return true;
  }
};
Fault fault;  // the calls replaced below have no place for it

extern "C" ssize_t faulty_pwrite(int file, const void* data, size_t bytes, off_t offset) {
  return fault.strikes("write") ? -1 : pwrite(file, data, bytes, offset);
}
extern "C" ssize_t faulty_write(int file, const void* data, size_t bytes) {
  return fault.strikes("write") ? -1 : write(file, data, bytes);
}
extern "C" ssize_t faulty_pread(int file, void* data, size_t bytes, off_t offset) {
  return fault.strikes("read") ? -1 : pread(file, data, bytes, offset);
}
extern "C" int faulty_ftruncate(int file, off_t bytes) {
  return fault.strikes("truncate") ? -1 : ftruncate(file, bytes);
}
extern "C" int faulty_open(const char* path, int flags, int mode) {
  return fault.strikes("open") ? -1 : open(path, flags, mode);
}

bool replaced = false;  // the calls are

}  // namespace
}  // namespace quantfit::state

// SQLite has no door for syncing, so these stand before the C library's. While calls are replaced nothing is
// really synced: kill -9 does not need it, and hundreds of runs would take minutes.
extern "C" int fdatasync(int file) {
  using quantfit::state::fault;
  using quantfit::state::replaced;
  if (!replaced) return static_cast<int>(syscall(SYS_fdatasync, file));
  return fault.strikes("sync") ? -1 : 0;
}
extern "C" int fsync(int file) {
  using quantfit::state::fault;
  using quantfit::state::replaced;
  if (!replaced) return static_cast<int>(syscall(SYS_fsync, file));
  return fault.strikes("sync") ? -1 : 0;
}

namespace quantfit::state {
namespace {

// SQLite's own door for this. Calls it does not have are left out.
void set_calls(bool faulty) {
  replaced = faulty;
  sqlite3_vfs* const vfs = sqlite3_vfs_find(nullptr);
  const auto set = [&](const char* name, auto* call) {
    vfs->xSetSystemCall(vfs, name, faulty ? reinterpret_cast<sqlite3_syscall_ptr>(call) : nullptr);
  };
  set("pwrite", faulty_pwrite);
  set("pwrite64", faulty_pwrite);
  set("write", faulty_write);
  set("pread", faulty_pread);
  set("pread64", faulty_pread);
  set("ftruncate", faulty_ftruncate);
  set("open", faulty_open);
}

class FaultyCalls {
 public:
  FaultyCalls(std::string_view call, int number, int system_error) {
    fault = {call, number, system_error, false};
    set_calls(true);
  }
  FaultyCalls(const FaultyCalls&) = delete;
  FaultyCalls& operator=(const FaultyCalls&) = delete;
  ~FaultyCalls() {
    set_calls(false);
    fault.countdown = 0;
  }
};

constexpr int kTensors = 3;

// What a run does to its file. The first failure, or success.
Result<void> work(const std::filesystem::path& path) {
  QF_ASSIGN(auto store, StateStore::open(path, model_case()));
  QF_ASSIGN(const RunId run, store.begin_run(parameters_case(), "1"));
  QF_ASSIGN(const auto known, store.load_run(run));
  for (int i = 0; i < kTensors; ++i)
    if (const std::string name = fmt::format("t{}", i); !known.contains(name))
      QF_TRY(store.save_tensor(run, measurement_case(name, i)));
  QF_TRY(store.save_sensitivity_set(sensitivity_case()));
  QF_TRY(store.save_recipe(run, recipe_case("4")));
  return store.finish_run(run);
}

// Whole tensors, and after one more run everything.
void expect_sound_and_continued(const std::filesystem::path& path) {
  const FaultyCalls without_syncing("", 0, 0);
  if (std::filesystem::exists(path) && std::filesystem::file_size(path) != 0) {
    auto store = StateStore::open(path, model_case());
    ASSERT_TRUE(store) << store.error().message;
    const auto runs = store.value().runs().value();
    for (const RunSummary& run : runs) {
      const auto measurements = store.value().load_run(run.id).value();
      for (int i = 0; i < static_cast<int>(measurements.size()); ++i)
        expect_same(measurements.at(fmt::format("t{}", i)), measurement_case(fmt::format("t{}", i), i));
    }
  }
  const auto done = work(path);
  ASSERT_TRUE(done) << done.error().message;
  auto store = StateStore::open_read_only(path).value();
  const RunId run = store.runs().value().at(0).id;
  EXPECT_EQ(store.load_run(run).value().size(), std::size_t{kTensors});
  EXPECT_EQ(store.load_sensitivity_sets().value().at(0).rows, sensitivity_case().rows);
  EXPECT_EQ(store.load_recipes(run).value().size(), 1U);
}

TEST(Faults, EachCallFailingOnceIsReportedAndNothingIsLost) {
  for (const std::string_view call : {"write", "truncate", "sync", "read", "open"})
    for (const int system_error : {EIO, ENOSPC}) {
      if (system_error == ENOSPC && call != "write") continue;
      int failures = 0;
      for (int number = 1;; ++number) {
        SCOPED_TRACE(fmt::format("{} {}, errno {}", call, number, system_error));
        const test::TemporaryFolder folder;
        bool struck = false;
        {
          const FaultyCalls faulty(call, number, system_error);
          const auto done = work(folder / "a");
          struck = fault.struck;
          if (!done) {
            ++failures;
            EXPECT_TRUE(struck);
            EXPECT_EQ(done.error().code, system_error == ENOSPC ? ErrorCode::NoSpace : ErrorCode::Io)
                << done.error().message;
            EXPECT_THAT(done.error().message, testing::HasSubstr((folder / "a").string()));
          }
        }
        expect_sound_and_continued(folder / "a");
        if (HasFailure()) return;
        if (!struck) break;  // so many calls there are not
      }
      // Some failures are answered by SQLite itself (a log that cannot be cut stays); writes never are.
      if (call == "write" || call == "sync") {
        EXPECT_GT(failures, call == "write" ? 20 : 3);
      }
    }
}

TEST(Faults, KillNineAtEachWriteLeavesWholeTensors) {
  for (int number = 1;; ++number) {
    SCOPED_TRACE(number);
    const test::TemporaryFolder folder;
    const pid_t child = fork();
    if (child == 0) {
      const FaultyCalls faulty("write", number, 0);
      _exit(work(folder / "a") ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    expect_sound_and_continued(folder / "a");
    if (HasFailure()) return;
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      EXPECT_GT(number, 20);
      return;
    }
    ASSERT_EQ(WTERMSIG(status), SIGKILL);
  }
}

}  // namespace
}  // namespace quantfit::state

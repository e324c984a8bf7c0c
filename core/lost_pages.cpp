#include "core/lost_pages.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <string>

namespace quantfit {

// Read by a signal handler in any thread at any time: records are never freed but used again, and an empty
// range marks a free one.
struct LossyMapping::Record {
  std::atomic<std::uintptr_t> begin = 0;
  std::atomic<std::uintptr_t> end = 0;
  std::atomic<int> watchers = 0;
  std::atomic<bool> lost = false;
  std::string sentence;    // written before `end` is
  Record* next = nullptr;  // never changes once the record is in the list
};

namespace {

using Record = LossyMapping::Record;

std::atomic<Record*> records = nullptr;
std::mutex changing;  // of the list and of who owns a record
struct sigaction previous {};
std::uintptr_t page_bytes = 4096;

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<Record*>::is_always_lock_free &&
                  std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "used in a signal handler");

// Only what a signal handler may do: atomics, write, _exit, and mmap, which is a bare system call.
void on_bus_error(int signal, siginfo_t* info, void*) {
  const int saved = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (info->si_code > 0) {  // from the kernel, so that the address means something
    for (Record* record = records.load(); record != nullptr; record = record->next) {
      const std::uintptr_t end = record->end.load();
      if (address < record->begin.load() || address >= end) continue;
      if (record->watchers.load() > 0) {
        record->lost.store(true);  // before anybody can read a zero
        const std::uintptr_t page = address / page_bytes * page_bytes;
        if (mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED) {
          errno = saved;
          return;  // the read is tried again
        }
      }
      [[maybe_unused]] const ssize_t count =
          write(STDERR_FILENO, record->sentence.data(), record->sentence.size());
      _exit(1);
    }
  }
  // Not ours: the same fault again, or the same signal, for whom it was meant.
  sigaction(SIGBUS, &previous, nullptr);
  if (info->si_code <= 0) raise(signal);
  errno = saved;
}

void install_handler() {
  page_bytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &previous);
}

}  // namespace

LossyMapping::LossyMapping(std::span<const std::byte> bytes, const std::filesystem::path& path) {
  static std::once_flag once;
  std::call_once(once, install_handler);
  const std::scoped_lock lock(changing);
  record_ = records.load();
  while (record_ != nullptr && record_->end.load() != 0) record_ = record_->next;
  const bool made = record_ == nullptr;
  if (made) record_ = new Record;
  record_->sentence = fmt::format(
      "\nquantfit: {}: a part of it can no longer be read: another program cut it short, or its disk fails\n",
      path.string());
  record_->lost.store(false);
  record_->watchers.store(0);
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  record_->begin.store(begin);
  record_->end.store(begin + bytes.size());
  if (made) {
    record_->next = records.load();
    records.store(record_);
  }
}

LossyMapping::~LossyMapping() {
  const std::scoped_lock lock(changing);
  record_->end.store(0);
  record_->begin.store(0);
}

void LossyMapping::watch() const noexcept {
  record_->watchers.fetch_add(1);
}

void LossyMapping::unwatch() const noexcept {
  record_->watchers.fetch_sub(1);
}

bool LossyMapping::lost() const noexcept {
  return record_->lost.load();
}

}  // namespace quantfit

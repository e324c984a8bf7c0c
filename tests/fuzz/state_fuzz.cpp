// State files: any bytes are refused, or a file whose contents can be read to the end.

#include <cstdint>

#include "state/state_store.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quantfit;
  const fuzz::MemoryFile file(fuzz::bytes_of(data, size));
  const auto store = state::StateStore::open_read_only(file.path());
  if (!store) {
    fuzz::expect(!store.error().message.empty(), "an error says something");
    return 0;
  }
  (void)store.value().model();
  (void)store.value().importances();
  if (const auto runs = store.value().runs())
    for (const state::RunSummary& run : runs.value()) {
      (void)store.value().load_run(run.id);
      (void)store.value().load_recipes(run.id);
    }
  return 0;
}

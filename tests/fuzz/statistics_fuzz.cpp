// Statistics files: an error, or figures whose sizes fit together and which are written and read as they are.

#include <cmath>
#include <cstdint>

#include "core/statistics_file.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quantfit;
  const fuzz::MemoryFile file(fuzz::bytes_of(data, size));
  const Result<ModelStatistics> read = read_statistics(file.path());
  if (!read) {
    fuzz::expect(!read.error().message.empty(), "an error says something");
    return 0;
  }
  const ModelStatistics& statistics = read.value();
  std::map<std::string, double, std::less<>> errors;
  for (const auto& [name, one] : statistics.matrices) {
    const std::size_t rows = std::size_t{one.rows} * one.matrices;
    fuzz::expect(
        one.gradient.size() == rows && one.gradient_error.size() == rows && one.energy.size() == rows,
        "one figure for every row");
    fuzz::expect(one.output.empty() || one.output.size() == rows, "outputs of all rows or none");
    fuzz::expect(one.tokens.size() == one.matrices, "tokens of every matrix");
    fuzz::expect(one.nats_by_window.size() == statistics.window_tokens.size(), "one figure for every window");
    for (const float value : one.gradient)
      fuzz::expect(value >= 0 && std::isfinite(value), "gradients are numbers");
    errors[name] = 0.5;
  }
  for (const auto& [name, one] : statistics.tables) {
    fuzz::expect(one.gradient.size() == one.columns && one.row_gradient.size() == one.rows &&
                     one.row_tokens.size() == one.rows,
                 "one figure for every row and column");
    fuzz::expect(one.nats_by_window.size() == statistics.window_tokens.size(), "one figure for every window");
    errors[name] = 0.5;
  }
  (void)predicted_divergence(statistics, errors);
  return 0;
}

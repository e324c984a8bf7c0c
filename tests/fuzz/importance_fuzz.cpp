// Importance matrices in both formats: an error, or statistics that are finite numbers.

#include <cmath>
#include <cstdint>

#include "core/importance_matrix.h"
#include "tests/fuzz/input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quantfit;
  const fuzz::MemoryFile file(fuzz::bytes_of(data, size));
  const Result<ImportanceMatrix> importance = ImportanceMatrix::read(file.path());
  if (!importance) {
    fuzz::expect(!importance.error().message.empty(), "an error says something");
    return 0;
  }
  (void)importance.value().has_activations();
  // Tensors of shapes that may fit: as many columns as the file is likely to speak of, one matrix or some.
  for (const std::uint64_t columns : {1, 2, 4, 8, 32, 256})
    for (const std::uint64_t matrices : {1, 2, 4}) {
      TensorInfo tensor;
      tensor.n_dims = 3;
      tensor.ne = {columns, 3, matrices, 1};
      for (const char* name : {"blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight", "output.weight", "a"}) {
        tensor.name = name;
        const auto statistics = importance.value().statistics(tensor);
        if (!statistics || !statistics.value()) continue;
        for (const ColumnStatistics& one : *statistics.value())
          for (const float value : one.mean_square)
            fuzz::expect(std::isfinite(value) && value >= 0, "mean squares are finite and not negative");
      }
    }
  return 0;
}

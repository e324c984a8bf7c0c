// Decoding one row that lies in the cache, as the sampler and the writer do it: every format on every
// instruction set. Names: decode/<format>/<isa>/<columns>. bytes_per_second counts bytes read and bytes
// written, so that memcpy/<columns>, a copy of the same number of weights as binary32, is the speed that
// nothing can exceed by much; items_per_second counts weights.

#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/row_kernels.h"

namespace quantfit::kernels {
namespace {

void report(benchmark::State& state, std::size_t columns, std::size_t bytes_per_row) {
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * columns));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * bytes_per_row));
}

void decode(benchmark::State& state, const RowKernels* kernels, Format format, std::size_t columns) {
  const FormatTraits& format_traits = traits(format);
  std::vector<std::byte> in(columns / format_traits.block_len * format_traits.block_bytes);
  std::mt19937 random(1);
  // Bytes below 0x7C keep every half finite and normal for the most part.
  for (std::byte& byte : in) byte = static_cast<std::byte>(random() % 0x7C);
  std::vector<float> out(columns);
  const DecodeRow decoder = kernels->decode[static_cast<std::size_t>(format)];
  for (auto _ : state) {
    decoder(in.data(), columns, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  report(state, columns, in.size() + columns * sizeof(float));
}

void copy(benchmark::State& state, std::size_t columns) {
  std::vector<float> in(columns, 1.0F);
  std::vector<float> out(columns);
  for (auto _ : state) {
    std::memcpy(out.data(), in.data(), columns * sizeof(float));
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  report(state, columns, 2 * columns * sizeof(float));
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const std::size_t columns : {std::size_t{4096}, std::size_t{14336}}) {
    benchmark::RegisterBenchmark(("memcpy/" + std::to_string(columns)).c_str(), copy, columns);
    for (const FormatTraits& format : all_formats()) {
      for (const RowKernels& kernels : runnable_kernels()) {
        if (kernels.decode[static_cast<std::size_t>(format.format)] == nullptr) continue;
        const std::string name = "decode/" + std::string(format.name) + "/" + std::string(kernels.isa) + "/" +
                                 std::to_string(columns);
        benchmark::RegisterBenchmark(name.c_str(), decode, &kernels, format.format, columns);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace quantfit::kernels

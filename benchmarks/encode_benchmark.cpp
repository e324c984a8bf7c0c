// Encoding one row that lies in the cache, as the writer does it, the preparation of the row included: every
// format, effort and instruction set. Names: encode/<format>/<effort>/<isa>/<columns>. items_per_second
// counts weights. measure/<format>/... is what the sampler does with a prepared row: encode, decode, and
// measure the error, at default effort; prepare/<isa>/<columns> what all formats of a row share. Weights are
// heavy-tailed (Student's t, 5 degrees of freedom), importance and mean inputs vary over columns.

#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/half.h"
#include "kernels/row_kernels.h"
#include "kernels/row_quantizer.h"

namespace quantfit::kernels {
namespace {

constexpr std::size_t kRows = 8;  // encoding time depends on the row: several in turn

struct Rows {
  explicit Rows(std::size_t length) : columns(length), metric(make_metric(length)) {
    std::mt19937_64 random(1);
    std::student_t_distribution<float> weight(5);
    halves.resize(kRows * columns);
    for (std::uint16_t& half : halves) half = float_to_half(0.02F * weight(random));
  }

  static ColumnMetric make_metric(std::size_t columns) {
    std::mt19937_64 random(2);
    std::normal_distribution<float> normal;
    std::vector<float> mean_square(columns);
    std::vector<float> mean(columns);
    for (std::size_t j = 0; j < columns; ++j) {
      const float deviation = std::exp(0.75F * normal(random));
      mean[j] = 0.3F * deviation * normal(random);
      mean_square[j] = deviation * deviation + mean[j] * mean[j];
    }
    return ColumnMetric(columns, mean_square, mean, 2.0F);
  }

  [[nodiscard]] std::span<const std::byte> row(std::size_t index) const {
    return std::as_bytes(std::span(halves).subspan(index % kRows * columns, columns));
  }

  std::size_t columns;
  std::vector<std::uint16_t> halves;
  ColumnMetric metric;
};

void report(benchmark::State& state, std::size_t columns) {
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * columns));
}

// False, with the cause as the benchmark's error, when the row cannot be loaded.
bool load(benchmark::State& state, RowQuantizer& quantizer, const Rows& rows, std::size_t index) {
  const auto loaded = quantizer.load(Format::F16, rows.row(index), rows.metric);
  if (!loaded) state.SkipWithError(loaded.error().message.c_str());
  return static_cast<bool>(loaded);
}

void encode(benchmark::State& state, const RowKernels* kernels, Format format, Effort effort,
            std::size_t columns) {
  const Rows rows(columns);
  RowQuantizer quantizer(*kernels, columns);
  std::vector<std::byte> out(row_bytes(format, columns).value());
  std::size_t index = 0;
  for (auto _ : state) {
    if (!load(state, quantizer, rows, index++)) break;
    quantizer.encode(format, effort, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  report(state, columns);
}

void measure(benchmark::State& state, const RowKernels* kernels, Format format, std::size_t columns) {
  const Rows rows(columns);
  RowQuantizer quantizer(*kernels, columns);
  if (!load(state, quantizer, rows, 0)) return;
  for (auto _ : state) benchmark::DoNotOptimize(quantizer.encode_and_measure(format, Effort::Default));
  report(state, columns);
}

void prepare(benchmark::State& state, const RowKernels* kernels, std::size_t columns) {
  const Rows rows(columns);
  RowQuantizer quantizer(*kernels, columns);
  std::size_t index = 0;
  for (auto _ : state) {
    if (!load(state, quantizer, rows, index++)) break;
    benchmark::DoNotOptimize(quantizer.row().energy);
  }
  report(state, columns);
}

std::string joined(std::string_view what, Format format, std::string_view isa, std::size_t columns) {
  return std::string(what) + "/" + std::string(name_of(format)) + "/" + std::string(isa) + "/" +
         std::to_string(columns);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const std::size_t columns : {std::size_t{2048}, std::size_t{14336}}) {
    for (const RowKernels& kernels : runnable_kernels())
      benchmark::RegisterBenchmark(
          ("prepare/" + std::string(kernels.isa) + "/" + std::to_string(columns)).c_str(), prepare, &kernels,
          columns);
    for (const FormatTraits& format : all_formats()) {
      for (const RowKernels& kernels : runnable_kernels()) {
        if (kernels.encode[static_cast<std::size_t>(format.format)] == nullptr) continue;
        for (const Effort effort : {Effort::Fast, Effort::Default, Effort::Max}) {
          const std::string name = "encode/" + std::string(format.name) + "/" +
                                   std::string(to_string(effort)) + "/" + std::string(kernels.isa) + "/" +
                                   std::to_string(columns);
          benchmark::RegisterBenchmark(name.c_str(), encode, &kernels, format.format, effort, columns);
        }
        benchmark::RegisterBenchmark(joined("measure", format.format, kernels.isa, columns).c_str(), measure,
                                     &kernels, format.format, columns);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace quantfit::kernels

// Times one allocation of a generated model: allocate/<family>/<hundredths of a bit per weight>, and the
// whole frontier.
#include <benchmark/benchmark.h>

#include "benchmarks/allocator_instances.h"
#include "optimizer/allocation/allocator.h"
#include "optimizer/allocation/frontier.h"

namespace {

using quantfit::benchmarks::Instance;

Instance instance_of(int family) {
  switch (family) {
    case 0:
      return quantfit::benchmarks::dense_8b(1);
    case 1:
      return quantfit::benchmarks::moe_35b(1);
    default:
      return quantfit::benchmarks::moe_671b(1);
  }
}

void allocate(benchmark::State& state, int family) {
  const Instance instance = instance_of(family);
  const auto hundredths = static_cast<std::uint64_t>(state.range(0));
  const std::uint64_t budget = instance.elements / 800 * hundredths;
  for (auto _ : state) {
    auto answer = quantfit::optimizer::allocate(instance.classes, budget);
    if (!answer || answer.value().why != quantfit::optimizer::Termination::Optimal) {
      state.SkipWithError("not proven optimal");
      return;
    }
    state.counters["states"] = static_cast<double>(answer.value().states);
    benchmark::DoNotOptimize(answer.value().objective);
  }
  state.counters["classes"] = static_cast<double>(instance.classes.size());
}

void frontier(benchmark::State& state, int family) {
  const Instance instance = instance_of(family);
  for (auto _ : state) {
    auto curve = quantfit::optimizer::frontier(instance.classes);
    benchmark::DoNotOptimize(curve);
  }
}

BENCHMARK_CAPTURE(allocate, dense_8b, 0)
    ->Arg(250)
    ->Arg(350)
    ->Arg(450)
    ->Arg(600)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(allocate, moe_35b, 1)
    ->Arg(250)
    ->Arg(350)
    ->Arg(450)
    ->Arg(600)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(allocate, moe_671b, 2)
    ->Arg(250)
    ->Arg(350)
    ->Arg(450)
    ->Arg(600)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(frontier, dense_8b, 0)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(frontier, moe_35b, 1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(frontier, moe_671b, 2)->Unit(benchmark::kMillisecond);

}  // namespace

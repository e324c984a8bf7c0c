// Prints, for the generated instance families, how the allocator fares: share of proven optima, time, states
// and memory over random budgets, and the distance to the budget over all targets in steps of 0.01 bits per
// weight. A second table: the same targets where 99.99 % of the budget must be used, and what that costs.
// usage: allocation_report [random budgets per family, default 200] [seed, default 1]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/allocator_instances.h"
#include "optimizer/allocation/allocator.h"

namespace {

using quantfit::benchmarks::Instance;
using quantfit::optimizer::Allocation;
using quantfit::optimizer::FilledAllocation;
using quantfit::optimizer::Termination;

struct Summary {
  std::vector<double> seconds;
  std::size_t proven = 0;
  std::uint64_t peak_states = 0;
  std::uint64_t peak_memory = 0;
  double worst_gap = 0;    // relative to the objective
  double worst_spare = 0;  // budget less bytes, relative to the budget
  double spare_bpw = 0;    // where that was
  std::size_t near = 0;    // answers at most 0.01 % below the budget
  double first_far = 0;    // lowest target, in bits per weight, of those that are farther; 0 when none is
  std::size_t above = 0;   // answers above the budget: must stay 0

  void add(const Instance& instance, std::uint64_t budget, const Allocation& answer) {
    seconds.push_back(answer.seconds);
    proven += answer.why == Termination::Optimal;
    peak_states = std::max(peak_states, answer.peak_states);
    peak_memory = std::max(peak_memory, answer.peak_memory_bytes);
    if (answer.objective > 0) worst_gap = std::max(worst_gap, answer.gap() / answer.objective);
    if (answer.bytes > budget) {
      ++above;
      return;
    }
    const double spare = static_cast<double>(budget - answer.bytes) / static_cast<double>(budget);
    const double bpw = 8.0 * static_cast<double>(budget) / static_cast<double>(instance.elements);
    near += spare <= 1e-4;
    if (spare > 1e-4 && (first_far == 0 || bpw < first_far)) first_far = bpw;
    if (spare <= worst_spare) return;
    worst_spare = spare;
    spare_bpw = bpw;
  }

  void print(const char* family, const char* budgets) {
    std::ranges::sort(seconds);
    const auto count = static_cast<double>(seconds.size());
    std::printf(
        "%-12s  %-14s %6zu  %6.2f  %7.2f  %7.2f  %7llu  %5.1f  %9.1e  %6.2f  %6.2f  %8.5f at %.2f  %5zu\n",
        family, budgets, seconds.size(), 100 * static_cast<double>(proven) / count,
        1e3 * seconds[seconds.size() / 2], 1e3 * seconds.back(), static_cast<unsigned long long>(peak_states),
        static_cast<double>(peak_memory) / (1 << 20), worst_gap, 100 * static_cast<double>(near) / count,
        first_far, 100 * worst_spare, spare_bpw, above);
    std::fflush(stdout);
  }
};

// The targets whose optimum leaves more than 0.01 % of the budget unused, filled.
struct FillSummary {
  std::size_t targets = 0;
  std::size_t filled = 0;  // for which a choice in the window was found
  std::size_t none = 0;    // for which there is proven to be none
  std::size_t proven = 0;  // answers proven to be the cheapest
  std::size_t far = 0;  // answers more than 0.01 % below the budget, or above it: must stay 0 but for `none`
  double worst_spare = 0;
  double worst_gap = 0;
  std::vector<double> rise;  // objective over the unfilled one, less 1
  std::vector<double> seconds;
  std::uint64_t peak_states = 0;
  std::uint64_t peak_memory = 0;

  void add(std::uint64_t budget, const FilledAllocation& result) {
    ++targets;
    const Allocation& answer = result.answer;
    const double spare = 1 - static_cast<double>(answer.bytes) / static_cast<double>(budget);
    worst_spare = std::max(worst_spare, spare);
    far += answer.bytes > budget || budget - answer.bytes > budget / 10000;
    proven += answer.why == Termination::Optimal;
    none += !result.in_window && result.proven_empty;
    if (answer.least_bytes == 0) return;
    ++filled;
    rise.push_back(answer.objective / result.unfilled.objective - 1);
    seconds.push_back(answer.seconds);
    worst_gap = std::max(worst_gap, answer.gap() / answer.objective);
    peak_states = std::max(peak_states, answer.peak_states);
    peak_memory = std::max(peak_memory, answer.peak_memory_bytes);
  }

  void print(const char* family) {
    std::ranges::sort(rise);
    std::ranges::sort(seconds);
    const auto middle = [](const std::vector<double>& values) {
      return values.empty() ? 0 : values[values.size() / 2];
    };
    const auto last = [](const std::vector<double>& values) { return values.empty() ? 0 : values.back(); };
    std::printf(
        "%-12s  %6zu  %6zu  %4zu  %6.2f  %6.2f  %8.5f  %7.3f  %7.3f  %7.1f  %7.1f  %8llu  %6.1f  %9.1e\n",
        family, targets, filled, none,
        100 * static_cast<double>(targets - far) / static_cast<double>(targets),
        100 * static_cast<double>(proven) / static_cast<double>(targets), 100 * worst_spare,
        100 * middle(rise), 100 * last(rise), 1e3 * middle(seconds), 1e3 * last(seconds),
        static_cast<unsigned long long>(peak_states), static_cast<double>(peak_memory) / (1 << 20),
        worst_gap);
    std::fflush(stdout);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const int random_budgets = argc > 1 ? std::atoi(argv[1]) : 200;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  std::printf("%-12s  %-14s %6s  %6s  %7s  %7s  %7s  %5s  %9s  %6s  %6s  %16s  %5s\n", "", "", "", "proven",
              "median", "worst", "peak", "", "worst gap", "within", "first", "worst distance", "");
  std::printf("%-12s  %-14s %6s  %6s  %7s  %7s  %7s  %5s  %9s  %6s  %6s  %16s  %5s\n", "family", "budgets",
              "count", "%", "ms", "ms", "states", "MiB", "relative", "0.01 %", "far at", "%     at bpw",
              "above");
  using namespace quantfit::benchmarks;
  std::vector<std::pair<std::string, FillSummary>> fills;
  for (const Instance& instance :
       {dense_8b(seed), moe_35b(seed), moe_671b(seed), with_source_format(dense_8b(seed)),
        with_source_format(moe_35b(seed)), with_source_format(moe_671b(seed))}) {
    Random random(seed + 1000);
    Summary drawn;
    for (int i = 0; i < random_budgets; ++i) {
      const std::uint64_t budget = instance.smallest + random.next() % (instance.largest - instance.smallest);
      const auto answer = quantfit::optimizer::allocate(instance.classes, budget);
      if (!answer) {
        std::fprintf(stderr, "%s\n", answer.error().message.c_str());
        return 1;
      }
      drawn.add(instance, budget, answer.value());
    }
    if (!drawn.seconds.empty()) drawn.print(instance.name.c_str(), "random");
    Summary sweep;
    FillSummary fill;
    for (std::uint64_t hundredths = 1; hundredths <= 800; ++hundredths) {
      const std::uint64_t budget =
          instance.elements / 800 * hundredths + instance.elements % 800 * hundredths / 800;
      if (budget < instance.smallest) continue;
      const auto answer =
          quantfit::optimizer::allocate_filled(instance.classes, budget - budget / 10000, budget);
      if (!answer) {
        std::fprintf(stderr, "%s\n", answer.error().message.c_str());
        return 1;
      }
      sweep.add(instance, budget, answer.value().unfilled);
      fill.add(budget, answer.value());
    }
    sweep.print(instance.name.c_str(), "0.01 bpw steps");
    fills.emplace_back(instance.name, std::move(fill));
  }
  std::printf("\nthe 0.01 bpw steps with at least 99.99 %% of the budget used:\n");
  std::printf("%-12s  %6s  %6s  %4s  %6s  %6s  %8s  %7s  %7s  %7s  %7s  %8s  %6s  %9s\n", "", "", "filled",
              "none", "within", "proven", "farthest", "rise %", "rise %", "ms", "ms", "peak", "",
              "worst gap");
  std::printf("%-12s  %6s  %6s  %4s  %6s  %6s  %8s  %7s  %7s  %7s  %7s  %8s  %6s  %9s\n", "family", "count",
              "up", "in", "%", "%", "%", "median", "worst", "median", "worst", "states", "MiB", "relative");
  for (auto& [family, fill] : fills) fill.print(family.c_str());
  return 0;
}

// The operations of kernels/math on one core, per instruction set. Names:
//   cached: a product small enough for the first-level cache, on the best instruction set;
//   product, backward, outer/<format>/<isa>/<tokens>/<outputs>/<columns>; attention,
//   attention_backward/<isa>/<tokens>; rms_norm, gate, gate_backward/<isa>/<columns>; log_sum,
//   softmax_gradient, divergence/<isa>/<vocabulary>. flops counts two per multiply-add.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/format.h"
#include "kernels/math/math_kernels.h"

namespace quantfit::kernels {
namespace {

using benchmark::Counter;

std::vector<float> values(std::size_t count) {
  std::mt19937 random(1);
  std::vector<float> out(count);
  for (float& value : out) value = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  return out;
}

void report(benchmark::State& state, double flops) {
  state.counters["flops"] =
      Counter(flops * static_cast<double>(state.iterations()), Counter::kIsRate, Counter::kIs1000);
}

// A product whose operands stay in the first-level cache: 48 x 32 results of 256 terms.
void cached(benchmark::State& state, const MathKernels* math) {
  const std::vector<float> weights = values(48 * 256);
  const std::vector<float> x = values(32 * 256);
  std::vector<float> y(32 * 48);
  std::vector<float> scratch(product_scratch(32, 48));
  const WeightRows rows{reinterpret_cast<const std::byte*>(weights.data()),
                        48,
                        256,
                        1024,
                        1,
                        4,
                        runnable_kernels().front().decode[static_cast<std::size_t>(Format::F32)]};
  for (auto _ : state) {
    math->product({x.data(), 32, 256, 256}, rows, {y.data(), 32, 48, 48}, false, scratch.data());
    benchmark::DoNotOptimize(y.data());
  }
  report(state, 2.0 * 32 * 48 * 256);
}

enum class Direction { Forward, Backward, Outer };

void product(benchmark::State& state, const MathKernels* math, Direction direction, Format format,
             std::size_t tokens, std::size_t outputs, std::size_t columns) {
  const FormatTraits& format_traits = traits(format);
  const std::size_t row_bytes = columns / format_traits.block_len * format_traits.block_bytes;
  std::vector<std::byte> weights(outputs * row_bytes);
  std::mt19937 random(1);
  for (std::byte& byte : weights) byte = static_cast<std::byte>(random() % 0x3C);
  const std::vector<float> x = values(tokens * std::max(columns, outputs));
  std::vector<float> y(std::max(tokens * std::max(columns, outputs), outputs * columns));
  std::vector<float> scratch(product_scratch(tokens, std::max(outputs, kProductColumns)));
  const RowKernels& row_kernels = *find_kernels(math->isa).value();
  const WeightRows rows{weights.data(),
                        outputs,
                        columns,
                        row_bytes,
                        format_traits.block_len,
                        format_traits.block_bytes,
                        row_kernels.decode[static_cast<std::size_t>(format)]};
  for (auto _ : state) {
    switch (direction) {
      case Direction::Forward:
        math->product({x.data(), tokens, columns, columns}, rows, {y.data(), tokens, outputs, outputs}, false,
                      scratch.data());
        break;
      case Direction::Backward:
        math->product_backward({x.data(), tokens, outputs, outputs}, rows, 0,
                               {y.data(), tokens, columns, columns}, false, scratch.data());
        break;
      case Direction::Outer:
        math->add_outer_products({x.data(), tokens, outputs, outputs}, {x.data(), tokens, columns, columns},
                                 {y.data(), outputs, columns, columns}, scratch.data());
        break;
    }
    benchmark::DoNotOptimize(y.data());
  }
  report(state, 2.0 * static_cast<double>(tokens * outputs * columns));
}

void attention(benchmark::State& state, const MathKernels* math, bool backward, std::size_t tokens) {
  AttentionShape shape;
  shape.tokens = tokens;
  shape.heads = shape.kv_heads = 1;
  shape.key_dim = shape.value_dim = 128;
  shape.scale = 0.088388348F;
  const std::vector<float> q = values(tokens * 128);
  const AttentionInputs in{{q.data(), 128}, {q.data(), 128}, {q.data(), 128}};
  std::vector<float> out(tokens * 128);
  std::vector<float> statistics(2 * tokens);
  std::vector<float> dq(3 * tokens * 128);
  std::vector<float> scratch(std::max(attention_scratch(shape), attention_backward_scratch(shape)));
  const AttentionStatistics rows{statistics.data(), statistics.data() + tokens};
  math->attention(shape, in, 0, 0, tokens, {out.data(), 128}, rows, scratch.data());
  for (auto _ : state) {
    if (backward) {
      math->attention_backward(shape, in, 0, {out.data(), 128}, rows, {q.data(), 128}, {dq.data(), 128},
                               {dq.data() + tokens * 128, 128}, {dq.data() + 2 * tokens * 128, 128}, nullptr,
                               scratch.data());
    } else {
      math->attention(shape, in, 0, 0, tokens, {out.data(), 128}, rows, scratch.data());
    }
    benchmark::DoNotOptimize(out.data());
  }
  const double pairs = static_cast<double>(tokens) * static_cast<double>(tokens + 1) / 2.0;
  report(state, pairs * 128.0 * 2.0 * (backward ? 5.0 : 2.0));
}

void rms_norm(benchmark::State& state, const MathKernels* math, std::size_t columns) {
  const std::vector<float> x = values(columns);
  std::vector<float> y(columns);
  const NormShape shape{1, columns, columns, 0, 1e-5F};
  for (auto _ : state) {
    math->rms_norm(shape, x.data(), x.data(), nullptr, y.data(), nullptr);
    benchmark::DoNotOptimize(y.data());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * columns));
}

// The gate of SwiGLU over one row.
void gate(benchmark::State& state, const MathKernels* math, bool backward, std::size_t columns) {
  const std::vector<float> g = values(columns);
  std::vector<float> h(columns);
  std::vector<float> du(columns);
  constexpr auto kSilu = static_cast<std::size_t>(Activation::Silu);
  for (auto _ : state) {
    if (backward) {
      math->gate_backward[kSilu](g.data(), g.data(), g.data(), columns, h.data(), du.data());
    } else {
      math->gate[kSilu](g.data(), g.data(), columns, h.data());
    }
    benchmark::DoNotOptimize(h.data());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * columns));
}

enum class Loss { LogSum, Gradient, Divergence };

// One row of logits.
void loss(benchmark::State& state, const MathKernels* math, Loss kind, std::size_t vocabulary) {
  const std::vector<float> z = values(vocabulary);
  const std::vector<float> other(z.rbegin(), z.rend());
  std::vector<float> dz(vocabulary);
  LogSum sum;
  math->add_to_log_sum(z.data(), vocabulary, sum);
  const double log_sum = math->log_sum(sum);
  double result = 0;
  for (auto _ : state) {
    switch (kind) {
      case Loss::LogSum:
        sum = {};
        math->add_to_log_sum(z.data(), vocabulary, sum);
        result = sum.sum;
        break;
      case Loss::Gradient:
        math->softmax_gradient(z.data(), vocabulary, log_sum, 7, 1.0F, dz.data());
        break;
      case Loss::Divergence:
        result = math->divergence(z.data(), log_sum, other.data(), log_sum, vocabulary);
        break;
    }
    benchmark::DoNotOptimize(result);
    benchmark::DoNotOptimize(dz.data());
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * vocabulary));
}

[[maybe_unused]] const bool kRegistered = [] {
  benchmark::RegisterBenchmark("cached", cached, &runnable_math_kernels().front());
  for (const MathKernels& math : runnable_math_kernels()) {
    const std::string isa = "/" + std::string(math.isa);
    const bool slow = math.isa == "scalar";
    for (const Format format : {Format::F32, Format::F16, Format::BF16, Format::Q4_K}) {
      const std::size_t tokens = slow ? 32 : 512;
      const std::size_t columns = slow ? 256 : 2048;
      const std::string name = "/" + std::string(traits(format).name) + isa + "/" + std::to_string(tokens) +
                               "/240/" + std::to_string(columns);
      benchmark::RegisterBenchmark(("product" + name).c_str(), product, &math, Direction::Forward, format,
                                   tokens, 240, columns);
      benchmark::RegisterBenchmark(("backward" + name).c_str(), product, &math, Direction::Backward, format,
                                   tokens, 240, columns);
      if (format == Format::F32)
        benchmark::RegisterBenchmark(("outer" + name).c_str(), product, &math, Direction::Outer, format,
                                     tokens, 240, columns);
    }
    const std::size_t tokens = slow ? 64 : 512;
    benchmark::RegisterBenchmark(("attention" + isa + "/" + std::to_string(tokens)).c_str(), attention, &math,
                                 false, tokens);
    benchmark::RegisterBenchmark(("attention_backward" + isa + "/" + std::to_string(tokens)).c_str(),
                                 attention, &math, true, tokens);
    benchmark::RegisterBenchmark(("rms_norm" + isa + "/4096").c_str(), rms_norm, &math, 4096);
    benchmark::RegisterBenchmark(("gate" + isa + "/4096").c_str(), gate, &math, false, 4096);
    benchmark::RegisterBenchmark(("gate_backward" + isa + "/4096").c_str(), gate, &math, true, 4096);
    benchmark::RegisterBenchmark(("log_sum" + isa + "/32768").c_str(), loss, &math, Loss::LogSum, 32768);
    benchmark::RegisterBenchmark(("softmax_gradient" + isa + "/32768").c_str(), loss, &math, Loss::Gradient,
                                 32768);
    benchmark::RegisterBenchmark(("divergence" + isa + "/32768").c_str(), loss, &math, Loss::Divergence,
                                 32768);
  }
  return true;
}();

}  // namespace
}  // namespace quantfit::kernels

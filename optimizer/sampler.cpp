#include "optimizer/sampler.h"

#include <tbb/blocked_range.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>

#include "kernels/row_quantizer.h"

namespace quantfit::optimizer {
namespace {

// FNV-1a: stable across machines and versions, unlike std::hash.
std::uint64_t hash_of(std::string_view text, std::uint64_t seed) {
  std::uint64_t hash = 0xCBF29CE484222325U ^ (seed * 0x9E3779B97F4A7C15U);
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  hash ^= hash >> 29;
  hash *= 0xBF58476D1CE4E5B9U;
  return hash ^ (hash >> 32);
}

// A step that visits all of 0..n-1 and spreads any prefix evenly: coprime to n, near n divided by the golden ratio.
std::uint64_t spreading_step(std::uint64_t n) {
  if (n < 3) return 1;
  auto step = static_cast<std::uint64_t>(static_cast<double>(n) * 0.6180339887498949);
  step = std::clamp<std::uint64_t>(step, 1, n - 1);
  while (std::gcd(step, n) != 1) ++step;
  return step;
}

// (start + index * step) mod n without overflow.
std::uint64_t walk(std::uint64_t start, std::uint64_t step, std::uint64_t index, std::uint64_t n) {
  __extension__ using Wide = unsigned __int128;
  return n == 0 ? 0 : static_cast<std::uint64_t>((Wide{index % n} * step + start) % n);
}

// What one row contributes to one format.
struct RowCost {
  double error = 0;  // D, weighted by the matrix's share of tokens
  double bias = 0;
  double seconds = 0;
};

// Sums over the rows of one format, of D and of its products with the energy E that the ratio's variance needs.
struct FormatSums {
  double d = 0, dd = 0, de = 0, bias = 0, seconds = 0;
};

struct Totals {
  std::uint64_t rows = 0;
  double e = 0, ee = 0;
  std::vector<FormatSums> formats;
};

FormatError error_of(Format format, const Totals& totals, const FormatSums& sums, std::uint64_t population) {
  FormatError error;
  error.format = format;
  error.seconds = sums.seconds;
  if (!(totals.e > 0)) return error;  // a tensor of zeros: every format is exact
  const double ratio = sums.d / totals.e;
  error.nmse = ratio;
  error.bias_share = sums.d > 0 ? sums.bias / sums.d : 0;
  if (totals.rows > 1) {
    // Ratio estimator of a sample without replacement (Cochran, Sampling Techniques, eq. 6.13).
    const auto n = static_cast<double>(totals.rows);
    const double residual = std::max(sums.dd - 2 * ratio * sums.de + ratio * ratio * totals.ee, 0.0);
    const double finite = 1.0 - n / static_cast<double>(population);
    error.standard_error = std::sqrt(std::max(finite, 0.0) * n / (n - 1) * residual) / totals.e;
  }
  return error;
}

class TensorSampler {
 public:
  TensorSampler(const Model& model, const SamplingTask& task, const SamplerOptions& options, TensorMetric metric,
                tbb::enumerable_thread_specific<kernels::RowQuantizer>& quantizers, ProgressSink& progress,
                const CancellationToken& cancel)
      : model_(model),
        task_(task),
        options_(options),
        metric_(std::move(metric)),
        quantizers_(quantizers),
        progress_(progress),
        cancel_(cancel),
        sample_(task.tensor->name, task.tensor->ne[1], task.tensor->matrices(), options.plan.seed) {
    totals_.formats.resize(task.formats.size());
  }

  Result<SampledTensor> run() {
    const std::uint64_t limit = std::min(sample_.size(), std::max(options_.plan.max_rows, options_.plan.min_rows));
    std::uint64_t target = std::min(limit, options_.plan.min_rows);
    std::uint64_t announced = std::min(limit, options_.plan.min_rows);
    while (true) {
      QF_TRY(measure_rows(totals_.rows, target, announced));
      if (totals_.rows >= limit || precise_enough()) break;
      target = std::min(limit, totals_.rows + std::max<std::uint64_t>(totals_.rows / 2, 16));
    }
    SampledTensor result;
    result.rows_sampled = totals_.rows;
    for (std::size_t f = 0; f < task_.formats.size(); ++f)
      result.errors.push_back(error_of(task_.formats[f], totals_, totals_.formats[f], sample_.size()));
    return result;
  }

 private:
  // Rows [begin, end) of the sample, a bounded number at a time, each by whichever thread is free; then their sums
  // in sample order, so that the result does not depend on who did what.
  Result<void> measure_rows(std::uint64_t begin, std::uint64_t end, std::uint64_t announced) {
    constexpr std::uint64_t kRowsInFlight = 1024;
    for (; begin < end; begin += kRowsInFlight) {
      const std::uint64_t count = std::min(kRowsInFlight, end - begin);
      costs_.assign(count * task_.formats.size(), {});
      energies_.assign(count, 0.0);
      std::mutex failure_lock;
      std::optional<Error> failure;
      std::atomic<bool> failed{false};
      const auto measure_range = [&](const tbb::blocked_range<std::uint64_t>& range) {
        for (std::uint64_t i = range.begin(); i != range.end(); ++i) {
          if (cancel_.cancelled() || failed.load(std::memory_order_relaxed)) return;
          if (auto done = measure_row(begin + i, i); !done) {
            const std::scoped_lock lock(failure_lock);
            failed = true;
            if (!failure) failure = std::move(done).error();
          } else if (begin + i < announced) {
            progress_.advance(task_.tensor->row_length(), task_.tensor->name);
          }
        }
      };
      // Isolated: a thread that waits here helps with these rows only and never begins another tensor, so that at
      // most one tensor per thread is unfinished at any time.
      tbb::this_task_arena::isolate(
          [&] { tbb::parallel_for(tbb::blocked_range<std::uint64_t>(0, count, 1), measure_range); });
      if (failure) return *std::move(failure);
      if (cancel_.cancelled()) return fail(ErrorCode::Interrupted, "interrupted while sampling {}", task_.tensor->name);
      add_up(count);
    }
    return outcome::success();
  }

  Result<void> measure_row(std::uint64_t index, std::uint64_t slot) {
    const RowSample::Row at = sample_.at(index);
    const std::uint64_t row = at.matrix * task_.tensor->ne[1] + at.row;
    kernels::RowQuantizer& quantizer = quantizers_.local();
    const double weight = metric_.weight(at.matrix);
    if (auto loaded = quantizer.load(task_.tensor->format, model_.row(*task_.tensor, row), metric_.of(at.matrix));
        !loaded)
      return fail(loaded.error().code, "tensor '{}', row {}: {}", task_.tensor->name, row, loaded.error().message);
    for (std::size_t f = 0; f < task_.formats.size(); ++f) {
      const auto started = std::chrono::steady_clock::now();
      const kernels::RowError error = quantizer.encode_and_measure(task_.formats[f], options_.effort);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
      costs_[slot * task_.formats.size() + f] = {weight * error.total(), weight * error.bias, elapsed.count()};
      energies_[slot] = weight * error.energy;
    }
    return outcome::success();
  }

  void add_up(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const double e = energies_[i];
      totals_.e += e;
      totals_.ee += e * e;
      for (std::size_t f = 0; f < task_.formats.size(); ++f) {
        const RowCost& cost = costs_[i * task_.formats.size() + f];
        FormatSums& sums = totals_.formats[f];
        sums.d += cost.error;
        sums.dd += cost.error * cost.error;
        sums.de += cost.error * e;
        sums.bias += cost.bias;
        sums.seconds += cost.seconds;
      }
    }
    totals_.rows += count;
  }

  [[nodiscard]] bool precise_enough() const {
    for (std::size_t f = 0; f < task_.formats.size(); ++f) {
      const FormatError error = error_of(task_.formats[f], totals_, totals_.formats[f], sample_.size());
      if (error.standard_error > options_.plan.precision * error.nmse) return false;
    }
    return true;
  }

  const Model& model_;
  const SamplingTask& task_;
  const SamplerOptions& options_;
  TensorMetric metric_;
  tbb::enumerable_thread_specific<kernels::RowQuantizer>& quantizers_;
  ProgressSink& progress_;
  const CancellationToken& cancel_;
  RowSample sample_;
  Totals totals_;
  std::vector<RowCost> costs_;     // of the rows in flight, formats contiguous
  std::vector<double> energies_;
};

}  // namespace

std::string SamplingPlan::to_text() const {
  return fmt::format("precision={} min_rows={} max_rows={} seed={}", precision, min_rows, max_rows, seed);
}

RowSample::RowSample(std::string_view tensor_name, std::uint64_t rows_per_matrix, std::uint64_t matrices,
                     std::uint64_t seed)
    : rows_per_matrix_(rows_per_matrix), matrices_(matrices) {
  const std::uint64_t hash = hash_of(tensor_name, seed);
  row_start_ = rows_per_matrix == 0 ? 0 : hash % rows_per_matrix;
  row_step_ = spreading_step(rows_per_matrix);
  matrix_start_ = matrices == 0 ? 0 : (hash >> 32) % matrices;
  matrix_step_ = spreading_step(matrices);
}

RowSample::Row RowSample::at(std::uint64_t index) const {
  const std::uint64_t round = index / matrices_;
  return {walk(matrix_start_, matrix_step_, index % matrices_, matrices_),
          walk(row_start_, row_step_, round, rows_per_matrix_)};
}

std::uint64_t expected_weights(const SamplingTask& task, const SamplingPlan& plan) {
  return std::min(task.tensor->rows(), plan.min_rows) * task.tensor->row_length();
}

Result<void> sample_tensors(
    const Model& model, const ImportanceMatrix* importance, std::span<const SamplingTask> tasks,
    const SamplerOptions& options, const kernels::RowKernels& kernels, ProgressSink& progress,
    const CancellationToken& cancel,
    const std::function<Result<void>(const SamplingTask&, const SampledTensor&)>& finished) {
  std::size_t longest_row = 0;
  std::uint64_t total = 0;
  for (const SamplingTask& task : tasks) {
    longest_row = std::max<std::size_t>(longest_row, task.tensor->row_length());
    total += expected_weights(task, options.plan);
  }
  progress.begin("sampling", total);

  tbb::task_arena arena(options.threads == 0 ? tbb::task_arena::automatic : static_cast<int>(options.threads));
  tbb::enumerable_thread_specific<kernels::RowQuantizer> quantizers(
      [&] { return kernels::RowQuantizer(kernels, longest_row); });
  std::mutex lock;
  std::optional<Error> failure;
  std::atomic<bool> failed{false};
  const auto give_up = [&](Error error) {
    const std::scoped_lock guard(lock);
    failed = true;
    if (!failure) failure = std::move(error);
  };

  arena.execute([&] {
    // Tensors in parallel too, so that the end of one batch of rows leaves no core idle.
    tbb::parallel_for(std::size_t{0}, tasks.size(), [&](std::size_t i) {
      if (cancel.cancelled() || failed.load(std::memory_order_relaxed)) return;
      const SamplingTask& task = tasks[i];
      auto metric = make_tensor_metric(*task.tensor, importance, options.error_model);
      if (!metric) return give_up(std::move(metric).error());
      TensorSampler sampler(model, task, options, std::move(metric).value(), quantizers, progress, cancel);
      auto sampled = sampler.run();
      if (!sampled) return give_up(std::move(sampled).error());
      const std::scoped_lock guard(lock);
      if (failed) return;
      if (auto stored = finished(task, sampled.value()); !stored) {
        failed = true;
        if (!failure) failure = std::move(stored).error();
      }
    });
  });
  progress.end();
  if (failure) return *std::move(failure);
  if (cancel.cancelled()) return fail(ErrorCode::Interrupted, "interrupted while sampling");
  return outcome::success();
}

}  // namespace quantfit::optimizer

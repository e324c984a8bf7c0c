#include "optimizer/measurement/sampler.h"

#include <tbb/blocked_range.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>

#include "core/text.h"
#include "kernels/row_quantizer.h"
#include "optimizer/measurement/interaction.h"
#include "optimizer/parallel/first_failure.h"
#include "optimizer/parallel/workers.h"

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

// A step that visits all of 0..n-1 and spreads any prefix evenly: coprime to n, near n
// divided by the golden ratio.
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

// Numbers of a row that cost next to nothing beside encoding it and go up and down with its errors: what the
// row weighs itself, and two guesses at its rounding error from the spread of short blocks, the range squared
// and the mean square, each times the block's variance of inputs. The first is the denominator of every NMSE.
constexpr std::size_t kAuxiliaries = 3;
using Auxiliaries = std::array<double, kAuxiliaries>;

constexpr std::size_t kLanes = 16;  // independent sums, so that compilers can use vector registers

// `weight`: of the row's matrix in the tensor.
Auxiliaries auxiliaries_of(const kernels::PreparedRow& row, double weight) {
  weight *= row.metric->scale();
  double range = 0;
  double square = 0;
  for (std::size_t j = 0; j < row.columns; j += 2 * kLanes) {
    std::array<float, kLanes> largest{};
    std::array<float, kLanes> squares{};
    std::array<float, kLanes> variances{};
    // Rows are padded with zeros to a multiple of 16.
    for (std::size_t half = j; half < std::min(j + 2 * kLanes, row.columns); half += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const float x = row.x[half + lane];
        largest[lane] = std::max(largest[lane], x < 0 ? -x : x);
        squares[lane] += x * x;
        variances[lane] += row.v[half + lane];
      }
    }
    float most = 0;
    double sum = 0;
    double variance = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      most = std::max(most, largest[lane]);
      sum += squares[lane];
      variance += variances[lane];
    }
    range += double{most} * most * variance;
    square += sum * variance;
  }
  return {weight * row.energy, weight * range, weight * square};
}

// What one row contributes to one format.
struct RowCost {
  double error = 0;  // D, weighted by the matrix's share of tokens
  double bias = 0;
  double seconds = 0;
};

// Sums over the rows of one format.
struct FormatSums {
  std::uint64_t rows = 0;  // the first ones of the sample
  double d = 0, dd = 0, bias = 0, seconds = 0;
  Auxiliaries x{}, xx{}, dx{};  // of auxiliaries, their squares, and their products with D
  std::uint64_t wanted = 0;     // rows to encode before the next look at the numbers
  std::uint64_t scan = 0;       // rows to scan before it
  bool enough = false;          // precise enough, or nothing more to be had
};

// Sums over the first `rows` rows of the sample, which were scanned.
struct ScanSums {
  std::uint64_t rows = 0;
  Auxiliaries x{}, xx{}, xe{};  // of auxiliaries, their squares, and their products with the energy
};

// NMSE by two-phase sampling (Cochran, Sampling Techniques, chapter 12): the rows encoded give the ratio of D
// to an auxiliary x that follows it closely, the many more rows scanned give the ratio of x to the energy E:
//   N = (sum_encoded D / sum_encoded x) (sum_scanned x / sum_scanned E)
//   Var N = [S^2(D - N E) (1/scanned - 1/population) + S^2(D - r x) (1/encoded - 1/scanned)] / mean(E)^2
// For x = E this is the plain ratio estimator. The auxiliary with the least residual S^2(D - r x) is taken.
struct Estimate {
  FormatMeasurement error;
  double scan_variance = 0;    // relative; falls with the rows scanned
  double encode_variance = 0;  // relative; falls with the rows encoded
};

Estimate estimate_of(Format format, const ScanSums& scan, const FormatSums& sums, std::uint64_t population) {
  Estimate estimate;
  FormatMeasurement& error = estimate.error;
  error.format = format;
  error.seconds = sums.seconds;
  if (!(sums.x[0] > 0)) return estimate;  // a tensor of zeros: every format is exact
  const auto n = static_cast<double>(sums.rows);
  const auto residual = [&](std::size_t k) {
    const double ratio = sums.d / sums.x[k];
    return std::max(sums.dd - 2 * ratio * sums.dx[k] + ratio * ratio * sums.xx[k], 0.0) /
           std::max(n - 1, 1.0);
  };
  const double plain = residual(0);
  double least = plain;
  std::size_t best = 0;
  for (std::size_t k = 1; k < kAuxiliaries; ++k) {
    // Huge weights overflow squares; they fall back to the plain ratio.
    if (!(sums.x[k] > 0) || !std::isfinite(sums.xx[k]) || !std::isfinite(scan.xx[k])) continue;
    if (const double with = residual(k); with < least) {
      least = with;
      best = k;
    }
  }
  error.nmse = best == 0 ? sums.d / sums.x[0] : sums.d / sums.x[best] * (scan.x[best] / scan.x[0]);
  error.bias_share = sums.d > 0 ? sums.bias / sums.d : 0;
  if (!(error.nmse > 0) || sums.rows < 2) return estimate;
  const auto scanned = static_cast<double>(scan.rows);
  const double mean_d = sums.d / n;
  // D - N E varies as the sum of r x - N E, known for all rows scanned, and of D - r x. The few rows encoded
  // often miss the rare large ones among the former; where they do not, they are believed.
  const double r = sums.d / sums.x[best];
  const double nmse = r * scan.x[best] / scan.x[0];
  const double between =
      std::max(r * r * scan.xx[best] - 2 * r * nmse * scan.xe[best] + nmse * nmse * scan.xx[0], 0.0) /
      std::max(scanned - 1, 1.0);
  estimate.scan_variance = std::max(1 / scanned - 1 / static_cast<double>(population), 0.0) *
                           std::max(plain, between + least) / (mean_d * mean_d);
  estimate.encode_variance = std::max(1 / n - 1 / scanned, 0.0) * least / (mean_d * mean_d);
  error.standard_error = error.nmse * std::sqrt(estimate.scan_variance + estimate.encode_variance);
  return estimate;
}

using Quantizers = tbb::enumerable_thread_specific<kernels::RowQuantizer>;

class TensorSampler {
 public:
  TensorSampler(const Model& model, const SamplingTask& task, const SamplerOptions& options,
                TensorMetric metric, Quantizers& quantizers, ProgressSink& progress,
                const CancellationToken& cancel)
      : model_(model),
        task_(task),
        options_(options),
        metric_(std::move(metric)),
        quantizers_(quantizers),
        progress_(progress),
        cancel_(cancel),
        sample_(task.tensor->name, task.tensor->ne[1], task.tensor->matrices(), options.sampling.seed) {
    formats_.resize(task.formats.size());
  }

  Result<SampledTensor> run() {
    const std::uint64_t population = sample_.size();
    const std::uint64_t limit =
        std::min(population, std::max(options_.sampling.max_rows, options_.sampling.min_rows));
    announced_ = std::min(limit, std::max<std::uint64_t>(options_.sampling.min_rows, 2));
    for (FormatSums& sums : formats_) {
      sums.wanted = announced_;
      sums.scan = scan_step(announced_);
    }
    while (std::ranges::any_of(formats_, [](const FormatSums& sums) { return !sums.enough; })) {
      QF_TRY(scan_rows());
      QF_TRY(encode_rows());
      for (std::size_t f = 0; f < formats_.size(); ++f)
        if (!formats_[f].enough)
          ask_for_more(formats_[f],
                       estimate_of(task_.formats[f], scanned_to(formats_[f].scan), formats_[f], population),
                       limit);
    }
    SampledTensor result;
    for (std::size_t f = 0; f < task_.formats.size(); ++f) {
      const ScanSums& scan = scanned_to(formats_[f].scan);
      const FormatMeasurement error = estimate_of(task_.formats[f], scan, formats_[f], population).error;
      if (!std::isfinite(scan.x[0]) || !std::isfinite(error.nmse) || !std::isfinite(error.standard_error))
        return fail(ErrorCode::Unsupported, "tensor {}: its weights are too large to measure errors of",
                    printable(task_.tensor->name));
      result.rows_sampled = std::max(result.rows_sampled, formats_[f].rows);
      result.errors.push_back(error);
    }
    return result;
  }

 private:
  // Rows scanned per row encoded at least: a scan takes about 1 ns per weight, the default formats some
  // hundred.
  static constexpr std::uint64_t kScanFactor = 16;
  static constexpr double kScanShare = 0.2;  // of the variance allowed
  static constexpr std::uint64_t kRowsInFlight = 1024;

  // How many rows are scanned where `encoded` are encoded: a power of two times the first number, so that all
  // formats look at the sums over the same few numbers of rows.
  [[nodiscard]] std::uint64_t scan_step(std::uint64_t encoded) const {
    std::uint64_t rows = kScanFactor * announced_;
    while (rows < kScanFactor * encoded && rows < sample_.size()) rows *= 2;
    return std::min(rows, sample_.size());
  }

  // Rows come in numbers that are the same for all formats, an eighth more each time, so that formats which
  // go on at different times still share the reading and preparing of rows.
  [[nodiscard]] std::uint64_t encode_step(std::uint64_t wanted, std::uint64_t limit) const {
    std::uint64_t rows = announced_;
    while (rows < wanted && rows < limit) rows = std::max(rows + rows / 8, rows + 8);
    return std::min(rows, limit);
  }

  // What a format still needs. It depends on this format's numbers alone: which others are measured beside it
  // changes nothing.
  void ask_for_more(FormatSums& sums, const Estimate& estimate, std::uint64_t limit) const {
    const std::uint64_t population = sample_.size();
    const double allowed = options_.sampling.precision * options_.sampling.precision;
    if (estimate.scan_variance + estimate.encode_variance <= allowed) {
      sums.enough = true;
      return;
    }
    // Scanning is cheap, so most of what the precision allows is left to the rows encoded.
    const double scan_allowed = kScanShare * allowed;
    const double encode_allowed = allowed - scan_allowed;
    const bool scan_more = estimate.scan_variance > scan_allowed && sums.scan < population;
    const bool encode_more = estimate.encode_variance > encode_allowed || !scan_more;
    if (encode_more && sums.rows == limit && !scan_more) {
      sums.enough = true;
      return;
    }
    if (scan_more) sums.scan = std::min(population, 4 * sums.scan);
    if (encode_more) {
      // What the variance seen so far asks for, but at most twice as many: it is an estimate itself.
      const double wanted =
          static_cast<double>(sums.rows) * std::clamp(estimate.encode_variance / encode_allowed, 1.125, 2.0);
      sums.wanted =
          std::min(limit, std::max(encode_step(static_cast<std::uint64_t>(wanted), limit), sums.rows + 8));
      sums.scan = std::max(sums.scan, scan_step(sums.wanted));
    }
  }

  // Calls measure(index, slot) for the rows [begin, begin + count) of the sample, slots 0 .. count - 1, each
  // on whichever thread is free.
  template <class Measure>
  Result<void> for_rows(std::uint64_t begin, std::uint64_t count, std::size_t grain, const Measure& measure) {
    FirstFailure failure;
    const auto measure_range = [&](const tbb::blocked_range<std::uint64_t>& range) {
      for (std::uint64_t i = range.begin(); i != range.end(); ++i) {
        if (cancel_.cancelled() || failure.reported()) return;
        if (auto done = measure(begin + i, i); !done) failure.report(std::move(done).error());
      }
    };
    // Isolated: a thread that waits here helps with these rows only and never begins another tensor, so that
    // at most one tensor per thread is unfinished at any time.
    tbb::this_task_arena::isolate(
        [&] { tbb::parallel_for(tbb::blocked_range<std::uint64_t>(0, count, grain), measure_range); });
    QF_TRY(failure.result());
    if (cancel_.cancelled())
      return fail(ErrorCode::Interrupted, "interrupted while sampling {}", task_.tensor->name);
    return outcome::success();
  }

  // The sums over so many rows, which scan_rows() has stopped at.
  [[nodiscard]] const ScanSums& scanned_to(std::uint64_t rows) const {
    return *std::ranges::find(scanned_, rows, &ScanSums::rows);
  }

  // Scans up to every number of rows that a format wants, a bounded number at a time; sums are taken in
  // sample order, so that the result does not depend on who did what.
  Result<void> scan_rows() {
    std::vector<std::uint64_t> ends;
    for (const FormatSums& sums : formats_) ends.push_back(sums.scan);
    // All steps on the way too: a format may want one of them later.
    for (std::uint64_t rows = kScanFactor * announced_; rows < std::ranges::max(ends); rows *= 2)
      ends.push_back(std::min(rows, sample_.size()));
    std::ranges::sort(ends);
    for (const std::uint64_t end : ends)
      if (scanned_.empty() || scanned_.back().rows < end) QF_TRY(scan_up_to(end));
    return outcome::success();
  }

  Result<void> scan_up_to(std::uint64_t end) {
    ScanSums sums = scanned_.empty() ? ScanSums{} : scanned_.back();
    while (sums.rows < end) {
      const std::uint64_t count = std::min(kRowsInFlight, end - sums.rows);
      ask_for(sums.rows, count);
      auxiliaries_.resize(count);
      QF_TRY(for_rows(sums.rows, count, 8, [&](std::uint64_t index, std::uint64_t slot) -> Result<void> {
        QF_ASSIGN(const RowSample::Row at, load(index, false));
        auxiliaries_[slot] = auxiliaries_of(quantizers_.local().row(), metric_.weight(at.matrix));
        return outcome::success();
      }));
      for (const Auxiliaries& x : auxiliaries_)
        for (std::size_t k = 0; k < kAuxiliaries; ++k) {
          sums.x[k] += x[k];
          sums.xx[k] += x[k] * x[k];
          sums.xe[k] += x[k] * x[0];
        }
      sums.rows += count;
    }
    scanned_.push_back(sums);
    return outcome::success();
  }

  // Encodes what each format wants and has not yet, from the first such row on.
  Result<void> encode_rows() {
    while (true) {
      std::uint64_t begin = sample_.size();
      std::uint64_t end = 0;
      for (const FormatSums& sums : formats_) {
        if (sums.rows >= sums.wanted) continue;
        begin = std::min(begin, sums.rows);
        end = std::max(end, sums.wanted);
      }
      if (begin >= end) return outcome::success();
      const std::uint64_t count = std::min(kRowsInFlight, end - begin);
      ask_for(begin, count);
      costs_.resize(count * formats_.size());
      auxiliaries_.resize(count);
      QF_TRY(for_rows(begin, count, 1,
                      [&](std::uint64_t index, std::uint64_t slot) { return encode_row(index, slot); }));
      add_up(begin, count);
    }
  }

  // Rows of a sample lie far apart: the system reads them all at once instead of one after the other.
  void ask_for(std::uint64_t begin, std::uint64_t count) const {
    for (std::uint64_t i = begin; i < begin + count; ++i)
      model_.will_need(model_.row(*task_.tensor, row_of(sample_.at(i))));
  }

  [[nodiscard]] std::uint64_t row_of(const RowSample::Row& at) const {
    return at.matrix * task_.tensor->ne[1] + at.row;
  }

  // Puts a row of the sample into this thread's quantizer; to be encoded or only to be looked at.
  Result<RowSample::Row> load(std::uint64_t index, bool to_encode) {
    const RowSample::Row at = sample_.at(index);
    const std::uint64_t row = row_of(at);
    std::shared_ptr<const kernels::CovarianceFactor> covariance;
    if (to_encode && options_.covariances != nullptr) {
      QF_ASSIGN(covariance, options_.covariances->covariance(*task_.tensor, at.matrix));
    }
    if (auto loaded = quantizers_.local().load(task_.tensor->format, model_.row(*task_.tensor, row),
                                               metric_.of(at.matrix), std::move(covariance));
        !loaded)
      return fail(loaded.error().code, "tensor {}, row {}: {}", printable(task_.tensor->name), row,
                  loaded.error().message);
    return at;
  }

  Result<void> encode_row(std::uint64_t index, std::uint64_t slot) {
    QF_ASSIGN(const RowSample::Row at, load(index, true));
    kernels::RowQuantizer& quantizer = quantizers_.local();
    const double weight = metric_.weight(at.matrix);
    auxiliaries_[slot] = auxiliaries_of(quantizer.row(), weight);
    auto started = std::chrono::steady_clock::now();
    for (std::size_t f = 0; f < task_.formats.size(); ++f) {
      if (index < formats_[f].rows || index >= formats_[f].wanted) continue;
      const kernels::RowError error = quantizer.encode_and_measure(task_.formats[f], options_.effort);
      const auto finished = std::chrono::steady_clock::now();
      const std::chrono::duration<double> elapsed = finished - started;
      costs_[slot * task_.formats.size() + f] = {weight * cost_of(error), weight * error.bias,
                                                 elapsed.count()};
      started = finished;
    }
    if (index < announced_) progress_.advance(task_.tensor->row_length(), task_.tensor->name);
    return outcome::success();
  }

  [[nodiscard]] double cost_of(const kernels::RowError& error) const {
    if (options_.covariances == nullptr || !(error.energy > 0)) return error.total();
    return error.energy * interacting(error.total() / error.energy);
  }

  void add_up(std::uint64_t begin, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const Auxiliaries& x = auxiliaries_[i];
      for (std::size_t f = 0; f < task_.formats.size(); ++f) {
        FormatSums& sums = formats_[f];
        if (begin + i != sums.rows || sums.rows >= sums.wanted) continue;
        const RowCost& cost = costs_[i * task_.formats.size() + f];
        ++sums.rows;
        sums.d += cost.error;
        sums.dd += cost.error * cost.error;
        for (std::size_t k = 0; k < kAuxiliaries; ++k) {
          sums.x[k] += x[k];
          sums.xx[k] += x[k] * x[k];
          sums.dx[k] += cost.error * x[k];
        }
        sums.bias += cost.bias;
        sums.seconds += cost.seconds;
      }
    }
  }

  const Model& model_;
  const SamplingTask& task_;
  const SamplerOptions& options_;
  TensorMetric metric_;
  Quantizers& quantizers_;
  ProgressSink& progress_;
  const CancellationToken& cancel_;
  RowSample sample_;
  std::vector<FormatSums> formats_;  // as in the task
  std::vector<ScanSums> scanned_;    // ascending rows
  std::vector<RowCost> costs_;       // of the rows in flight, formats contiguous
  std::vector<Auxiliaries> auxiliaries_;
  std::uint64_t announced_ = 0;  // rows that count as progress
};

}  // namespace

std::string SamplingParameters::to_text() const {
  return fmt::format("method=two-phase-by-format precision={} min_rows={} max_rows={} seed={}", precision,
                     min_rows, max_rows, seed);
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

std::uint64_t expected_weights(const SamplingTask& task, const SamplingParameters& sampling) {
  return std::min(task.tensor->rows(), sampling.min_rows) * task.tensor->row_length();
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
    total += expected_weights(task, options.sampling);
  }
  progress.begin("sampling", total);

  Workers workers(options.threads);
  Quantizers quantizers([&] { return kernels::RowQuantizer(kernels, longest_row); });
  FirstFailure failure;
  std::mutex finishing;

  const ModelWatch watch(model);
  model.expect_random_access(true);
  workers.run([&] {
    // Tensors in parallel too, so that the end of one batch of rows leaves no core idle.
    tbb::parallel_for(std::size_t{0}, tasks.size(), [&](std::size_t i) {
      if (cancel.cancelled() || failure.reported()) return;
      const SamplingTask& task = tasks[i];
      auto metric = make_tensor_metric(*task.tensor, importance, options.error_model);
      if (!metric) return failure.report(std::move(metric).error());
      TensorSampler sampler(model, task, options, std::move(metric).value(), quantizers, progress, cancel);
      auto sampled = sampler.run();
      model.done_with(model.data(*task.tensor));
      // Before the numbers are stored, or a weight is called broken that was never read.
      if (auto unchanged = watch.check(); !unchanged) return failure.report(std::move(unchanged).error());
      if (!sampled) return failure.report(std::move(sampled).error());
      const std::scoped_lock one_at_a_time(finishing);
      if (failure.reported()) return;
      if (auto stored = finished(task, sampled.value()); !stored) failure.report(std::move(stored).error());
    });
  });
  model.expect_random_access(false);
  progress.end();
  QF_TRY(failure.result());
  if (cancel.cancelled()) return fail(ErrorCode::Interrupted, "interrupted while sampling");
  return outcome::success();
}

}  // namespace quantfit::optimizer

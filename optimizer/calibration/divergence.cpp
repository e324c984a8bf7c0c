#include "optimizer/calibration/divergence.h"

#include <algorithm>
#include <cmath>

namespace quantfit::calibration {
namespace {

// Mean and its standard error, values taken as independent.
template <class Value>
Estimate mean_of(std::size_t count, const Value& value) {
  if (count == 0) return {};
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += value(i);
  const double mean = sum / static_cast<double>(count);
  double squares = 0;
  for (std::size_t i = 0; i < count; ++i) squares += (value(i) - mean) * (value(i) - mean);
  if (count < 2) return {mean, 0};
  const auto n = static_cast<double>(count);
  return {mean, std::sqrt(squares / (n - 1) / n)};
}

Estimate exponential(Estimate of) {
  const double value = std::exp(of.value);
  return {value, value * of.error};
}

// Of sorted values, between neighbours by a straight line.
double quantile(const std::vector<double>& sorted, double percent) {
  if (sorted.empty()) return 0;
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double share = place - static_cast<double>(below);
  return sorted[below] + share * (sorted[above] - sorted[below]);
}

std::vector<double> chunk_means(std::span<const CandidateScore> scores, std::size_t per_chunk) {
  std::vector<double> means;
  for (std::size_t first = 0; first + per_chunk <= scores.size(); first += per_chunk)
    means.push_back(mean_of(per_chunk, [&](std::size_t i) { return scores[first + i].divergence; }).value);
  return means;
}

}  // namespace

Estimate perplexity(std::span<const BaseScore> scores) {
  return exponential(mean_of(scores.size(), [&](std::size_t i) { return scores[i].log_loss; }));
}

DivergenceFigures divergence_figures(std::span<const BaseScore> base,
                                     std::span<const CandidateScore> candidate, std::size_t per_chunk) {
  DivergenceFigures out;
  const std::size_t count = candidate.size();
  out.positions = count;
  if (count == 0) return out;
  const Estimate loss = mean_of(count, [&](std::size_t i) { return candidate[i].log_loss; });
  const Estimate base_loss = mean_of(count, [&](std::size_t i) { return base[i].log_loss; });
  out.perplexity = exponential(loss);
  out.log_ratio = mean_of(count, [&](std::size_t i) { return candidate[i].log_loss - base[i].log_loss; });
  out.perplexity_ratio = exponential(out.log_ratio);
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double x = candidate[i].log_loss - loss.value, y = base[i].log_loss - base_loss.value;
    xx += x * x, yy += y * y, xy += x * y;
  }
  out.correlation = xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 1;

  out.divergence = mean_of(count, [&](std::size_t i) { return candidate[i].divergence; });
  const std::vector<double> means = chunk_means(candidate, per_chunk);
  out.divergence_chunk_error = mean_of(means.size(), [&](std::size_t i) { return means[i]; }).error;
  std::vector<double> sorted(count);
  std::ranges::transform(candidate, sorted.begin(), &CandidateScore::divergence);
  std::ranges::sort(sorted);
  out.divergence_max = sorted.back();
  for (std::size_t i = 0; i < kQuantiles.size(); ++i)
    out.divergence_quantiles[i] = quantile(sorted, kQuantiles[i]);

  const auto difference = [&](std::size_t i) { return candidate[i].probability_difference; };
  out.probability_difference = mean_of(count, difference);
  const Estimate square = mean_of(count, [&](std::size_t i) { return difference(i) * difference(i); });
  out.probability_rms.value = std::sqrt(square.value);
  if (square.value > 0) out.probability_rms.error = 0.5 * square.error / out.probability_rms.value;
  out.same_top = mean_of(count, [&](std::size_t i) { return candidate[i].same_top ? 1.0 : 0.0; });
  return out;
}

PairedComparison compare(std::span<const CandidateScore> a, std::span<const CandidateScore> b,
                         std::size_t per_chunk) {
  const std::vector<double> of_a = chunk_means(a, per_chunk);
  const std::vector<double> of_b = chunk_means(b, per_chunk);
  const std::size_t chunks = std::min(of_a.size(), of_b.size());
  PairedComparison out;
  out.difference = mean_of(chunks, [&](std::size_t i) { return of_a[i] - of_b[i]; });
  const double mean_b = mean_of(chunks, [&](std::size_t i) { return of_b[i]; }).value;
  if (mean_b > 0) {
    out.ratio.value = 1 + out.difference.value / mean_b;
    out.ratio.error =
        mean_of(chunks, [&](std::size_t i) { return of_a[i] - out.ratio.value * of_b[i]; }).error / mean_b;
  }
  if (out.difference.error > 0) out.significance = std::fabs(out.difference.value) / out.difference.error;
  return out;
}

}  // namespace quantfit::calibration

// What all formats share for a row: the gain functional, the suffix sums, and the error of a decoded row.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/covariance.h"
#include "kernels/lanes-inl.h"
#include "kernels/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

PreparedRow prepare(const ColumnMetric& metric, RowWorkspace& workspace) {
  PreparedRow row;
  row.columns = metric.columns();
  row.x = workspace.x();
  row.v = metric.variance();
  row.p = metric.mean();
  row.q = workspace.q();
  row.a = metric.second_moment();
  row.has_p = metric.has_mean();
  row.suffix = workspace.suffix();
  row.metric = &metric;
  row.covariance = metric.covariance();

  const std::size_t groups = (row.columns + 15) / 16;
  F even = zero();
  F odd = zero();
  std::size_t g = 0;
  for (; g + 1 < groups; g += 2) {
    const F x = load(row.x + 16 * g);
    const F y = load(row.x + 16 * g + 16);
    even = fma(load(row.a + 16 * g) * x, x, even);
    odd = fma(load(row.a + 16 * g + 16) * y, y, odd);
  }
  if (g < groups) even = fma(load(row.a + 16 * g) * load(row.x + 16 * g), load(row.x + 16 * g), even);
  row.energy = sum(even + odd);
  // Rows so small or so large that the functional would leave the range of a float have no gain term.
  row.has_q = metric.kappa() > 1.0F && row.energy > 1e-30F && row.energy < 1e30F;
  const F gain = set(row.has_q ? std::sqrt((metric.kappa() - 1.0F) / row.energy) : 0.0F);

  row.x_tiles = workspace.x_tiles();
  row.v_tiles = metric.variance_tiles();
  row.p_tiles = metric.mean_tiles();
  row.q_tiles = workspace.q_tiles();
  row.shift_tiles = metric.shift_tiles();
  row.feedback = workspace.feedback();
  for (g = 0; g < groups; ++g) {
    const F q = row.has_q ? load(row.a + 16 * g) * load(row.x + 16 * g) * gain : zero();
    store(q, workspace.q() + 16 * g);
  }
  // Sums per group: lanes of a tile, so that none needs a sum across lanes. They go into `suffix` first.
  float* suffix = workspace.suffix();
  for (std::size_t first = 0; first < row.columns; first += ColumnMetric::kTileColumns) {
    F columns[16];
    const std::size_t count = std::min(16 * groups - first, ColumnMetric::kTileColumns);
    if (count == ColumnMetric::kTileColumns) {
      load_transposed(row.x + first, columns);
    } else {
      HWY_ALIGN float padded[256] = {};
      std::memcpy(padded, row.x + first, count * sizeof(float));
      load_transposed(padded, columns);
    }
    F pp = zero();
    F pq = zero();
    F qq = zero();
    for (int k = 0; k < 16; ++k) {
      const std::size_t at = first + 16 * static_cast<std::size_t>(k);
      const F x = columns[k];
      const F p = load(row.p_tiles + at);
      const F q = row.has_q ? load(metric.second_moment_tiles() + at) * x * gain : zero();
      const F shift = load(row.shift_tiles + at);
      pp = fma(p * p, shift, pp);
      pq = fma(p * q, shift, pq);
      qq = fma(q * q, shift, qq);
      const F bounded = clamp(x, set(-0x1p30F), set(0x1p30F));
      store(select(abs(x) < set(1e-30F), zero(), bounded), workspace.x_tiles() + at);
      store(q, workspace.q_tiles() + at);
    }
    HWY_ALIGN float sums[48];
    store(pp, sums);
    store(pq, sums + 16);
    store(qq, sums + 32);
    for (std::size_t l = 0; l < count / 16; ++l)
      for (std::size_t i = 0; i < 3; ++i) suffix[3 * (first / 16 + l) + i] = sums[16 * i + l];
  }
  float total[3] = {0.0F, 0.0F, 0.0F};
  for (std::size_t i = 0; i < 3; ++i) suffix[3 * groups + i] = 0.0F;
  for (g = groups; g-- > 0;)
    for (std::size_t i = 0; i < 3; ++i) {
      total[i] += suffix[3 * g + i];
      suffix[3 * g + i] = total[i];
    }
  return row;
}

// e^T C e / scale = sum_j D_j (sum_{i <= j} U_ij e_i)^2; the inner sums grow in row.feedback.
double covariance_error(const PreparedRow& row, const float* decoded) {
  const CovarianceFactor& factor = *row.covariance;
  std::fill_n(row.feedback, (row.columns + 255) / 256 * 256, 0.0F);
  for (std::size_t i = 0; i < row.columns; ++i) {
    const F e = set(decoded[i] - row.x[i]);
    const std::size_t begin = i / 16 * 16;
    const float* line = factor.feedback(i, begin);
    for (std::size_t j = begin; j < factor.reach(i); j += 16)
      store(fma(e, load(line + (j - begin)), load(row.feedback + j)), row.feedback + j);
  }
  double total = 0;
  for (std::size_t first = 0; first < row.columns; first += 256) {
    F square = zero();
    for (std::size_t j = first; j < std::min(first + 256, row.columns); j += 16) {
      const F sum = load(row.feedback + j);
      square = fma(sum * load(factor.innovations() + j), sum, square);
    }
    total += double{sum(square)};
  }
  return total;
}

RowError measure(const PreparedRow& row, const float* decoded) {
  F variance = zero();
  F bias = zero();
  F gain = zero();
  const std::size_t whole = row.columns / 16 * 16;
  for (std::size_t j = 0; j < whole; j += 16) {
    const F e = load(decoded + j) - load(row.x + j);
    variance = fma(load(row.v + j) * e, e, variance);
    bias = fma(load(row.p + j), e, bias);
    gain = fma(load(row.q + j), e, gain);
  }
  double variance_sum = sum(variance);
  double bias_sum = sum(bias);
  double gain_sum = sum(gain);
  for (std::size_t j = whole; j < row.columns; ++j) {
    const double e = double{decoded[j]} - double{row.x[j]};
    variance_sum += row.v[j] * e * e;
    bias_sum += row.p[j] * e;
    gain_sum += row.q[j] * e;
  }
  const double scale = row.metric->scale();
  RowError error;
  error.variance = variance_sum * scale;
  error.bias = bias_sum * bias_sum * scale;
  error.gain = gain_sum * gain_sum * scale;
  error.energy = double{row.energy} * scale;
  if (row.covariance != nullptr) {
    const double total = covariance_error(row, decoded) * row.covariance->scale();
    error.bias = std::min(error.bias, total);
    error.variance = total - error.bias;
    error.gain = 0;
  }
  return error;
}

}  // namespace

void fill_prepare(RowKernels& table) {
  table.prepare = prepare;
  table.measure = measure;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

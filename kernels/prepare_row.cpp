// What all formats share for a row: the gain functional, the suffix sums, and the error of a decoded row.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/prepare_row.cpp"
#include <hwy/foreach_target.h>
// foreach_target first: it decides which targets the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/row_sums-inl.h"
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

  const std::size_t groups = (row.columns + 15) / 16;
  F total = zero();
  for (std::size_t g = 0; g < groups; ++g) {
    const F x = load(row.x + 16 * g);
    total = fma(load(row.a + 16 * g) * x, x, total);
  }
  row.energy = sum(total);
  // Rows so small or so large that the functional would leave the range of a float have no gain term.
  row.has_q = metric.kappa() > 1.0F && row.energy > 1e-30F && row.energy < 1e30F;
  const float gain = row.has_q ? std::sqrt((metric.kappa() - 1.0F) / row.energy) : 0.0F;

  float* suffix = workspace.suffix() + 3 * groups;
  suffix[0] = suffix[1] = suffix[2] = 0.0F;
  for (std::size_t g = groups; g-- > 0;) {
    const F q = row.has_q ? load(row.a + 16 * g) * load(row.x + 16 * g) * set(gain) : zero();
    store(q, workspace.q() + 16 * g);
    const F p = load(row.p + 16 * g);
    const F inverse = set(1.0F) / shift_capacity(load(row.v + 16 * g), p);
    suffix -= 3;
    suffix[0] = suffix[3] + (row.has_p ? sum(p * p * inverse) : 0.0F);
    suffix[1] = suffix[4] + (row.has_p && row.has_q ? sum(p * q * inverse) : 0.0F);
    suffix[2] = suffix[5] + (row.has_q ? sum(q * q * inverse) : 0.0F);
  }
  return row;
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
  return error;
}

}  // namespace

void fill_prepare(RowKernels& table) {
  table.prepare = prepare;
  table.measure = measure;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
QF_DEFINE_FILL(fill_prepare)
#endif

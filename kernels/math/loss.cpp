// The loss side of a model: sums of exponentials over a large vocabulary, gradients, divergences, draws.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/log_double.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// Rows are summed in binary32 over this many values, beyond that in double.
constexpr std::size_t kLossBlock = 4096;

struct SumOfExponentials {
  const float* z;
  float shift;
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    sum = sum + exp(load_first(z + first, count, -HUGE_VALF) - set(shift));
  }
};

void add_to_log_sum(const float* z, std::size_t n, LogSum& sum) {
  if (n == 0) return;
  F best = set(sum.max);
  for (std::size_t i = 0; i < n; i += 16) best = max(best, load_first(z + i, n - i, sum.max));
  const float peak = max_lane(best);
  if (peak > sum.max) {
    sum.sum = sum.sum * static_cast<double>(exp_of(sum.max - peak));
    sum.max = peak;
  }
  for (std::size_t i = 0; i < n; i += kLossBlock)
    sum.sum += static_cast<double>(sum_row(std::min(kLossBlock, n - i), SumOfExponentials{z + i, sum.max}));
}

double log_sum(const LogSum& sum) {
  return static_cast<double>(sum.max) + log_double(sum.sum);
}

void softmax_gradient(const float* z, std::size_t n, double log_sum_of_row, std::size_t target, float factor,
                      float* dz) {
  const F shift = set(static_cast<float>(log_sum_of_row));
  const float of_target = target < n ? first_lane(exp(set(z[target]) - shift)) - 1.0F : 0.0F;
  for (std::size_t i = 0; i < n; i += 16)
    store_first(set(factor) * exp(load_first(z + i, n - i) - shift), dz + i, n - i);
  if (target < n) dz[target] = factor * of_target;
}

struct SumOfDivergence {
  const float* base;
  const float* other;
  float base_log_sum, other_log_sum, offset;
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    const F zp = load_first(base + first, count, -200.0F);
    const F zq = load_first(other + first, count, -200.0F);
    const F d = (zq - zp) + set(offset);
    const F p = exp(zp - set(base_log_sum));
    // Where q is the larger one, p (e^d - 1 - d) = q - p (1 + d), which cannot overflow.
    const F q = exp(zq - set(other_log_sum));
    const F above = fnma(p, set(1.0F) + d, q);
    const F below = p * exp_minus_one_minus(min(d, set(0.5F)));
    F term = select(d > set(0.5F), above, below);
    if (count < 16) term = select(to_float(iota()) < set(static_cast<float>(count)), term, zero());
    sum = sum + term;
  }
};

double divergence(const float* base, double base_log_sum, const float* other, double other_log_sum,
                  std::size_t n) {
  const auto offset = static_cast<float>(base_log_sum - other_log_sum);
  double total = 0.0;
  for (std::size_t i = 0; i < n; i += kLossBlock)
    total += static_cast<double>(sum_row(
        std::min(kLossBlock, n - i), SumOfDivergence{base + i, other + i, static_cast<float>(base_log_sum),
                                                     static_cast<float>(other_log_sum), offset}));
  return total;
}

std::size_t argmax(const float* z, std::size_t n) {
  F best = set(z[0]);
  for (std::size_t i = 0; i < n; i += 16) best = max(best, load_first(z + i, n - i, z[0]));
  const float peak = max_lane(best);
  for (std::size_t i = 0; i < n; ++i)
    if (z[i] == peak) return i;
  return 0;
}

std::size_t sample(const float* z, std::size_t n, double log_sum_of_row, double uniform, double& cumulative) {
  const F shift = set(static_cast<float>(log_sum_of_row));
  for (std::size_t i = 0; i < n; i += 16) {
    HWY_ALIGN float p[16];
    store(exp(load_first(z + i, n - i, -HUGE_VALF) - shift), p);
    for (std::size_t l = 0; l < std::min<std::size_t>(16, n - i); ++l) {
      cumulative += static_cast<double>(p[l]);
      if (cumulative > uniform) return i + l;
    }
  }
  return n;
}

}  // namespace

void fill_loss(MathKernels& table) {
  table.add_to_log_sum = add_to_log_sum;
  table.log_sum = log_sum;
  table.softmax_gradient = softmax_gradient;
  table.divergence = divergence;
  table.argmax = argmax;
  table.sample = sample;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

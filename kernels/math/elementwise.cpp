// Operations on values one by one: sums, products, limits, rounding to 16 bits.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

void add(const float* a, const float* b, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16)
    store_first(load_first(a + i, n - i) + load_first(b + i, n - i), out + i, n - i);
}

void multiply(const float* a, const float* b, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16)
    store_first(load_first(a + i, n - i) * load_first(b + i, n - i), out + i, n - i);
}

void scale(const float* x, float factor, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16) store_first(load_first(x + i, n - i) * set(factor), out + i, n - i);
}

void add_scaled(const float* x, float factor, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16)
    store_first(fma(set(factor), load_first(x + i, n - i), load_first(out + i, n - i)), out + i, n - i);
}

void clamp_values(const float* x, float low, float high, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F value = load_first(x + i, n - i);
    store_first(keep_nan(value, clamp(value, set(low), set(high))), out + i, n - i);
  }
}

void clamp_backward(const float* x, const float* dy, float low, float high, std::size_t n, float* dx) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F value = load_first(x + i, n - i);
    const M inside = (set(low) < value) & (value < set(high));
    store_first(select(inside, load_first(dy + i, n - i), zero()), dx + i, n - i);
  }
}

void softcap(const float* x, float a, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += 16)
    store_first(set(a) * tanh(load_first(x + i, n - i) / set(a)), y + i, n - i);
}

void softcap_backward(const float* y, const float* dy, float a, std::size_t n, float* dx) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F t = load_first(y + i, n - i) / set(a);
    store_first(load_first(dy + i, n - i) * fnma(t, t, set(1.0F)), dx + i, n - i);
  }
}

// By the conversions of half.h, which treat every pattern; bit arithmetic that compilers vectorize.
void round_to_half_values(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = round_to_half(x[i]);
}

void round_to_bfloat16_values(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] = bfloat16_to_float(float_to_bfloat16(x[i]));
}

float dot_product(const float* a, const float* b, std::size_t n) {
  return dot(a, b, n);
}

void exp_values(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16) store_first(exp(load_first(x + i, n - i)), out + i, n - i);
}

void log_values(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += 16) store_first(log(load_first(x + i, n - i, 1.0F)), out + i, n - i);
}

}  // namespace

void fill_elementwise(MathKernels& table) {
  table.add = add;
  table.multiply = multiply;
  table.scale = scale;
  table.add_scaled = add_scaled;
  table.clamp = clamp_values;
  table.clamp_backward = clamp_backward;
  table.softcap = softcap;
  table.softcap_backward = softcap_backward;
  table.round_to_half = round_to_half_values;
  table.round_to_bfloat16 = round_to_bfloat16_values;
  table.dot = dot_product;
  table.exp = exp_values;
  table.log = log_values;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

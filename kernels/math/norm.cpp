// RMS, layer and L2 norms of vectors, forward and backward.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// y = (x - mean) * r * w + b of one vector.
HWY_INLINE void normalized(const float* x, float mean, float r, const float* weight, const float* bias,
                           std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += 16) {
    F value = (load_first(x + i, n - i) - set(mean)) * set(r);
    if (weight != nullptr) value = value * load_first(weight + i, n - i);
    if (bias != nullptr) value = value + load_first(bias + i, n - i);
    store_first(value, y + i, n - i);
  }
}

HWY_INLINE const float* of_row(const float* weight, const NormShape& shape, std::size_t row) {
  return weight == nullptr ? nullptr : weight + row * shape.weight_stride;
}
HWY_INLINE float* of_row(float* weight, const NormShape& shape, std::size_t row) {
  return weight == nullptr ? nullptr : weight + row * shape.weight_stride;
}

void rms_norm(const NormShape& shape, const float* x, const float* weight, const float* bias, float* y,
              float* r) {
  const std::size_t n = shape.columns;
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const float* from = x + row * shape.stride;
    const float inverse = 1.0F / std::sqrt(dot(from, from, n) / static_cast<float>(n) + shape.eps);
    if (r != nullptr) r[row] = inverse;
    normalized(from, 0.0F, inverse, of_row(weight, shape, row), of_row(bias, shape, row), n,
               y + row * shape.stride);
  }
}

struct SumOfSquaredDeviations {
  const float* a;
  float mean;
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    const F deviation = load_first(a + first, count, mean) - set(mean);
    sum = fma(deviation, deviation, sum);
  }
};

void layer_norm(const NormShape& shape, const float* x, const float* weight, const float* bias, float* y,
                float* mean, float* r) {
  const std::size_t n = shape.columns;
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const float* from = x + row * shape.stride;
    const float center = sum_row(n, SumOfValues{from}) / static_cast<float>(n);
    const float variance = sum_row(n, SumOfSquaredDeviations{from, center}) / static_cast<float>(n);
    const float inverse = 1.0F / std::sqrt(variance + shape.eps);
    if (mean != nullptr) mean[row] = center;
    if (r != nullptr) r[row] = inverse;
    normalized(from, center, inverse, of_row(weight, shape, row), of_row(bias, shape, row), n,
               y + row * shape.stride);
  }
}

void l2_norm(const NormShape& shape, const float* x, float* y, float* r) {
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const float* from = x + row * shape.stride;
    const float inverse = 1.0F / std::sqrt(dot(from, from, shape.columns) + shape.eps);
    if (r != nullptr) r[row] = inverse;
    normalized(from, 0.0F, inverse, nullptr, nullptr, shape.columns, y + row * shape.stride);
  }
}

// The gradient at the normalized vector, g = w dy, and its sum, alone and times the normalized vector
// (x - mean) * r.
struct WeightedGradient {
  const float* dy;
  const float* weight;  // or null
  HWY_INLINE F at(std::size_t first, std::size_t count) const {
    const F g = load_first(dy + first, count);
    return weight == nullptr ? g : g * load_first(weight + first, count);
  }
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    sum = sum + at(first, count);
  }
};
struct GradientAlong {
  WeightedGradient gradient;
  const float* x;
  float mean, r;
  HWY_INLINE F at(std::size_t first, std::size_t count) const {
    return (load_first(x + first, count, mean) - set(mean)) * set(r);
  }
  HWY_INLINE void operator()(std::size_t first, std::size_t count, F& sum) const {
    sum = fma(gradient.at(first, count), at(first, count), sum);
  }
};

HWY_INLINE void add_parameter_gradients(const GradientAlong& along, std::size_t n, float* dweight,
                                        float* dbias) {
  for (std::size_t i = 0; i < n; i += 16) {
    const std::size_t count = n - i;
    const F dy = load_first(along.gradient.dy + i, count);
    if (dweight != nullptr)
      store_first(fma(dy, along.at(i, count), load_first(dweight + i, count)), dweight + i, count);
    if (dbias != nullptr) store_first(load_first(dbias + i, count) + dy, dbias + i, count);
  }
}

// dx = r (g - center - xhat * slope); xhat = (x - mean) r.
HWY_INLINE void write_gradient(const GradientAlong& along, float center, float slope, std::size_t n,
                               float* dx) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F g = along.gradient.at(i, n - i) - set(center);
    store_first(set(along.r) * fnma(along.at(i, n - i), set(slope), g), dx + i, n - i);
  }
}

void rms_norm_backward(const NormShape& shape, const float* x, const float* weight, const float* r,
                       const float* dy, float* dx, float* dweight, float* dbias) {
  const std::size_t n = shape.columns;
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const std::size_t at = row * shape.stride;
    const GradientAlong along{{dy + at, of_row(weight, shape, row)}, x + at, 0.0F, r[row]};
    if (dweight != nullptr || dbias != nullptr)
      add_parameter_gradients(along, n, of_row(dweight, shape, row), of_row(dbias, shape, row));
    write_gradient(along, 0.0F, sum_row(n, along) / static_cast<float>(n), n, dx + at);
  }
}

void layer_norm_backward(const NormShape& shape, const float* x, const float* weight, const float* mean,
                         const float* r, const float* dy, float* dx, float* dweight, float* dbias) {
  const std::size_t n = shape.columns;
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const std::size_t at = row * shape.stride;
    const GradientAlong along{{dy + at, of_row(weight, shape, row)}, x + at, mean[row], r[row]};
    if (dweight != nullptr || dbias != nullptr)
      add_parameter_gradients(along, n, of_row(dweight, shape, row), of_row(dbias, shape, row));
    const float center = sum_row(n, along.gradient) / static_cast<float>(n);
    write_gradient(along, center, sum_row(n, along) / static_cast<float>(n), n, dx + at);
  }
}

void l2_norm_backward(const NormShape& shape, const float* x, const float* r, const float* dy, float* dx) {
  for (std::size_t row = 0; row < shape.rows; ++row) {
    const std::size_t at = row * shape.stride;
    const GradientAlong along{{dy + at, nullptr}, x + at, 0.0F, r[row]};
    write_gradient(along, 0.0F, sum_row(shape.columns, along), shape.columns, dx + at);
  }
}

}  // namespace

void fill_norms(MathKernels& table) {
  table.rms_norm = rms_norm;
  table.rms_norm_backward = rms_norm_backward;
  table.layer_norm = layer_norm;
  table.layer_norm_backward = layer_norm_backward;
  table.l2_norm = l2_norm;
  table.l2_norm_backward = l2_norm_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

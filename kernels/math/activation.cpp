// Activation functions, alone and as gates, forward and backward.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// A function with its derivative: value(x), and derivative(x), which also returns the value through `y`.
struct SiluFunction {
  static HWY_INLINE F value(F x) { return x * sigmoid(x); }
  static HWY_INLINE F derivative(F x, F& y) {
    const F s = sigmoid(x);
    y = x * s;
    return s * fma(x, set(1.0F) - s, set(1.0F));
  }
};

constexpr float kSqrtTwoOverPi = 0.797884561F;
constexpr float kGeluCubic = 0.044715F;

struct GeluTanhFunction {
  static HWY_INLINE F tanh_of(F x) {
    return tanh(set(kSqrtTwoOverPi) * x * fma(set(kGeluCubic) * x, x, set(1.0F)));
  }
  static HWY_INLINE F value(F x) {
    const F half = set(0.5F) * x;
    return fma(half, tanh_of(x), half);
  }
  static HWY_INLINE F derivative(F x, F& y) {
    const F t = tanh_of(x);
    const F half = set(0.5F) * x;
    y = fma(half, t, half);
    const F slope = set(kSqrtTwoOverPi) * fma(set(3.0F * kGeluCubic) * x, x, set(1.0F));
    // Far out 1 - t^2 is zero while the slope is infinite.
    const F bend = select(abs(x) < set(16.0F), half * fnma(t, t, set(1.0F)) * slope, zero());
    return keep_nan(x, fma(set(0.5F), t, set(0.5F)) + bend);
  }
};

struct GeluErfFunction {
  static HWY_INLINE F value(F x) {
    const F half = set(0.5F) * x;
    return fma(half, erf(x * set(0.707106781F)), half);
  }
  static HWY_INLINE F derivative(F x, F& y) {
    const F e = erf(x * set(0.707106781F));
    const F half = set(0.5F) * x;
    y = fma(half, e, half);
    const F limited = clamp(x, set(-16.0F), set(16.0F));
    const F density = set(0.398942280F) * exp(set(-0.5F) * limited * limited);
    return keep_nan(x, fma(set(0.5F), e, set(0.5F)) + limited * density);
  }
};

struct ReluFunction {
  static HWY_INLINE F value(F x) { return keep_nan(x, max(x, zero())); }
  static HWY_INLINE F derivative(F x, F& y) {
    y = value(x);
    return select(x > zero(), set(1.0F), zero());
  }
};

struct ReluSquaredFunction {
  static HWY_INLINE F value(F x) {
    const F positive = ReluFunction::value(x);
    return positive * positive;
  }
  static HWY_INLINE F derivative(F x, F& y) {
    const F positive = ReluFunction::value(x);
    y = positive * positive;
    return positive + positive;
  }
};

struct SigmoidFunction {
  static HWY_INLINE F value(F x) { return sigmoid(x); }
  static HWY_INLINE F derivative(F x, F& y) {
    y = sigmoid(x);
    return y * (set(1.0F) - y);
  }
};

struct SoftplusFunction {
  static HWY_INLINE F value(F x) { return softplus(x); }
  static HWY_INLINE F derivative(F x, F& y) {
    y = softplus(x);
    return sigmoid(x);
  }
};

struct TanhFunction {
  static HWY_INLINE F value(F x) { return tanh(x); }
  static HWY_INLINE F derivative(F x, F& y) {
    y = tanh(x);
    return fnma(y, y, set(1.0F));
  }
};

template <class Function>
void activate(const float* x, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; i += 16)
    store_first(Function::value(load_first(x + i, n - i)), y + i, n - i);
}

template <class Function>
void activate_backward(const float* x, const float* dy, std::size_t n, float* dx) {
  for (std::size_t i = 0; i < n; i += 16) {
    F y;
    const F slope = Function::derivative(load_first(x + i, n - i), y);
    store_first(load_first(dy + i, n - i) * slope, dx + i, n - i);
  }
}

template <class Function>
void gate(const float* g, const float* u, std::size_t n, float* h) {
  for (std::size_t i = 0; i < n; i += 16)
    store_first(Function::value(load_first(g + i, n - i)) * load_first(u + i, n - i), h + i, n - i);
}

template <class Function>
void gate_backward(const float* g, const float* u, const float* dh, std::size_t n, float* dg, float* du) {
  for (std::size_t i = 0; i < n; i += 16) {
    F value;
    const F slope = Function::derivative(load_first(g + i, n - i), value);
    const F up = load_first(u + i, n - i);
    const F gradient = load_first(dh + i, n - i);
    store_first(gradient * up * slope, dg + i, n - i);
    store_first(gradient * value, du + i, n - i);
  }
}

constexpr float kOaiLimit = 7.0F;
constexpr float kOaiSlope = 1.702F;

void swiglu_oai(const float* g, const float* u, std::size_t n, float* h) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F gated = load_first(g + i, n - i);
    const F up = load_first(u + i, n - i);
    const F capped = keep_nan(gated, min(gated, set(kOaiLimit)));
    const F clamped = keep_nan(up, clamp(up, set(-kOaiLimit), set(kOaiLimit)));
    store_first(capped * sigmoid(set(kOaiSlope) * capped) * (clamped + set(1.0F)), h + i, n - i);
  }
}

void swiglu_oai_backward(const float* g, const float* u, const float* dh, std::size_t n, float* dg,
                         float* du) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F gated = load_first(g + i, n - i);
    const F up = load_first(u + i, n - i);
    const F gradient = load_first(dh + i, n - i);
    const F capped = min(gated, set(kOaiLimit));
    const F clamped = clamp(up, set(-kOaiLimit), set(kOaiLimit));
    const F s = sigmoid(set(kOaiSlope) * capped);
    const F slope = s * fma(set(kOaiSlope) * capped, set(1.0F) - s, set(1.0F));
    store_first(select(gated > set(kOaiLimit), zero(), gradient * (clamped + set(1.0F)) * slope), dg + i,
                n - i);
    store_first(select(abs(up) > set(kOaiLimit), zero(), gradient * capped * s), du + i, n - i);
  }
}

void swiglu_clamped(const float* g, const float* u, float limit, std::size_t n, float* h) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F up = load_first(u + i, n - i);
    const F silu = SiluFunction::value(load_first(g + i, n - i));
    const F capped = keep_nan(silu, min(silu, set(limit)));
    store_first(capped * keep_nan(up, clamp(up, set(-limit), set(limit))), h + i, n - i);
  }
}

void swiglu_clamped_backward(const float* g, const float* u, const float* dh, float limit, std::size_t n,
                             float* dg, float* du) {
  for (std::size_t i = 0; i < n; i += 16) {
    const F up = load_first(u + i, n - i);
    const F gradient = load_first(dh + i, n - i);
    F silu;
    const F slope = SiluFunction::derivative(load_first(g + i, n - i), silu);
    const F clamped = clamp(up, set(-limit), set(limit));
    store_first(select(silu > set(limit), zero(), gradient * clamped * slope), dg + i, n - i);
    store_first(select(abs(up) > set(limit), zero(), gradient * min(silu, set(limit))), du + i, n - i);
  }
}

void xielu(const Xielu& parameters, const float* x, std::size_t n, float* y) {
  const F alpha_p = set(parameters.alpha_p);
  const F alpha_n = set(parameters.alpha_n);
  for (std::size_t i = 0; i < n; i += 16) {
    const F value = load_first(x + i, n - i);
    const F capped = min(value, set(parameters.eps));
    // expm1(min(x, eps)) - x = (e^m - 1 - m) + (m - x), m the minimum.
    const F below = alpha_n * (exp_minus_one_minus(capped) + (capped - value));
    const F above = alpha_p * value * value;
    store_first(keep_nan(value, fma(set(parameters.beta), value, select(value > zero(), above, below))),
                y + i, n - i);
  }
}

void xielu_backward(const Xielu& parameters, const float* x, const float* dy, std::size_t n, float* dx) {
  const F alpha_p = set(parameters.alpha_p);
  const F alpha_n = set(parameters.alpha_n);
  for (std::size_t i = 0; i < n; i += 16) {
    const F value = load_first(x + i, n - i);
    const F capped = min(value, set(parameters.eps));
    const F grown = exp_minus_one_minus(capped) + capped;
    const F below = alpha_n * select(value < set(parameters.eps), grown, set(-1.0F));
    const F above = alpha_p * (value + value);
    const F slope = select(value > zero(), above, below) + set(parameters.beta);
    store_first(keep_nan(value, slope * load_first(dy + i, n - i)), dx + i, n - i);
  }
}

template <class Function>
void fill(Activation activation, MathKernels& table) {
  const auto i = static_cast<std::size_t>(activation);
  table.activate[i] = activate<Function>;
  table.activate_backward[i] = activate_backward<Function>;
  table.gate[i] = gate<Function>;
  table.gate_backward[i] = gate_backward<Function>;
}

}  // namespace

void fill_activations(MathKernels& table) {
  fill<SiluFunction>(Activation::Silu, table);
  fill<GeluTanhFunction>(Activation::GeluTanh, table);
  fill<GeluErfFunction>(Activation::GeluErf, table);
  fill<ReluFunction>(Activation::Relu, table);
  fill<ReluSquaredFunction>(Activation::ReluSquared, table);
  fill<SigmoidFunction>(Activation::Sigmoid, table);
  fill<SoftplusFunction>(Activation::Softplus, table);
  fill<TanhFunction>(Activation::Tanh, table);
  table.swiglu_oai = swiglu_oai;
  table.swiglu_oai_backward = swiglu_oai_backward;
  table.swiglu_clamped = swiglu_clamped;
  table.swiglu_clamped_backward = swiglu_clamped_backward;
  table.xielu = xielu;
  table.xielu_backward = xielu_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

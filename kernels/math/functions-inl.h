// Exponential, logarithm and their relatives on sixteen lanes, the same bits on every instruction set.
//
// Each is a polynomial fitted for this program (minimax on the stated interval, then rounded to binary32)
// after an exact reduction of the argument. Error bounds are in units of the last place of the result and are
// checked against double precision by tests/kernels/math/functions_test.cpp. NaN gives NaN. Included once per
// target, after kernels/lanes-inl.h.

#if defined(QUANTFIT_MATH_FUNCTIONS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_MATH_FUNCTIONS_INL_H_
#undef QUANTFIT_MATH_FUNCTIONS_INL_H_
#else
#define QUANTFIT_MATH_FUNCTIONS_INL_H_
#endif

#include "kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {

// Sum of c[i] x^i, i = 0 .. kCount - 1, by Horner's rule.
template <std::size_t kCount>
HWY_INLINE F polynomial(const float (&c)[kCount], F x) {
  F r = set(c[kCount - 1]);
  for (std::size_t i = kCount - 1; i-- > 0;) r = fma(r, x, set(c[i]));
  return r;
}

// `value` where x is a number, else x.
HWY_INLINE F keep_nan(F x, F value) {
  return select(x == x, value, x);
}

// 2^n for integers -126 <= n <= 127.
HWY_INLINE F power_of_two(I n) {
  return float_of_bits(shift_left<23>(n + set(std::int32_t{127})));
}

// e^x - 1 - x for |x| <= 1/2, without cancellation.
HWY_INLINE F exp_remainder(F x) {
  constexpr float kCoefficients[] = {0.5F,           0.166666672F,    0.0416666642F,  0.00833318289F,
                                     0.00138890406F, 0.000199619564F, 2.48416782e-05F};
  return x * x * polynomial(kCoefficients, x);
}

// e^x; 0 below -104, infinity above 88.72. At most 1 ulp, subnormal results included.
HWY_INLINE F exp(F x) {
  constexpr float kCoefficients[] = {0.49999994F, 0.166665196F, 0.0416683927F, 0.00836878084F,
                                     0.00138144637F};
  const F a = clamp(x, set(-105.0F), set(90.0F));
  const F n = round(a * set(1.44269504F));
  // ln 2 in two parts, of which n times the first is exact.
  F r = fnma(n, set(0x1.62e400p-1F), a);
  r = fnma(n, set(0x1.7f7d1cp-20F), r);
  const F p = fma(r * r, polynomial(kCoefficients, r), r) + set(1.0F);
  // 2^n in two factors, so that only the last product rounds.
  const I half = to_int(n * set(0.5F));
  const I rest = to_int(n) - half;
  return keep_nan(x, p * power_of_two(half) * power_of_two(rest));
}

// e^x - 1 - x. At most 2 ulp where it is not smaller than 1e-30.
HWY_INLINE F exp_minus_one_minus(F x) {
  const F small = exp_remainder(clamp(x, set(-0.5F), set(0.5F)));
  const F large = (exp(x) - set(1.0F)) - x;
  return select(abs(x) <= set(0.5F), small, large);
}

// ln x for positive x, subnormals included; of infinity, infinity. At most 1 ulp.
HWY_INLINE F log(F x) {
  constexpr float kCoefficients[] = {0.333333105F, -0.249999866F, 0.200022265F,  -0.166692525F, 0.142186642F,
                                     -0.12384332F, 0.118729159F,  -0.117898792F, 0.0691558048F};
  const M tiny = x < set(0x1p-126F);
  const I bits = bits_of(select(tiny, x * set(0x1p24F), x));
  // The mantissa in [1/sqrt 2, sqrt 2).
  const I shifted = bits + set(std::int32_t{0x3F800000 - 0x3F3504F3});
  const F e = to_float(shift_right<23>(shifted) - set(std::int32_t{127})) - select(tiny, set(24.0F), zero());
  const F m = float_of_bits((shifted & set(std::int32_t{0x007FFFFF})) + set(std::int32_t{0x3F3504F3}));
  const F f = m - set(1.0F);
  const F square = f * f;
  F r = f * square * polynomial(kCoefficients, f);
  r = fma(e, set(0x1.7f7d1cp-20F), r);
  r = fnma(set(0.5F), square, r) + f;
  r = fma(e, set(0x1.62e400p-1F), r);
  r = select(x == set(HUGE_VALF), x, r);
  return keep_nan(x, r);
}

// ln(1 + x) for x >= 0. At most 2 ulp.
HWY_INLINE F log_one_plus(F x) {
  const F u = set(1.0F) + x;
  // What the addition lost, relative to u.
  const F lost = select(x < set(1.0F), x - (u - set(1.0F)), set(1.0F) - (u - x));
  return log(u) + lost / u;
}

// tanh x. At most 2 ulp.
HWY_INLINE F tanh(F x) {
  constexpr float kCoefficients[] = {-0.333332837F, 0.133314908F, -0.0537434965F, 0.020650588F,
                                     -0.00571704516F};
  const F magnitude = min(abs(x), set(10.0F));
  const F square = magnitude * magnitude;
  const F small = fma(magnitude * square, polynomial(kCoefficients, square), magnitude);
  const F large = set(1.0F) - set(2.0F) / (exp(magnitude + magnitude) + set(1.0F));
  const F value = select(magnitude < set(0.625F), small, large);
  return keep_nan(x,
                  float_of_bits(bits_of(value) | (bits_of(x) & set(static_cast<std::int32_t>(0x80000000U)))));
}

// erf x; absolute error below 1e-7.
HWY_INLINE F erf(F x) {
  constexpr float kSmall[] = {0.128379166F,   -0.37612626F,    0.112836003F,   -0.0268544443F,
                              0.00518953567F, -0.00080208428F, 7.88912439e-05F};
  // (1 - erf x) e^(x^2) in 1 / (x + 1), 1 <= x <= 4.1.
  constexpr float kLarge[] = {-0.000101841215F, 0.566622615F,  0.540429413F, 0.399197936F,
                              -0.544999778F,    -0.769927144F, 1.45144868F,  -0.664213479F};
  const F magnitude = min(abs(x), set(4.1F));
  const F square = magnitude * magnitude;
  const F small = fma(magnitude, polynomial(kSmall, square), magnitude);
  const F inverse = set(1.0F) / (magnitude + set(1.0F));
  const F large = fnma(exp(-square), polynomial(kLarge, inverse), set(1.0F));
  const F value = select(magnitude < set(1.0F), small, large);
  return keep_nan(x,
                  float_of_bits(bits_of(value) | (bits_of(x) & set(static_cast<std::int32_t>(0x80000000U)))));
}

// 1 / (1 + e^-x). At most 2 ulp where it is a normal number.
HWY_INLINE F sigmoid(F x) {
  const F e = exp(-abs(x));  // <= 1: nothing overflows
  const F denominator = set(1.0F) + e;
  return keep_nan(x, select(x < zero(), e, set(1.0F)) / denominator);
}

// x for x > 20, else ln(1 + e^x). At most 3 ulp.
HWY_INLINE F softplus(F x) {
  const F value = max(x, zero()) + log_one_plus(exp(-abs(x)));
  return keep_nan(x, select(x > set(20.0F), x, value));
}

// The same of one number.
HWY_INLINE float first_lane(F a) {
  HWY_ALIGN float lanes[16];
  store(a, lanes);
  return lanes[0];
}
HWY_INLINE float exp_of(float x) {
  return first_lane(exp(set(x)));
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_MATH_FUNCTIONS_INL_H_

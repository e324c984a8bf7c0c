// The natural logarithm in double precision from basic operations alone, so that it is the same on every
// machine; the standard library's need not be.
#pragma once

#include <cmath>

namespace quantfit::kernels {

// ln x of a positive number, error below 4e-16 max(1, |ln x|).
[[nodiscard]] inline double log_double(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // [0.5, 1)
  if (mantissa < 0.70710678118654752) {
    mantissa *= 2.0;
    --exponent;
  }
  // 2 artanh s = ln((1 + s) / (1 - s)), |s| < 0.172.
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = s * s;
  double series = 0.0;
  for (int odd = 23; odd >= 1; odd -= 2) series = series * square + 1.0 / odd;
  return 2.0 * s * series + exponent * 0.69314718055994531;
}

}  // namespace quantfit::kernels

// What the suites of kernels/math share: seeded inputs, one result for all instruction sets, comparison with
// a reference in double precision, and its derivatives by the complex step.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/math/math_kernels.h"

namespace quantfit::kernels::math_test {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
using Complex = std::complex<double>;

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  // Uniform in [low, high); the same values with every standard library.
  float uniform(float low, float high) {
    const auto unit = static_cast<double>(engine_()) / 4294967296.0;
    return static_cast<float>(low + (high - low) * unit);
  }
  Floats values(std::size_t count, float low = -1.0F, float high = 1.0F) {
    Floats out(count);
    for (float& value : out) value = uniform(low, high);
    return out;
  }
  std::size_t below(std::size_t n) { return engine_() % n; }

 private:
  std::mt19937 engine_;
};

// Memory aligned as scratch must be, filled with NaN, so that nothing depends on what was there.
class Scratch {
 public:
  explicit Scratch(std::size_t floats) : memory_(floats + 16, std::nanf("")) {}
  float* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (64 - address % 64) % 64 / sizeof(float);
  }

 private:
  Floats memory_;
};

// The result of `run` (a function of a table), the same bytes on every instruction set.
template <class Run>
Floats on_every_isa(const Run& run) {
  Floats expected = run(runnable_math_kernels().back());
  for (const MathKernels& kernels : runnable_math_kernels()) {
    const Floats found = run(kernels);
    EXPECT_EQ(found.size(), expected.size());
    if (found.size() != expected.size()) return expected;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (std::memcmp(&found[i], &expected[i], sizeof(float)) == 0) continue;
      ADD_FAILURE() << kernels.isa << " differs from scalar at " << i << ": " << found[i] << ", "
                    << expected[i];
      return expected;
    }
  }
  return expected;
}

inline Doubles to_double(const Floats& values) {
  return {values.begin(), values.end()};
}
inline std::vector<Complex> to_complex(const Floats& values) {
  return {values.begin(), values.end()};
}

inline double real_of(double x) {
  return x;
}
inline double real_of(const Complex& x) {
  return x.real();
}

inline double largest(const Doubles& values) {
  double most = 0.0;
  for (const double value : values) most = std::max(most, std::fabs(value));
  return most;
}

// Every value within `tolerance` of the reference, relative to the largest of the reference.
inline void expect_close(const Floats& found, const Doubles& reference, double tolerance,
                         const std::string& what) {
  ASSERT_EQ(found.size(), reference.size()) << what;
  const double unit = largest(reference);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(found[i]) - reference[i]);
    // Written so that NaN fails.
    ASSERT_TRUE(difference <= tolerance * unit)
        << what << " at " << i << ": " << found[i] << ", expected " << reference[i] << ", unit " << unit;
  }
}

// The gradient of sum over i of dy[i] f(x)[i] with respect to x, `found`, against the derivative of a
// reference `f` on complex numbers at up to `samples` places: imag(f(x + i h)) / h has no cancellation, so h
// may be tiny.
template <class Forward>
void expect_gradient(const Floats& found, const Floats& x, const Floats& dy, const Forward& f,
                     double tolerance, const std::string& what, std::size_t samples = 60) {
  ASSERT_EQ(found.size(), x.size()) << what;
  constexpr double kStep = 1e-50;
  Random random(99);
  std::vector<std::size_t> at;
  if (x.size() <= samples) {
    for (std::size_t i = 0; i < x.size(); ++i) at.push_back(i);
  } else {
    for (std::size_t s = 0; s < samples; ++s) at.push_back(random.below(x.size()));
  }
  Doubles expected;
  double unit = 0.0;
  for (const float value : found) unit = std::max(unit, std::fabs(static_cast<double>(value)));
  std::vector<Complex> point = to_complex(x);
  for (const std::size_t i : at) {
    point[i] += Complex(0.0, kStep);
    const std::vector<Complex> y = f(point);
    point[i] = Complex(static_cast<double>(x[i]), 0.0);
    ASSERT_EQ(y.size(), dy.size()) << what;
    double derivative = 0.0;
    for (std::size_t o = 0; o < y.size(); ++o) derivative += static_cast<double>(dy[o]) * y[o].imag() / kStep;
    expected.push_back(derivative);
    unit = std::max(unit, std::fabs(derivative));
  }
  for (std::size_t s = 0; s < at.size(); ++s) {
    const double difference = std::fabs(static_cast<double>(found[at[s]]) - expected[s]);
    ASSERT_TRUE(difference <= tolerance * unit) << what << ": gradient " << at[s] << " is " << found[at[s]]
                                                << ", expected " << expected[s] << ", unit " << unit;
  }
}

// All of `values`, appended.
inline void append(Floats& to, const Floats& values) {
  to.insert(to.end(), values.begin(), values.end());
}

}  // namespace quantfit::kernels::math_test

// Exponential, logarithm and activations against double precision, on every instruction set.

#include <functional>

#include "tests/kernels/math/math_test_support.h"

namespace quantfit::kernels::math_test {
namespace {

// Difference in units of the last place of a float of the reference's size.
double ulps(float found, double exact) {
  if (static_cast<double>(found) == exact) return 0.0;
  const auto rounded = static_cast<float>(std::fabs(exact));
  const double unit = static_cast<double>(std::nextafter(rounded, HUGE_VALF)) - static_cast<double>(rounded);
  return std::fabs(static_cast<double>(found) - exact) / unit;
}

// Values over the whole range, denser near zero, and the points where a function changes its method.
Floats arguments(float low, float high) {
  Random random(3);
  Floats out{0.0F, -0.0F, 1.0F, -1.0F, 0.5F, -0.5F, 0.625F, 20.0F, 1e-8F, -1e-8F, 1e-30F};
  for (int i = 0; i < 40000; ++i) out.push_back(random.uniform(low, high));
  for (int i = 0; i < 10000; ++i) out.push_back(random.uniform(-1.0F, 1.0F));
  for (int i = 0; i < 2000; ++i)
    out.push_back(std::ldexp(random.uniform(-1.0F, 1.0F), -static_cast<int>(random.below(40))));
  std::erase_if(out, [&](float x) { return x < low || x > high; });
  return out;
}

TEST(MathFunctionsTest, ExpIsWithinItsBound) {
  const Floats x = arguments(-104.0F, 88.7F);
  const Floats y = on_every_isa([&](const MathKernels& math) {
    Floats out(x.size());
    math.exp(x.data(), x.size(), out.data());
    return out;
  });
  double worst = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, ulps(y[i], std::exp(static_cast<double>(x[i]))));
  EXPECT_LE(worst, 1.0);
}

TEST(MathFunctionsTest, ExpAtTheEdges) {
  const Floats x{0.0F, -HUGE_VALF, HUGE_VALF, 89.0F, -200.0F, std::nanf("")};
  for (const MathKernels& math : runnable_math_kernels()) {
    Floats y(x.size());
    math.exp(x.data(), x.size(), y.data());
    EXPECT_EQ(y[0], 1.0F) << math.isa;  // exactly: attention relies on it
    EXPECT_EQ(y[1], 0.0F) << math.isa;
    EXPECT_EQ(y[2], HUGE_VALF) << math.isa;
    EXPECT_EQ(y[3], HUGE_VALF) << math.isa;
    EXPECT_EQ(y[4], 0.0F) << math.isa;
    EXPECT_TRUE(std::isnan(y[5])) << math.isa;
  }
}

TEST(MathFunctionsTest, LogIsWithinItsBound) {
  Floats x = arguments(1e-30F, 3e38F);
  for (const float value :
       {1e-45F, 1e-40F, 0x1p-126F, 0.70710677F, 0.70710683F, 1.4142135F, 0.99999994F, 1.0000001F})
    x.push_back(value);
  const Floats y = on_every_isa([&](const MathKernels& math) {
    Floats out(x.size());
    math.log(x.data(), x.size(), out.data());
    return out;
  });
  double worst = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, ulps(y[i], std::log(static_cast<double>(x[i]))));
  EXPECT_LE(worst, 1.0);
}

TEST(MathFunctionsTest, LogSumIsAccurate) {
  for (const MathKernels& math : runnable_math_kernels()) {
    double x = 1e-300;
    while (x < 1e300) {
      LogSum sum;
      sum.max = 0.0F;
      sum.sum = x;
      EXPECT_NEAR(math.log_sum(sum), std::log(x), 4e-16 * std::max(1.0, std::fabs(std::log(x)))) << x;
      x *= 1.7;
    }
  }
}

struct ActivationCase {
  Activation activation;
  const char* name;
  std::function<Complex(Complex)> f;
  double tolerance;  // in units of the last place
  double absolute;   // differences below this are allowed
};

Complex sigmoid(Complex x) {
  return 1.0 / (1.0 + std::exp(-x));
}
// erf by its series and the continued fraction of erfc; complex steps are too small to leave the real axis.
Complex erf_of(Complex x) {
  const double real = std::erf(x.real());
  return {real, x.imag() * 2.0 / std::sqrt(M_PI) * std::exp(-x.real() * x.real())};
}

std::vector<ActivationCase> activation_cases() {
  const auto positive = [](Complex x) { return x.real() > 0.0 ? x : Complex(0.0, 0.0); };
  return {
      {Activation::Silu, "silu", [](Complex x) { return x * sigmoid(x); }, 3.0, 1e-37},
      {Activation::GeluTanh, "gelu_tanh",
       [](Complex x) {
         return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * x * (1.0 + 0.044715 * x * x)));
       },
       3.0, 1e-6},
      {Activation::GeluErf, "gelu_erf",
       [](Complex x) { return 0.5 * x * (1.0 + erf_of(x / std::sqrt(2.0))); }, 3.0, 1e-6},
      {Activation::Relu, "relu", positive, 0.0, 0.0},
      {Activation::ReluSquared, "relu_squared", [=](Complex x) { return positive(x) * positive(x); }, 1.0,
       0.0},
      {Activation::Sigmoid, "sigmoid", sigmoid, 2.0, 1e-37},
      {Activation::Softplus, "softplus",
       [](Complex x) { return x.real() > 20.0 ? x : std::log(1.0 + std::exp(x)); }, 3.0, 1e-8},
      {Activation::Tanh, "tanh", [](Complex x) { return std::tanh(x); }, 2.0, 0.0},
  };
}

TEST(MathFunctionsTest, ActivationsAreWithinTheirBounds) {
  const Floats x = arguments(-80.0F, 80.0F);
  for (const ActivationCase& c : activation_cases()) {
    const auto i = static_cast<std::size_t>(c.activation);
    const Floats y = on_every_isa([&](const MathKernels& math) {
      Floats out(x.size());
      math.activate[i](x.data(), x.size(), out.data());
      return out;
    });
    double worst = 0.0;
    float at = 0.0F;
    for (std::size_t e = 0; e < x.size(); ++e) {
      const double exact = c.f(Complex(static_cast<double>(x[e]), 0.0)).real();
      if (std::fabs(static_cast<double>(y[e]) - exact) <= c.absolute) continue;
      const double error = ulps(y[e], exact);
      if (error > worst) at = x[e];
      worst = std::max(worst, error);
    }
    EXPECT_LE(worst, c.tolerance) << c.name << " at " << at;
  }
}

TEST(MathFunctionsTest, GradientsOfActivationsAndGates) {
  Random random(5);
  for (const std::size_t n : {std::size_t{21}, std::size_t{160}}) {
    const Floats x = random.values(n, -6.0F, 6.0F);
    const Floats up = random.values(n, -2.0F, 2.0F);
    const Floats dy = random.values(n);
    Floats both = x;
    append(both, up);
    for (const ActivationCase& c : activation_cases()) {
      const auto i = static_cast<std::size_t>(c.activation);
      const Floats dx = on_every_isa([&](const MathKernels& math) {
        Floats out(n);
        math.activate_backward[i](x.data(), dy.data(), n, out.data());
        return out;
      });
      expect_gradient(
          dx, x, dy,
          [&](const std::vector<Complex>& at) {
            std::vector<Complex> y;
            for (const Complex& value : at) y.push_back(c.f(value));
            return y;
          },
          2e-6, c.name);
      const auto gated = [&](const auto& at) {
        std::vector<Complex> h;
        for (std::size_t e = 0; e < n; ++e) h.push_back(c.f(at[e]) * at[n + e]);
        return h;
      };
      const Floats h = on_every_isa([&](const MathKernels& math) {
        Floats out = x;  // in place
        math.gate[i](out.data(), up.data(), n, out.data());
        return out;
      });
      Doubles reference;
      for (const Complex& value : gated(to_complex(both))) reference.push_back(value.real());
      expect_close(h, reference, 1e-6, c.name);
      const Floats gradients = on_every_isa([&](const MathKernels& math) {
        Floats out = both;  // over the inputs
        math.gate_backward[i](out.data(), out.data() + n, dy.data(), n, out.data(), out.data() + n);
        return out;
      });
      expect_gradient(gradients, both, dy, gated, 2e-6, c.name);
    }
  }
}

Complex clamped(Complex x, double low, double high) {
  return x.real() < low ? Complex(low, 0.0) : x.real() > high ? Complex(high, 0.0) : x;
}

TEST(MathFunctionsTest, ClampedGates) {
  Random random(6);
  const std::size_t n = 123;
  Floats both = random.values(2 * n, -10.0F, 10.0F);
  const Floats dy = random.values(n);
  const auto oai = [&](const auto& at) {
    std::vector<Complex> h;
    for (std::size_t e = 0; e < n; ++e) {
      const Complex g = clamped(at[e], -1e30, 7.0);
      h.push_back(g * sigmoid(1.702 * g) * (clamped(at[n + e], -7.0, 7.0) + 1.0));
    }
    return h;
  };
  const auto step = [&](const auto& at) {
    std::vector<Complex> h;
    for (std::size_t e = 0; e < n; ++e)
      h.push_back(clamped(at[e] * sigmoid(at[e]), -1e30, 3.5) * clamped(at[n + e], -3.5, 3.5));
    return h;
  };
  const auto check = [&](const char* name, const auto& reference, const auto& forward, const auto& backward) {
    Doubles expected;
    for (const Complex& value : reference(to_complex(both))) expected.push_back(value.real());
    expect_close(on_every_isa([&](const MathKernels& math) {
                   Floats h(n);
                   forward(math, h);
                   return h;
                 }),
                 expected, 1e-6, name);
    const Floats gradients = on_every_isa([&](const MathKernels& math) {
      Floats out(2 * n);
      backward(math, out);
      return out;
    });
    expect_gradient(gradients, both, dy, reference, 2e-6, name, 200);
  };
  const float* g = both.data();
  const float* u = both.data() + n;
  check(
      "swiglu_oai", oai, [&](const MathKernels& math, Floats& h) { math.swiglu_oai(g, u, n, h.data()); },
      [&](const MathKernels& math, Floats& out) {
        math.swiglu_oai_backward(g, u, dy.data(), n, out.data(), out.data() + n);
      });
  check(
      "swiglu_clamped", step,
      [&](const MathKernels& math, Floats& h) { math.swiglu_clamped(g, u, 3.5F, n, h.data()); },
      [&](const MathKernels& math, Floats& out) {
        math.swiglu_clamped_backward(g, u, dy.data(), 3.5F, n, out.data(), out.data() + n);
      });
}

TEST(MathFunctionsTest, Xielu) {
  Random random(7);
  const std::size_t n = 150;
  Floats x = random.values(n, -5.0F, 5.0F);
  for (std::size_t i = 0; i < 20; ++i) x[i] *= 1e-4F;
  const Floats dy = random.values(n);
  const Xielu parameters{0.8F, 1.3F, 0.5F, -1e-6F};
  const auto reference = [&](const auto& at) {
    std::vector<Complex> y;
    for (const Complex& value : at) {
      const Complex capped = clamped(value, -1e30, static_cast<double>(parameters.eps));
      // expm1 on complex numbers: exact to first order in the imaginary part.
      const Complex grown(std::expm1(capped.real()), std::exp(capped.real()) * capped.imag());
      y.push_back(value.real() > 0.0
                      ? static_cast<double>(parameters.alpha_p) * value * value + 0.5 * value
                      : static_cast<double>(parameters.alpha_n) * (grown - value) + 0.5 * value);
    }
    return y;
  };
  Doubles expected;
  for (const Complex& value : reference(to_complex(x))) expected.push_back(value.real());
  expect_close(on_every_isa([&](const MathKernels& math) {
                 Floats y(n);
                 math.xielu(parameters, x.data(), n, y.data());
                 return y;
               }),
               expected, 1e-6, "xielu");
  const Floats dx = on_every_isa([&](const MathKernels& math) {
    Floats out(n);
    math.xielu_backward(parameters, x.data(), dy.data(), n, out.data());
    return out;
  });
  expect_gradient(dx, x, dy, reference, 2e-6, "xielu", 150);
}

TEST(MathFunctionsTest, ElementwiseOperations) {
  Random random(8);
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{16}, std::size_t{45}}) {
    const Floats a = random.values(n, -3.0F, 3.0F);
    const Floats b = random.values(n, -3.0F, 3.0F);
    const auto check = [&](const char* name, const auto& run, const auto& exact, double tolerance) {
      const Floats found = on_every_isa([&](const MathKernels& math) {
        Floats out = b;
        run(math, out.data());
        return out;
      });
      Doubles expected;
      for (std::size_t i = 0; i < n; ++i)
        expected.push_back(exact(static_cast<double>(a[i]), static_cast<double>(b[i])));
      expect_close(found, expected, tolerance, name);
    };
    check(
        "add", [&](const MathKernels& m, float* out) { m.add(a.data(), b.data(), n, out); },
        [](double x, double y) { return x + y; }, 1e-7);
    check(
        "multiply", [&](const MathKernels& m, float* out) { m.multiply(a.data(), b.data(), n, out); },
        [](double x, double y) { return x * y; }, 1e-7);
    check(
        "scale", [&](const MathKernels& m, float* out) { m.scale(a.data(), 0.75F, n, out); },
        [](double x, double) { return 0.75 * x; }, 1e-7);
    check(
        "add_scaled", [&](const MathKernels& m, float* out) { m.add_scaled(a.data(), 0.75F, n, out); },
        [](double x, double y) { return 0.75 * x + y; }, 1e-7);
    check(
        "clamp", [&](const MathKernels& m, float* out) { m.clamp(a.data(), -1.0F, 2.0F, n, out); },
        [](double x, double) { return std::clamp(x, -1.0, 2.0); }, 0.0);
    check(
        "clamp_backward",
        [&](const MathKernels& m, float* out) { m.clamp_backward(a.data(), b.data(), -1.0F, 2.0F, n, out); },
        [](double x, double y) { return x > -1.0 && x < 2.0 ? y : 0.0; }, 0.0);
    check(
        "softcap", [&](const MathKernels& m, float* out) { m.softcap(a.data(), 1.5F, n, out); },
        [](double x, double) { return 1.5 * std::tanh(x / 1.5); }, 3e-7);
    check(
        "softcap_backward",
        [&](const MathKernels& m, float* out) {
          Floats y(n);
          m.softcap(a.data(), 1.5F, n, y.data());
          m.softcap_backward(y.data(), b.data(), 1.5F, n, out);
        },
        [](double x, double y) { return y / std::pow(std::cosh(x / 1.5), 2); }, 1e-6);
    check(
        "round_to_half", [&](const MathKernels& m, float* out) { m.round_to_half(a.data(), n, out); },
        [](double x, double) { return x; }, 0x1p-11);
    check(
        "round_to_bfloat16", [&](const MathKernels& m, float* out) { m.round_to_bfloat16(a.data(), n, out); },
        [](double x, double) { return x; }, 0x1p-8);
  }
}

}  // namespace
}  // namespace quantfit::kernels::math_test

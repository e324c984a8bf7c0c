// Norms and rope, forward and backward, against double precision and complex steps.

#include "tests/kernels/math/math_test_support.h"

namespace quantfit::kernels::math_test {
namespace {

enum class Kind { Rms, Layer, L2 };

// x: rows * columns values, then `weights` weights, then as many biases.
template <class T>
std::vector<T> reference(Kind kind, const NormShape& shape, std::size_t weights, bool weighted, bool biased,
                         const std::vector<T>& x) {
  const std::size_t n = shape.columns;
  std::vector<T> y(shape.rows * n);
  for (std::size_t row = 0; row < shape.rows; ++row) {
    T mean = 0.0;
    for (std::size_t i = 0; i < n; ++i) mean += x[row * n + i];
    mean = kind == Kind::Layer ? mean / static_cast<double>(n) : T(0.0);
    T squares = 0.0;
    for (std::size_t i = 0; i < n; ++i) squares += (x[row * n + i] - mean) * (x[row * n + i] - mean);
    if (kind != Kind::L2) squares /= static_cast<double>(n);
    const T r = 1.0 / std::sqrt(squares + static_cast<double>(shape.eps));
    for (std::size_t i = 0; i < n; ++i) {
      T value = (x[row * n + i] - mean) * r;
      const std::size_t w = shape.rows * n + row * shape.weight_stride + i;
      if (weighted) value *= x[w];
      if (biased) value += x[w + weights];
      y[row * n + i] = value;
    }
  }
  return y;
}

TEST(NormTest, ForwardAndBackward) {
  Random random(31);
  for (const Kind kind : {Kind::Rms, Kind::Layer, Kind::L2}) {
    for (const std::size_t n : {std::size_t{7}, std::size_t{64}, std::size_t{101}, std::size_t{300}}) {
      for (int parameters = 0; parameters < (kind == Kind::L2 ? 1 : 4); ++parameters) {
        const bool weighted = (parameters & 1) != 0;
        const bool biased = (parameters & 2) != 0;
        NormShape shape{5, n, n, parameters == 3 ? n : 0, 1e-3F};
        const std::size_t weights = shape.weight_stride == 0 ? n : 5 * n;
        const Floats x = random.values(5 * n + 2 * weights, -2.0F, 2.0F);
        const Floats dy = random.values(5 * n);
        const float* w = weighted ? x.data() + 5 * n : nullptr;
        const float* b = biased ? x.data() + 5 * n + weights : nullptr;
        const std::string what = std::to_string(static_cast<int>(kind)) + " " + std::to_string(n) + " " +
                                 std::to_string(parameters);
        Floats mean(5);
        Floats r(5);
        const Floats y = on_every_isa([&](const MathKernels& math) {
          Floats out(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(5 * n));  // in place
          if (kind == Kind::Rms) math.rms_norm(shape, out.data(), w, b, out.data(), r.data());
          if (kind == Kind::Layer)
            math.layer_norm(shape, out.data(), w, b, out.data(), mean.data(), r.data());
          if (kind == Kind::L2) math.l2_norm(shape, out.data(), out.data(), r.data());
          return out;
        });
        expect_close(y, reference(kind, shape, weights, weighted, biased, to_double(x)), 2e-6, what);
        const Floats gradient = on_every_isa([&](const MathKernels& math) {
          Floats out(x.size());
          std::copy(dy.begin(), dy.end(), out.begin());  // dx over dy
          float* dw = weighted ? out.data() + 5 * n : nullptr;
          float* db = biased ? out.data() + 5 * n + weights : nullptr;
          if (kind == Kind::Rms)
            math.rms_norm_backward(shape, x.data(), w, r.data(), dy.data(), out.data(), dw, db);
          if (kind == Kind::Layer)
            math.layer_norm_backward(shape, x.data(), w, mean.data(), r.data(), dy.data(), out.data(), dw,
                                     db);
          if (kind == Kind::L2) math.l2_norm_backward(shape, x.data(), r.data(), dy.data(), out.data());
          return out;
        });
        expect_gradient(
            gradient, x, dy,
            [&](const std::vector<Complex>& at) {
              return reference(kind, shape, weights, weighted, biased, at);
            },
            5e-6, what);
      }
    }
  }
}

TEST(NormTest, RowsApartAndAddedWeights) {
  Random random(32);
  const std::size_t n = 20;
  const NormShape shape{3, n, 33, 0, 1e-5F};
  const Floats x = random.values(3 * 33);
  const Floats w = random.values(n);
  const Floats once = on_every_isa([&](const MathKernels& math) {
    Floats r(3);
    Floats y(99, 5.0F);
    math.rms_norm(shape, x.data(), w.data(), nullptr, y.data(), r.data());
    Floats dx(99, 5.0F);
    Floats dw(n, 1.0F);
    math.rms_norm_backward(shape, x.data(), w.data(), r.data(), x.data(), dx.data(), dw.data(), nullptr);
    math.rms_norm_backward(shape, x.data(), w.data(), r.data(), x.data(), dx.data(), dw.data(), nullptr);
    append(y, dx);
    append(y, dw);
    return y;
  });
  for (const std::size_t gap : {std::size_t{20}, std::size_t{32}, std::size_t{60}, std::size_t{98}}) {
    EXPECT_EQ(once[gap], 5.0F) << gap;
    EXPECT_EQ(once[99 + gap], 5.0F) << gap;
  }
  for (std::size_t i = 0; i < n; ++i) {
    double expected = 1.0;
    for (std::size_t row = 0; row < 3; ++row) {
      double squares = 0.0;
      for (std::size_t k = 0; k < n; ++k) squares += std::pow(static_cast<double>(x[row * 33 + k]), 2);
      const double value = static_cast<double>(x[row * 33 + i]);
      expected += 2.0 * value * value / std::sqrt(squares / n + 1e-5);
    }
    EXPECT_NEAR(once[198 + i], expected, 1e-5);
  }
}

TEST(RopeTest, RotatesForwardAndBack) {
  Random random(33);
  for (const RopeLayout layout : {RopeLayout::Interleaved, RopeLayout::Neox}) {
    for (const std::size_t rotated : {std::size_t{2}, std::size_t{10}, std::size_t{48}, std::size_t{64}}) {
      const std::size_t dim = 64;
      const std::size_t tokens = 3;
      const std::size_t heads = 2;
      const std::size_t half = rotated / 2;
      const RopeShape shape{tokens, heads, dim, rotated, layout};
      Floats cosine(tokens * half);
      Floats sine(tokens * half);
      for (std::size_t i = 0; i < cosine.size(); ++i) {
        const float angle = random.uniform(-3.0F, 3.0F);
        cosine[i] = 1.25F * std::cos(angle);
        sine[i] = 1.25F * std::sin(angle);
      }
      const Floats x = random.values(tokens * heads * dim);
      const Floats dy = random.values(x.size());
      const auto reference = [&](const auto& at) {
        auto y = at;
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t h = 0; h < heads; ++h) {
            for (std::size_t i = 0; i < half; ++i) {
              const std::size_t first = (t * heads + h) * dim;
              const std::size_t a = first + (layout == RopeLayout::Neox ? i : 2 * i);
              const std::size_t b = first + (layout == RopeLayout::Neox ? i + half : 2 * i + 1);
              const double c = static_cast<double>(cosine[t * half + i]);
              const double s = static_cast<double>(sine[t * half + i]);
              y[a] = at[a] * c - at[b] * s;
              y[b] = at[a] * s + at[b] * c;
            }
          }
        }
        return y;
      };
      const TokenRows<const float> c{cosine.data(), half};
      const TokenRows<const float> s{sine.data(), half};
      const Floats y = on_every_isa([&](const MathKernels& math) {
        Floats out = x;
        math.rope(shape, c, s, {out.data(), heads * dim});
        return out;
      });
      expect_close(y, reference(to_double(x)), 2e-7, "rope");
      const Floats dx = on_every_isa([&](const MathKernels& math) {
        Floats out = dy;
        math.rope_backward(shape, c, s, {out.data(), heads * dim});
        return out;
      });
      expect_gradient(dx, x, dy, reference, 2e-7, "rope");
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels::math_test

// Convolution, gated delta rule and mamba2 against their definitions on double and complex numbers.

#include "tests/kernels/math/math_test_support.h"

namespace quantfit::kernels::math_test {
namespace {

TEST(ConvolutionTest, ForwardAndBackward) {
  Random random(41);
  for (const std::size_t count : {std::size_t{1}, std::size_t{3}, std::size_t{4}}) {
    for (const std::size_t tokens : {std::size_t{1}, std::size_t{2}, std::size_t{9}}) {
      const std::size_t channels = 37;
      const Floats x = random.values(tokens * channels);
      const Floats taps = random.values(count * channels);
      const Floats bias = random.values(channels);
      const Floats dy = random.values(x.size());
      const auto reference = [&](const auto& at) {
        auto y = at;
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t c = 0; c < channels; ++c) {
            y[t * channels + c] = static_cast<double>(bias[c]);
            for (std::size_t j = 0; j < count; ++j)
              if (t + 1 + j >= count)
                y[t * channels + c] +=
                    static_cast<double>(taps[j * channels + c]) * at[(t + 1 + j - count) * channels + c];
          }
        }
        return y;
      };
      const Floats y = on_every_isa([&](const MathKernels& math) {
        Floats out(x.size());
        math.convolve(tokens, channels, count, taps.data(), bias.data(), {x.data(), channels},
                      {out.data(), channels});
        return out;
      });
      expect_close(y, reference(to_double(x)), 5e-7, "convolution");
      const Floats dx = on_every_isa([&](const MathKernels& math) {
        Floats out(x.size());
        math.convolve_backward(tokens, channels, count, taps.data(), {dy.data(), channels},
                               {out.data(), channels});
        return out;
      });
      expect_gradient(dx, x, dy, reference, 5e-7, "convolution");
    }
  }
}

// x: q, k, v, g, beta, one after the other.
template <class T>
std::vector<T> delta_reference(const DeltaNetShape& shape, const std::vector<T>& x) {
  const std::size_t keys = shape.key_dim;
  const std::size_t values = shape.value_dim;
  const std::size_t k_at = shape.tokens * keys;
  const std::size_t v_at = 2 * k_at;
  const std::size_t g_at = v_at + shape.tokens * values;
  const std::size_t decays = shape.decay_per_key ? keys : 1;
  const std::size_t beta_at = g_at + shape.tokens * decays;
  std::vector<T> state(keys * values, T(0.0));
  std::vector<T> out;
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    std::vector<T> read(values, T(0.0));
    for (std::size_t i = 0; i < keys; ++i) {
      const T decay = std::exp(x[g_at + t * decays + (shape.decay_per_key ? i : 0)]);
      for (std::size_t j = 0; j < values; ++j) {
        state[i * values + j] *= decay;
        read[j] += x[k_at + t * keys + i] * state[i * values + j];
      }
    }
    for (std::size_t j = 0; j < values; ++j) {
      const T e = x[beta_at + t] * (x[v_at + t * values + j] - read[j]);
      T o = 0.0;
      for (std::size_t i = 0; i < keys; ++i) {
        state[i * values + j] += x[k_at + t * keys + i] * e;
        o += x[t * keys + i] * state[i * values + j];
      }
      out.push_back(static_cast<double>(shape.scale) * o);
    }
  }
  return out;
}

TEST(DeltaNetTest, ForwardAndBackward) {
  Random random(42);
  for (const bool per_key : {false, true}) {
    for (const std::size_t tokens : {std::size_t{1}, std::size_t{31}, std::size_t{32}, std::size_t{70}}) {
      DeltaNetShape shape{tokens, 12, 19, per_key, 0.3F};
      const std::size_t keys = shape.key_dim;
      const std::size_t values = shape.value_dim;
      const std::size_t decays = per_key ? keys : 1;
      Floats x = random.values(tokens * (2 * keys + values + decays + 1), -0.5F, 0.5F);
      const std::size_t v_at = 2 * tokens * keys;
      const std::size_t g_at = v_at + tokens * values;
      const std::size_t beta_at = g_at + tokens * decays;
      for (std::size_t i = g_at; i < beta_at; ++i) x[i] = -std::fabs(x[i]);
      for (std::size_t i = beta_at; i < x.size(); ++i) x[i] += 0.5F;
      const Floats dout = random.values(tokens * values);
      const auto inputs = [&]<class T>(T* data) {
        using Rows = TokenRows<T>;
        return std::array{Rows{data, keys}, Rows{data + tokens * keys, keys}, Rows{data + v_at, values},
                          Rows{data + g_at, decays}, Rows{data + beta_at, 1}};
      };
      const auto rows = inputs(static_cast<const float*>(x.data()));
      const DeltaNetInputs in{rows[0], rows[1], rows[2], rows[3], rows[4]};
      const Floats out = on_every_isa([&](const MathKernels& math) {
        Floats result(tokens * values);
        Scratch scratch(delta_net_scratch(shape));
        math.delta_net(shape, in, {result.data(), values}, scratch.data());
        return result;
      });
      expect_close(out, delta_reference(shape, to_double(x)), 1e-6, "delta net");
      const Floats gradient = on_every_isa([&](const MathKernels& math) {
        Floats result(x.size(), std::nanf(""));
        Scratch scratch(delta_net_backward_scratch(shape));
        const auto to = inputs(result.data());
        math.delta_net_backward(shape, in, {dout.data(), values}, {to[0], to[1], to[2], to[3], to[4]},
                                scratch.data());
        return result;
      });
      expect_gradient(
          gradient, x, dout, [&](const std::vector<Complex>& at) { return delta_reference(shape, at); }, 3e-6,
          per_key ? "delta net, decay per key" : "delta net", 150);
    }
  }
}

// x: x, b, c, delta.
template <class T>
std::vector<T> mamba_reference(const Mamba2Shape& shape, const std::vector<T>& x) {
  const std::size_t head = shape.head_dim;
  const std::size_t states = shape.state_dim;
  const std::size_t b_at = shape.tokens * head;
  const std::size_t c_at = b_at + shape.tokens * states;
  const std::size_t delta_at = c_at + shape.tokens * states;
  std::vector<T> state(head * states, T(0.0));
  std::vector<T> out;
  for (std::size_t t = 0; t < shape.tokens; ++t) {
    const T delta = x[delta_at + t];
    const T decay = std::exp(delta * static_cast<double>(shape.a));
    for (std::size_t p = 0; p < head; ++p) {
      T y = static_cast<double>(shape.d) * x[t * head + p];
      for (std::size_t n = 0; n < states; ++n) {
        T& s = state[p * states + n];
        s = decay * s + delta * x[t * head + p] * x[b_at + t * states + n];
        y += s * x[c_at + t * states + n];
      }
      out.push_back(y);
    }
  }
  return out;
}

TEST(Mamba2Test, ForwardAndBackward) {
  Random random(43);
  for (const std::size_t tokens : {std::size_t{1}, std::size_t{31}, std::size_t{32}, std::size_t{70}}) {
    Mamba2Shape shape{tokens, 21, 10, -0.7F, 0.4F};
    const std::size_t head = shape.head_dim;
    const std::size_t states = shape.state_dim;
    Floats x = random.values(tokens * (head + 2 * states + 1));
    const std::size_t b_at = tokens * head;
    const std::size_t c_at = b_at + tokens * states;
    const std::size_t delta_at = c_at + tokens * states;
    for (std::size_t i = delta_at; i < x.size(); ++i) x[i] = std::fabs(x[i]);
    const Floats dout = random.values(tokens * head);
    const Mamba2Inputs in{
        {x.data(), head}, {x.data() + b_at, states}, {x.data() + c_at, states}, {x.data() + delta_at, 1}};
    const Floats out = on_every_isa([&](const MathKernels& math) {
      Floats result(tokens * head);
      Scratch scratch(mamba2_scratch(shape));
      math.mamba2(shape, in, {result.data(), head}, scratch.data());
      return result;
    });
    expect_close(out, mamba_reference(shape, to_double(x)), 1e-6, "mamba2");
    const Floats gradient = on_every_isa([&](const MathKernels& math) {
      Floats result(x.size(), 0.0F);
      Scratch scratch(mamba2_backward_scratch(shape));
      math.mamba2_backward(shape, in, {dout.data(), head},
                           {{result.data(), head},
                            {result.data() + b_at, states},
                            {result.data() + c_at, states},
                            {result.data() + delta_at, 1}},
                           scratch.data());
      return result;
    });
    expect_gradient(
        gradient, x, dout, [&](const std::vector<Complex>& at) { return mamba_reference(shape, at); }, 3e-6,
        "mamba2", 150);
  }
}

}  // namespace
}  // namespace quantfit::kernels::math_test

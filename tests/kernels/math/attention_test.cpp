// Attention forward and backward against the textbook formulas on double and complex numbers.

#include <algorithm>

#include "tests/kernels/math/math_test_support.h"

namespace quantfit::kernels::math_test {
namespace {

struct AttentionCase {
  const char* name;
  std::size_t tokens, heads, kv_heads, key_dim, value_dim;
  MaskKind mask = MaskKind::Causal;
  std::size_t window = 0;
  float softcap = 0.0F;
  bool alibi = false;
  bool sinks = false;
};
const AttentionCase kCases[] = {
    {"one token", 1, 1, 1, 4, 4},
    {"causal, grouped", 41, 4, 2, 16, 16},
    {"three tiles of keys", 150, 2, 1, 8, 24},
    {"window", 100, 2, 2, 12, 10, MaskKind::SlidingWindow, 7},
    {"window of one", 37, 1, 1, 12, 10, MaskKind::SlidingWindow, 1},
    {"long window", 140, 1, 1, 20, 20, MaskKind::SlidingWindow, 70},
    {"chunked", 100, 2, 1, 18, 16, MaskKind::Chunked, 30},
    {"symmetric", 75, 1, 1, 16, 33, MaskKind::Symmetric, 9},
    {"no mask", 70, 1, 1, 16, 16, MaskKind::None},
    {"softcap", 45, 2, 1, 16, 16, MaskKind::Causal, 0, 0.7F},
    {"ALiBi", 45, 2, 2, 16, 16, MaskKind::Causal, 0, 0.0F, true},
    {"sinks", 70, 4, 2, 16, 16, MaskKind::SlidingWindow, 20, 0.0F, false, true},
    {"all at once", 70, 4, 2, 16, 16, MaskKind::SlidingWindow, 20, 0.9F, true, true},
    {"wide heads", 34, 1, 1, 300, 290},
};

bool sees(const AttentionCase& c, std::size_t t, std::size_t j) {
  const std::size_t distance = t > j ? t - j : j - t;
  switch (c.mask) {
    case MaskKind::Causal:
      return j <= t;
    case MaskKind::SlidingWindow:
      return j <= t && distance < c.window;
    case MaskKind::Chunked:
      return j <= t && j >= t / c.window * c.window;
    case MaskKind::Symmetric:
      return distance <= c.window / 2;
    case MaskKind::None:
      return true;
  }
  return false;
}

// x: q, k, v and sinks, one after the other.
template <class T>
std::vector<T> reference(const AttentionCase& c, const Floats& slopes, double scale,
                         const std::vector<T>& x) {
  const std::size_t k_at = c.tokens * c.heads * c.key_dim;
  const std::size_t v_at = k_at + c.tokens * c.kv_heads * c.key_dim;
  const std::size_t sinks_at = v_at + c.tokens * c.kv_heads * c.value_dim;
  std::vector<T> out(c.tokens * c.heads * c.value_dim);
  for (std::size_t h = 0; h < c.heads; ++h) {
    const std::size_t g = h / (c.heads / c.kv_heads);
    for (std::size_t t = 0; t < c.tokens; ++t) {
      std::vector<T> u;
      std::vector<std::size_t> at;
      for (std::size_t j = 0; j < c.tokens; ++j) {
        if (!sees(c, t, j)) continue;
        T sum = 0.0;
        for (std::size_t d = 0; d < c.key_dim; ++d)
          sum += x[(t * c.heads + h) * c.key_dim + d] * x[k_at + (j * c.kv_heads + g) * c.key_dim + d];
        sum *= scale;
        const double cap = static_cast<double>(c.softcap);
        if (cap > 0.0) sum = cap * std::tanh(sum / cap);
        const double distance = std::fabs(static_cast<double>(t) - static_cast<double>(j));
        if (c.alibi) sum -= static_cast<double>(slopes[h]) * distance;
        u.push_back(sum);
        at.push_back(j);
      }
      double most = c.sinks ? real_of(x[sinks_at + h]) : -1e300;
      for (const T& value : u) most = std::max(most, real_of(value));
      T total = c.sinks ? std::exp(x[sinks_at + h] - most) : T(0.0);
      for (T& value : u) total += value = std::exp(value - most);
      for (std::size_t d = 0; d < c.value_dim; ++d) {
        T sum = 0.0;
        for (std::size_t i = 0; i < u.size(); ++i)
          sum += u[i] / total * x[v_at + (at[i] * c.kv_heads + g) * c.value_dim + d];
        out[(t * c.heads + h) * c.value_dim + d] = sum;
      }
    }
  }
  return out;
}

TEST(AttentionTest, ForwardAndBackward) {
  Random random(21);
  for (const AttentionCase& c : kCases) {
    const std::size_t q_size = c.tokens * c.heads * c.key_dim;
    const std::size_t k_size = c.tokens * c.kv_heads * c.key_dim;
    const std::size_t v_size = c.tokens * c.kv_heads * c.value_dim;
    const std::size_t out_size = c.tokens * c.heads * c.value_dim;
    Floats x = random.values(q_size + k_size + v_size + c.heads, -1.5F, 1.5F);
    Floats slopes = random.values(c.heads, 0.01F, 0.3F);
    AttentionShape shape;
    shape.tokens = c.tokens;
    shape.heads = c.heads;
    shape.kv_heads = c.kv_heads;
    shape.key_dim = c.key_dim;
    shape.value_dim = c.value_dim;
    shape.scale = 1.0F / std::sqrt(static_cast<float>(c.key_dim));
    shape.softcap = c.softcap;
    shape.mask = c.mask;
    shape.window = c.window;
    shape.alibi_slopes = c.alibi ? slopes.data() : nullptr;
    shape.sinks = c.sinks ? x.data() + q_size + k_size + v_size : nullptr;
    const AttentionInputs in{{x.data(), c.heads * c.key_dim},
                             {x.data() + q_size, c.kv_heads * c.key_dim},
                             {x.data() + q_size + k_size, c.kv_heads * c.value_dim}};
    const Floats dout = random.values(out_size);

    // `queries` at a time, which must not matter.
    const auto forward = [&](const MathKernels& math, std::size_t queries, Floats& out, Floats& statistics) {
      Scratch scratch(attention_scratch(shape));
      const AttentionStatistics rows{statistics.data(), statistics.data() + c.heads * c.tokens};
      for (std::size_t h = 0; h < c.heads; ++h)
        for (std::size_t t = 0; t < c.tokens; t += queries)
          math.attention(shape, in, h, t, std::min(queries, c.tokens - t),
                         {out.data(), c.heads * c.value_dim}, rows, scratch.data());
    };
    const Floats out = on_every_isa([&](const MathKernels& math) {
      Floats result(out_size);
      Floats statistics(2 * c.heads * c.tokens);
      forward(math, kAttentionQueries, result, statistics);
      for (const std::size_t queries : {std::size_t{5}, std::size_t{64}}) {
        Floats other(out_size);
        Floats other_statistics(2 * c.heads * c.tokens);
        forward(math, queries, other, other_statistics);
        EXPECT_EQ(other, result) << c.name << " " << queries;
        EXPECT_EQ(other_statistics, statistics) << c.name << " " << queries;
      }
      append(result, statistics);
      return result;
    });
    expect_close(Floats(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(out_size)),
                 reference(c, slopes, static_cast<double>(shape.scale), to_double(x)), 1e-6, c.name);

    const Floats gradient = on_every_isa([&](const MathKernels& math) {
      Floats result(x.size(), std::nanf(""));
      std::fill(result.end() - static_cast<std::ptrdiff_t>(c.heads), result.end(), 0.0F);
      Scratch scratch(attention_backward_scratch(shape));
      Floats statistics(out.begin() + static_cast<std::ptrdiff_t>(out_size), out.end());
      const AttentionStatistics rows{statistics.data(), statistics.data() + c.heads * c.tokens};
      for (std::size_t g = 0; g < c.kv_heads; ++g)
        math.attention_backward(shape, in, g, {out.data(), c.heads * c.value_dim}, rows,
                                {dout.data(), c.heads * c.value_dim}, {result.data(), c.heads * c.key_dim},
                                {result.data() + q_size, c.kv_heads * c.key_dim},
                                {result.data() + q_size + k_size, c.kv_heads * c.value_dim},
                                result.data() + q_size + k_size + v_size, scratch.data());
      return result;
    });
    const auto complex_forward = [&](const std::vector<Complex>& at) {
      return reference(c, slopes, static_cast<double>(shape.scale), at);
    };
    expect_gradient(gradient, x, dout, complex_forward, 2e-6, c.name, 40);
    if (c.sinks) {
      // Sampled places may miss the sinks.
      Floats sinks(x.end() - static_cast<std::ptrdiff_t>(c.heads), x.end());
      Floats dsinks(gradient.end() - static_cast<std::ptrdiff_t>(c.heads), gradient.end());
      expect_gradient(
          dsinks, sinks, dout,
          [&](const std::vector<Complex>& at) {
            std::vector<Complex> all = to_complex(x);
            std::copy(at.begin(), at.end(), all.end() - static_cast<std::ptrdiff_t>(c.heads));
            return complex_forward(all);
          },
          5e-6, c.name);
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels::math_test

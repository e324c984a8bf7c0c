// Softmax, the choice of experts, and the loss.

#include <algorithm>
#include <numeric>

#include "tests/kernels/math/math_test_support.h"

namespace quantfit::kernels::math_test {
namespace {

template <class T>
std::vector<T> softmax_of(const std::vector<T>& x) {
  double most = -1e300;
  for (const T& value : x) most = std::max(most, real_of(value));
  std::vector<T> y;
  T total = 0.0;
  for (const T& value : x) total += y.emplace_back(std::exp(value - most));
  for (T& value : y) value /= total;
  return y;
}

TEST(SoftmaxTest, ForwardAndBackward) {
  Random random(51);
  for (const std::size_t n : {std::size_t{1}, std::size_t{2}, std::size_t{40}, std::size_t{300}}) {
    const Floats x = random.values(n, -4.0F, 4.0F);
    const Floats dy = random.values(n);
    const Floats y = on_every_isa([&](const MathKernels& math) {
      Floats out = x;
      math.softmax(out.data(), n, out.data());
      return out;
    });
    expect_close(y, softmax_of(to_double(x)), 5e-7, "softmax");
    const Floats dx = on_every_isa([&](const MathKernels& math) {
      Floats out = dy;
      math.softmax_backward(y.data(), out.data(), n, out.data());
      return out;
    });
    if (n > 1)
      expect_gradient(
          dx, x, dy, [](const std::vector<Complex>& at) { return softmax_of(at); }, 2e-6, "softmax");
  }
}

struct RouterCase {
  const char* name;
  RouterShape shape;
  bool biased = false;
};
std::vector<RouterCase> router_cases() {
  return {{"softmax", {24, 3, 1, 1, Gating::Softmax, false, false, 0.0F, nullptr}},
          {"softmax normalized", {40, 4, 1, 1, Gating::Softmax, false, true, 0.0F, nullptr}},
          {"sigmoid, groups, bias", {32, 4, 8, 3, Gating::Sigmoid, false, true, 2.5F, nullptr}, true},
          {"by logit", {16, 1, 1, 1, Gating::Sigmoid, true, false, 0.0F, nullptr}},
          {"of selected", {33, 4, 1, 1, Gating::SoftmaxOfSelected, false, false, 0.0F, nullptr}},
          {"sqrt softplus", {20, 5, 1, 1, Gating::SqrtSoftplus, false, true, 1.5F, nullptr}},
          {"all of them", {3, 3, 1, 1, Gating::Softmax, false, true, 1.0F, nullptr}}};
}

// Weights in the order of `selected`, of logits that may be complex.
template <class T>
std::vector<T> gate_weights(const RouterShape& shape, const std::vector<std::uint32_t>& selected,
                            const std::vector<T>& logits) {
  std::vector<T> p;
  switch (shape.gating) {
    case Gating::Softmax:
      p = softmax_of(logits);
      break;
    case Gating::Sigmoid:
      for (const T& value : logits) p.push_back(1.0 / (1.0 + std::exp(-value)));
      break;
    case Gating::SoftmaxOfSelected:
      p = logits;
      break;
    case Gating::SqrtSoftplus:
      for (const T& value : logits) p.push_back(std::sqrt(std::log(1.0 + std::exp(value))));
      break;
  }
  std::vector<T> weights;
  for (const std::uint32_t e : selected) weights.push_back(p[e]);
  if (shape.gating == Gating::SoftmaxOfSelected) weights = softmax_of(weights);
  if (shape.normalize) {
    const T total = std::accumulate(weights.begin(), weights.end(), T(0.0));
    for (T& value : weights) value /= total;
  }
  if (shape.scale != 0.0F)
    for (T& value : weights) value *= static_cast<double>(shape.scale);
  return weights;
}

TEST(RoutingTest, SelectsWeighsAndDifferentiates) {
  Random random(52);
  for (RouterCase c : router_cases()) {
    const Floats bias = random.values(c.shape.experts, -0.5F, 0.5F);
    c.shape.selection_bias = c.biased ? bias.data() : nullptr;
    for (int round = 0; round < 20; ++round) {
      const Floats logits = random.values(c.shape.experts, -2.0F, 2.0F);
      std::vector<std::uint32_t> selected(c.shape.used);
      Floats probability(c.shape.experts);
      const Floats found = on_every_isa([&](const MathKernels& math) {
        Floats weights(c.shape.used);
        math.route(c.shape, logits.data(), selected.data(), weights.data(), probability.data());
        append(weights, Floats(selected.begin(), selected.end()));
        return weights;
      });
      // The selection, by sorting.
      Doubles scores;
      for (std::size_t e = 0; e < c.shape.experts; ++e)
        scores.push_back(static_cast<double>(c.shape.select_by_logit ? logits[e] : probability[e]) +
                         (c.biased ? static_cast<double>(bias[e]) : 0.0));
      if (c.shape.groups > 1) {
        const std::size_t size = c.shape.experts / c.shape.groups;
        std::vector<std::pair<double, std::size_t>> groups;
        for (std::size_t g = 0; g < c.shape.groups; ++g) {
          Doubles members(scores.begin() + static_cast<std::ptrdiff_t>(g * size),
                          scores.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
          std::sort(members.rbegin(), members.rend());
          groups.emplace_back(-(members[0] + members[1]), g);
        }
        std::sort(groups.begin(), groups.end());
        for (std::size_t i = c.shape.groups_used; i < groups.size(); ++i)
          for (std::size_t e = 0; e < size; ++e) scores[groups[i].second * size + e] = -1e9;
      }
      std::vector<std::uint32_t> order(c.shape.experts);
      std::iota(order.begin(), order.end(), 0U);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::uint32_t a, std::uint32_t b) { return scores[a] > scores[b]; });
      order.resize(c.shape.used);
      ASSERT_EQ(selected, order) << c.name;
      expect_close(Floats(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(c.shape.used)),
                   gate_weights(c.shape, selected, to_double(logits)), 1e-6, c.name);

      const Floats dweights = random.values(c.shape.used);
      const Floats dlogits = on_every_isa([&](const MathKernels& math) {
        Floats out(c.shape.experts, std::nanf(""));
        math.route_backward(c.shape, logits.data(), selected.data(), probability.data(), dweights.data(),
                            out.data());
        return out;
      });
      expect_gradient(
          dlogits, logits, dweights,
          [&](const std::vector<Complex>& at) { return gate_weights(c.shape, selected, at); }, 5e-6, c.name);
    }
  }
}

TEST(RoutingTest, EqualScoresGoToTheLowerIndex) {
  RouterShape shape{8, 3, 1, 1, Gating::Softmax, false, false, 0.0F, nullptr};
  const Floats logits{0.0F, 1.0F, 0.0F, 1.0F, 0.0F, 1.0F, 1.0F, 0.0F};
  for (const MathKernels& math : runnable_math_kernels()) {
    std::vector<std::uint32_t> selected(3);
    Floats weights(3);
    Floats probability(8);
    math.route(shape, logits.data(), selected.data(), weights.data(), probability.data());
    EXPECT_EQ(selected, (std::vector<std::uint32_t>{1, 3, 5})) << math.isa;
  }
}

TEST(RoutingTest, NotANumberStillGivesValidExperts) {
  RouterShape shape{8, 3, 2, 1, Gating::Sigmoid, false, true, 0.0F, nullptr};
  const Floats logits(8, std::nanf(""));
  for (const MathKernels& math : runnable_math_kernels()) {
    std::vector<std::uint32_t> selected(3);
    Floats weights(3);
    Floats probability(8);
    math.route(shape, logits.data(), selected.data(), weights.data(), probability.data());
    for (const std::uint32_t e : selected) EXPECT_LT(e, 8U) << math.isa;
  }
}

double log_sum_of(const Floats& z) {
  double most = -1e300;
  for (const float value : z) most = std::max(most, static_cast<double>(value));
  double total = 0.0;
  for (const float value : z) total += std::exp(static_cast<double>(value) - most);
  return most + std::log(total);
}

TEST(LossTest, LogSumGradientAndDivergence) {
  Random random(53);
  for (const std::size_t n : {std::size_t{1}, std::size_t{50}, std::size_t{5003}}) {
    const Floats base = random.values(n, -8.0F, 12.0F);
    for (const float noise : {0.0F, 1e-3F, 0.5F, 20.0F}) {
      Floats other = base;
      for (float& value : other) value += random.uniform(-noise, noise);
      const double base_sum = log_sum_of(base);
      const double other_sum = log_sum_of(other);
      double exact = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        const double lp = static_cast<double>(base[i]) - base_sum;
        const double d = static_cast<double>(other[i]) - other_sum - lp;
        exact += std::exp(lp) * (std::expm1(d) - d);
      }
      Doubles results;
      for (const MathKernels& math : runnable_math_kernels()) {
        LogSum sum;
        for (std::size_t i = 0; i < n; i += 1000)
          math.add_to_log_sum(base.data() + i, std::min<std::size_t>(1000, n - i), sum);
        EXPECT_NEAR(math.log_sum(sum), base_sum, 3e-7) << math.isa;
        results.push_back(math.log_sum(sum));
        results.push_back(math.divergence(base.data(), base_sum, other.data(), other_sum, n));
        EXPECT_NEAR(results.back(), exact, 1e-5 * exact + 1e-13) << math.isa << " " << n << " " << noise;
        EXPECT_EQ(results[results.size() - 2], results[0]) << math.isa;
        EXPECT_EQ(results[results.size() - 1], results[1]) << math.isa;
      }
    }
    const std::size_t target = n / 2;
    const double sum = log_sum_of(base);
    const Floats gradient = on_every_isa([&](const MathKernels& math) {
      Floats dz(n);
      math.softmax_gradient(base.data(), n, sum, target, 2.0F, dz.data());
      return dz;
    });
    Doubles expected;
    for (std::size_t i = 0; i < n; ++i)
      expected.push_back(2.0 * (std::exp(static_cast<double>(base[i]) - sum) - (i == target ? 1.0 : 0.0)));
    expect_close(gradient, expected, 2e-6, "softmax_gradient");
  }
}

TEST(LossTest, ArgmaxAndSample) {
  Random random(54);
  for (const MathKernels& math : runnable_math_kernels()) {
    EXPECT_EQ(math.argmax(Floats{1.0F, 5.0F, 5.0F}.data(), 3), 1U);
    Floats z = random.values(100);
    z[77] = z[78] = 3.0F;
    EXPECT_EQ(math.argmax(z.data(), z.size()), 77U);
    z[99] = 4.0F;
    EXPECT_EQ(math.argmax(z.data(), z.size()), 99U);

    // Four tokens with probabilities 0.5, 0.25, 0.125, 0.125.
    const Floats p{std::log(0.5F), std::log(0.25F), std::log(0.125F), std::log(0.125F)};
    const double uniforms[] = {0.0, 0.49, 0.51, 0.74, 0.76, 0.87, 0.88};
    const std::size_t tokens[] = {0, 0, 1, 1, 2, 2, 3};
    for (std::size_t i = 0; i < 7; ++i) {
      double cumulative = 0.0;
      EXPECT_EQ(math.sample(p.data(), 4, 0.0, uniforms[i], cumulative), tokens[i]) << uniforms[i];
      // In two parts.
      cumulative = 0.0;
      const std::size_t first = math.sample(p.data(), 2, 0.0, uniforms[i], cumulative);
      const std::size_t token =
          first < 2 ? first : 2 + math.sample(p.data() + 2, 2, 0.0, uniforms[i], cumulative);
      EXPECT_EQ(token, tokens[i]) << uniforms[i];
    }
  }
}

}  // namespace
}  // namespace quantfit::kernels::math_test

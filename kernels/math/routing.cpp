// Softmax of a row, and the choice of experts by it, forward and backward.

#include "kernels/instruction_set.h"
// First: it decides which instruction set the following headers are compiled for.
#include <algorithm>

#include "kernels/lanes-inl.h"
#include "kernels/math/functions-inl.h"
#include "kernels/math/rows-inl.h"
#include "kernels/math/targets.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE {
namespace {

// The least sum that weights are divided by: the smallest normal half.
constexpr float kLeastWeightSum = 6.103515625e-5F;

HWY_INLINE float largest(const float* x, std::size_t n) {
  F best = set(-3.0e38F);
  for (std::size_t i = 0; i < n; i += 16) best = max(best, load_first(x + i, n - i, -3.0e38F));
  return max_lane(best);
}

void softmax(const float* x, std::size_t n, float* y) {
  const F peak = set(largest(x, n));
  for (std::size_t i = 0; i < n; i += 16) store_first(exp(load_first(x + i, n - i) - peak), y + i, n - i);
  const F total = set(sum_row(n, SumOfValues{y}));
  for (std::size_t i = 0; i < n; i += 16) store_first(load_first(y + i, n - i) / total, y + i, n - i);
}

void softmax_backward(const float* y, const float* dy, std::size_t n, float* dx) {
  const F along = set(dot(y, dy, n));
  for (std::size_t i = 0; i < n; i += 16)
    store_first(load_first(y + i, n - i) * (load_first(dy + i, n - i) - along), dx + i, n - i);
}

HWY_INLINE float selection_score(const RouterShape& shape, const float* logits, const float* probability,
                                 std::size_t e) {
  const float score = shape.select_by_logit ? logits[e] : probability[e];
  return shape.selection_bias == nullptr ? score : score + shape.selection_bias[e];
}

// The sum of the two largest scores of a group.
HWY_INLINE float group_score(const RouterShape& shape, const float* logits, const float* probability,
                             std::size_t group) {
  const std::size_t size = shape.experts / shape.groups;
  float first = -3.0e38F;
  float second = -3.0e38F;
  for (std::size_t e = group * size; e < (group + 1) * size; ++e) {
    const float score = selection_score(shape, logits, probability, e);
    if (score > first) {
      second = first;
      first = score;
    } else if (score > second) {
      second = score;
    }
  }
  return size > 1 ? first + second : first;
}

// Bit g: group g is among the best.
HWY_INLINE std::uint64_t open_groups(const RouterShape& shape, const float* logits,
                                     const float* probability) {
  if (shape.groups <= 1) return 1;
  float scores[kMaxRouterGroups];
  for (std::size_t g = 0; g < shape.groups; ++g) scores[g] = group_score(shape, logits, probability, g);
  std::uint64_t open = 0;
  for (std::size_t g = 0; g < shape.groups; ++g) {
    std::size_t better = 0;
    for (std::size_t h = 0; h < shape.groups; ++h)
      if (scores[h] > scores[g] || (scores[h] == scores[g] && h < g)) ++better;
    if (better < shape.groups_used) open |= std::uint64_t{1} << g;
  }
  return open;
}

// Best first. Each is the best of those that come after the one before it in the order (score falling, index
// rising), so that no list of scores is needed.
HWY_INLINE void select_experts(const RouterShape& shape, const float* logits, const float* probability,
                               std::uint32_t* selected) {
  const std::uint64_t open = open_groups(shape, logits, probability);
  const std::size_t size = shape.experts / std::max<std::size_t>(shape.groups, 1);
  float last_score = 0.0F;
  for (std::size_t slot = 0; slot < shape.used; ++slot) {
    std::size_t best = shape.experts;
    float best_score = 0.0F;
    for (std::size_t e = 0; e < shape.experts; ++e) {
      if ((open >> (e / size) & 1U) == 0) continue;
      const float score = selection_score(shape, logits, probability, e);
      const bool after = slot == 0 || score < last_score || (score == last_score && e > selected[slot - 1]);
      if (after && (best == shape.experts || score > best_score)) {
        best = e;
        best_score = score;
      }
    }
    // Only scores that are no numbers leave none over; any valid index will do then.
    selected[slot] = static_cast<std::uint32_t>(best == shape.experts ? slot : best);
    last_score = best_score;
  }
}

// Weights of the selected experts before normalization and scale; the softmax over them is done in place.
HWY_INLINE void raw_weights(const RouterShape& shape, const std::uint32_t* selected, const float* probability,
                            float* weights) {
  for (std::size_t s = 0; s < shape.used; ++s) weights[s] = probability[selected[s]];
  if (shape.gating == Gating::SoftmaxOfSelected) softmax(weights, shape.used, weights);
}

HWY_INLINE float router_scale(const RouterShape& shape) {
  return shape.scale == 0.0F ? 1.0F : shape.scale;
}

void route(const RouterShape& shape, const float* logits, std::uint32_t* selected, float* weights,
           float* probability) {
  const std::size_t n = shape.experts;
  switch (shape.gating) {
    case Gating::Softmax:
      softmax(logits, n, probability);
      break;
    case Gating::Sigmoid:
      for (std::size_t i = 0; i < n; i += 16)
        store_first(sigmoid(load_first(logits + i, n - i)), probability + i, n - i);
      break;
    case Gating::SoftmaxOfSelected:
      std::memcpy(probability, logits, n * sizeof(float));
      break;
    case Gating::SqrtSoftplus:
      for (std::size_t i = 0; i < n; i += 16)
        store_first(sqrt(softplus(load_first(logits + i, n - i))), probability + i, n - i);
      break;
  }
  select_experts(shape, logits, probability, selected);
  raw_weights(shape, selected, probability, weights);
  if (shape.normalize) {
    const float total = std::max(sum_row(shape.used, SumOfValues{weights}), kLeastWeightSum);
    for (std::size_t s = 0; s < shape.used; ++s) weights[s] = weights[s] / total;
  }
  for (std::size_t s = 0; s < shape.used; ++s) weights[s] = weights[s] * router_scale(shape);
}

// Through scale and normalization: from gradients of the final weights to those of the raw ones, in place.
HWY_INLINE void weights_backward(const RouterShape& shape, const float* raw, float* dweights) {
  for (std::size_t s = 0; s < shape.used; ++s) dweights[s] = dweights[s] * router_scale(shape);
  if (!shape.normalize) return;
  const float total = sum_row(shape.used, SumOfValues{raw});
  const float divisor = std::max(total, kLeastWeightSum);
  const float along = total < kLeastWeightSum ? 0.0F : dot(raw, dweights, shape.used) / divisor;
  for (std::size_t s = 0; s < shape.used; ++s) dweights[s] = (dweights[s] - along) / divisor;
}

void route_backward(const RouterShape& shape, const float* logits, const std::uint32_t* selected,
                    const float* probability, const float* dweights, float* dlogits) {
  // The gradients of the used experts wait in their places of dlogits, or, in slot order, in small arrays.
  const std::size_t n = shape.experts;
  float raw[kMaxRoutedExperts];
  float draw[kMaxRoutedExperts];
  raw_weights(shape, selected, probability, raw);
  std::memcpy(draw, dweights, shape.used * sizeof(float));
  weights_backward(shape, raw, draw);
  if (shape.gating == Gating::SoftmaxOfSelected) softmax_backward(raw, draw, shape.used, draw);
  std::fill(dlogits, dlogits + n, 0.0F);
  for (std::size_t s = 0; s < shape.used; ++s) dlogits[selected[s]] = draw[s];
  switch (shape.gating) {
    case Gating::Softmax:
      softmax_backward(probability, dlogits, n, dlogits);
      break;
    case Gating::Sigmoid:
      for (std::size_t s = 0; s < shape.used; ++s) {
        const float p = probability[selected[s]];
        dlogits[selected[s]] = draw[s] * p * (1.0F - p);
      }
      break;
    case Gating::SoftmaxOfSelected:
      break;
    case Gating::SqrtSoftplus:
      for (std::size_t s = 0; s < shape.used; ++s) {
        const std::uint32_t e = selected[s];
        dlogits[e] = draw[s] * first_lane(sigmoid(set(logits[e]))) / (2.0F * probability[e]);
      }
      break;
  }
}

}  // namespace

void fill_routing(MathKernels& table) {
  table.softmax = softmax;
  table.softmax_backward = softmax_backward;
  table.route = route;
  table.route_backward = route_backward;
}

}  // namespace quantfit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

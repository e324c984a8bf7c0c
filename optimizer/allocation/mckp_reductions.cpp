#include "optimizer/allocation/mckp_reductions.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <tuple>

namespace quantfit::optimizer::mckp {
namespace {

// Is gain a per weight a greater than gain b per weight b? Exact: products stay below 2^124.
bool steeper(std::int64_t gain_a, std::int64_t weight_a, std::int64_t gain_b, std::int64_t weight_b) {
  return Int128{gain_a} * weight_b > Int128{gain_b} * weight_a;
}

Int128 penalized(const Item& item, std::int64_t multiplier) {
  return (Int128{item.cost} << kMultiplierShift) + Int128{multiplier} * item.weight;
}

// Index of the least cost + multiplier * weight; the lightest of equals, because weights ascend.
std::uint32_t least_penalized(std::span<const Item> items, std::int64_t multiplier) {
  std::uint32_t best = 0;
  Int128 least = penalized(items[0], multiplier);
  for (std::uint32_t i = 1; i < items.size(); ++i) {
    const Int128 value = penalized(items[i], multiplier);
    if (value < least) {
      least = value;
      best = i;
    }
  }
  return best;
}

}  // namespace

void remove_dominated(Items& items) {
  std::ranges::sort(items, [](const Item& a, const Item& b) {
    return std::tie(a.weight, a.cost, a.rank, a.source) < std::tie(b.weight, b.cost, b.rank, b.source);
  });
  std::size_t kept = 0;
  for (const Item& item : items) {
    if (kept > 0 && item.cost >= items[kept - 1].cost) continue;
    items[kept++] = item;
  }
  items.resize(kept);
}

std::vector<std::uint32_t> convex_hull(std::span<const Item> items) {
  std::vector<std::uint32_t> hull;
  for (std::uint32_t i = 0; i < items.size(); ++i) {
    while (hull.size() >= 2) {
      const Item& a = items[hull[hull.size() - 2]];
      const Item& b = items[hull.back()];
      // b stays only where the step a-b is strictly steeper than b-i.
      if (steeper(a.cost - b.cost, b.weight - a.weight, b.cost - items[i].cost, items[i].weight - b.weight))
        break;
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

std::int64_t weight_step(std::span<const Items> classes) {
  std::int64_t step = 0;
  for (const Items& items : classes)
    for (const Item& item : items) step = std::gcd(step, item.weight - items.front().weight);
  return step;
}

std::vector<HullStep> sorted_hull_steps(std::span<const Items> classes) {
  // Quotients in double decide wherever they differ: numbers up to 2^53 convert exactly, and a correctly
  // rounded quotient keeps their order. Only where two are equal are products compared.
  struct Keyed {
    double slope;
    HullStep step;
  };
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  std::vector<Keyed> keyed;
  bool exact = true;
  for (std::uint32_t c = 0; c < classes.size(); ++c) {
    const std::vector<std::uint32_t> hull = convex_hull(classes[c]);
    for (std::size_t i = 1; i < hull.size(); ++i) {
      const Item& from = classes[c][hull[i - 1]];
      const Item& to = classes[c][hull[i]];
      if (to.cost >= from.cost) break;
      const HullStep step{c, hull[i - 1], hull[i], to.weight - from.weight, from.cost - to.cost};
      exact = exact && step.weight <= kExact && step.gain <= kExact;
      keyed.push_back({static_cast<double>(step.gain) / static_cast<double>(step.weight), step});
    }
  }
  std::ranges::sort(keyed, [exact](const Keyed& one, const Keyed& other) {
    if (exact && one.slope != other.slope) return one.slope > other.slope;
    const HullStep &a = one.step, &b = other.step;
    if (steeper(a.gain, a.weight, b.gain, b.weight)) return true;
    if (steeper(b.gain, b.weight, a.gain, a.weight)) return false;
    return std::tie(a.class_index, a.from) < std::tie(b.class_index, b.from);
  });
  std::vector<HullStep> steps;
  steps.reserve(keyed.size());
  for (const Keyed& one : keyed) steps.push_back(one.step);
  return steps;
}

Int128 lagrangian(std::span<const Items> classes, std::int64_t capacity, std::int64_t multiplier) {
  Int128 bound = -Int128{multiplier} * capacity;
  for (const Items& items : classes)
    bound += penalized(items[least_penalized(items, multiplier)], multiplier);
  return bound;
}

Dual dual_bound(std::span<const Items> classes, std::span<const HullStep> steps, std::int64_t capacity) {
  std::int64_t room = capacity;
  for (const Items& items : classes) room -= items.front().weight;
  Dual dual;
  for (const HullStep& step : steps) {
    room -= step.weight;
    if (room < 0) {
      dual.multiplier = static_cast<std::int64_t>((Int128{step.gain} << kMultiplierShift) / step.weight);
      break;
    }
  }
  dual.bound = lagrangian(classes, capacity, dual.multiplier);
  if (room < 0) {
    const Int128 above = lagrangian(classes, capacity, dual.multiplier + 1);
    if (above > dual.bound) {
      dual.bound = above;
      ++dual.multiplier;
    }
  }
  dual.slack = capacity;
  dual.base.reserve(classes.size());
  for (const Items& items : classes) {
    const std::uint32_t base = least_penalized(items, dual.multiplier);
    dual.base.push_back(base);
    dual.slack -= items[base].weight;
  }
  return dual;
}

std::vector<std::uint32_t> greedy_choice(std::span<const Items> classes, std::span<const HullStep> steps,
                                         std::int64_t capacity) {
  std::vector<std::uint32_t> choice(classes.size(), 0);
  std::int64_t room = capacity;
  for (const Items& items : classes) room -= items.front().weight;
  for (const HullStep& step : steps) {
    if (step.weight > room || choice[step.class_index] != step.from) continue;
    choice[step.class_index] = step.to;
    room -= step.weight;
  }
  for (bool improved = true; improved;) {
    improved = false;
    std::int64_t best_gain = 0;
    std::size_t best_class = 0;
    std::uint32_t best_item = 0;
    for (std::size_t c = 0; c < classes.size(); ++c) {
      const Items& items = classes[c];
      const Item& now = items[choice[c]];
      // The heaviest item that fits is the cheapest that fits.
      std::uint32_t heaviest = choice[c];
      while (heaviest + 1 < items.size() && items[heaviest + 1].weight - now.weight <= room) ++heaviest;
      if (const std::int64_t gain = now.cost - items[heaviest].cost; gain > best_gain) {
        best_gain = gain;
        best_class = c;
        best_item = heaviest;
      }
    }
    if (best_gain > 0) {
      room -= classes[best_class][best_item].weight - classes[best_class][choice[best_class]].weight;
      choice[best_class] = best_item;
      improved = true;
    }
  }
  return choice;
}

std::vector<std::vector<ReducedItem>> fix_by_reduced_cost(std::span<const Items> classes, const Dual& dual,
                                                          std::int64_t gap) {
  std::vector<std::vector<ReducedItem>> open(classes.size());
  for (std::size_t c = 0; c < classes.size(); ++c) {
    const Item& base = classes[c][dual.base[c]];
    const Int128 least = penalized(base, dual.multiplier);
    for (std::uint32_t i = 0; i < classes[c].size(); ++i) {
      const Item& item = classes[c][i];
      const Int128 reduced = penalized(item, dual.multiplier) - least;
      if (reduced > gap) continue;
      open[c].push_back({item.weight - base.weight,
                         (item.cost - base.cost) * (std::int64_t{1} << kMultiplierShift),
                         static_cast<std::int64_t>(reduced), i});
    }
  }
  return open;
}

}  // namespace quantfit::optimizer::mckp

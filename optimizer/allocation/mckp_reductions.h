// Reductions of the multiple-choice knapsack on integers: dominance, convex hull, Lagrangian dual bound,
// reduced costs, and the fixing that they allow. Pure functions; the mathematics is in allocation.md.
//
// Sizes: every sum of weights and every sum of scaled costs (cost * 2^kMultiplierShift), one per class, must
// stay below 2^62 in magnitude. The allocator chooses its units so; nothing here checks it again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quantfit::optimizer::mckp {

__extension__ typedef __int128 Int128;

// The multiplier is a fixed-point number with this many binary places, so that bounds and reduced costs are
// exact integers: scaled cost = cost * 2^kMultiplierShift.
inline constexpr int kMultiplierShift = 8;

struct Item {
  std::int64_t weight = 0;   // >= 0
  std::int64_t cost = 0;     // >= 0
  std::uint32_t rank = 0;    // of two items equal in weight and cost the lower rank is kept
  std::uint32_t source = 0;  // the caller's own index
};
using Items = std::vector<Item>;

// Leaves the Pareto frontier: weight strictly ascending, cost strictly descending. Points above the convex
// hull stay.
void remove_dominated(Items& items);

// Indices of the lower convex hull of items in strictly ascending weight, first and last included; slopes
// strictly increase.
[[nodiscard]] std::vector<std::uint32_t> convex_hull(std::span<const Item> items);

// Greatest common divisor of all weight differences within classes; 0 when no class has two weights.
[[nodiscard]] std::int64_t weight_step(std::span<const Items> classes);

// One step along a class's hull.
struct HullStep {
  std::uint32_t class_index;
  std::uint32_t from;
  std::uint32_t to;
  std::int64_t weight;  // added, > 0
  std::int64_t gain;    // cost removed, > 0
};

// All hull steps that save cost, in descending order of gain per weight (exact comparison), ties by class
// index then position. Steps of one class keep their order. O(n log n).
[[nodiscard]] std::vector<HullStep> sorted_hull_steps(std::span<const Items> classes);

struct Dual {
  std::int64_t multiplier = 0;      // lambda * 2^kMultiplierShift, cost per unit of weight
  Int128 bound = 0;                 // scaled: no choice within the capacity costs less
  std::vector<std::uint32_t> base;  // per class: the lightest item of least cost + lambda * weight
  std::int64_t slack = 0;           // capacity less the weight of `base`; may be negative
};

// The Lagrangian dual at the multiplier of the linear relaxation's break step, rounded to kMultiplierShift
// places in the better direction. `capacity` must be at least the sum of each class's first weight; `steps`
// are the classes' sorted hull steps.
[[nodiscard]] Dual dual_bound(std::span<const Items> classes, std::span<const HullStep> steps,
                              std::int64_t capacity);

// L(lambda) for any multiplier >= 0 (scaled): sum over classes of min(cost + lambda *
// weight) - lambda * capacity.
[[nodiscard]] Int128 lagrangian(std::span<const Items> classes, std::int64_t capacity,
                                std::int64_t multiplier);

// A feasible choice: hull steps taken in order while they fit, then single exchanges
// that fit, best gain first.
[[nodiscard]] std::vector<std::uint32_t> greedy_choice(std::span<const Items> classes,
                                                       std::span<const HullStep> steps,
                                                       std::int64_t capacity);

// An item seen from its class's base item.
struct ReducedItem {
  std::int64_t weight;   // less the base's weight
  std::int64_t cost;     // scaled, less the base's cost
  std::int64_t reduced;  // cost + multiplier * weight, >= 0, 0 for the base
  std::uint32_t item;    // index in the class
};

// Per class the items, in order of weight, whose reduced cost is at most `gap` (scaled, < 2^62): no other
// item is part of a choice that costs less than or exactly bound + gap. The base always stays.
[[nodiscard]] std::vector<std::vector<ReducedItem>> fix_by_reduced_cost(std::span<const Items> classes,
                                                                        const Dual& dual, std::int64_t gap);

}  // namespace quantfit::optimizer::mckp

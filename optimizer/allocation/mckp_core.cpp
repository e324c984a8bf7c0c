#include "optimizer/allocation/mckp_core.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <limits>
#include <numeric>
#include <utility>

#include "core/clock.h"

namespace quantfit::optimizer::mckp {
namespace {

// A partial choice over one end of the classes, seen from the base choice. Lists ascend in weight and descend
// in cost, both strictly. 16 bytes.
struct State {
  std::int64_t weight;
  std::int64_t cost;  // scaled
};

// How each state of one layer came to be: all that is kept of earlier layers, 5 bytes per state.
struct Layer {
  std::uint32_t position;              // in the order of open classes
  std::vector<std::uint32_t> parents;  // index of the state before
  std::vector<std::uint8_t> options;   // index into the class's open items

  std::uint64_t bytes() const {
    return parents.capacity() * sizeof(parents[0]) + options.capacity() * sizeof(options[0]);
  }
};

// The states over the classes taken from one end so far.
struct Side {
  std::vector<State> states{{0, 0}};
  std::vector<Layer> layers;
};

// What one more state of the layer in the making can cost in memory, at worst: itself and its back pointer in
// vectors that double (old and new alive for a moment), and the back pointer's exact copy.
constexpr std::uint64_t kBackPointerBytes = sizeof(std::uint32_t) + sizeof(std::uint8_t);
constexpr std::uint64_t kGrowthBytes = 3 * (sizeof(State) + kBackPointerBytes) + kBackPointerBytes;

// One step of an open class's hull of (weight, reduced cost), away from the base in either direction.
struct Increment {
  double slope;  // reduced cost per unit of weight
  std::int64_t weight;
  std::int64_t reduced;
  std::uint32_t position;
};

// The lower hull from the base outwards: `points` ascend in weight, all positive.
void append_hull(std::vector<std::pair<std::int64_t, std::int64_t>>& points, std::uint32_t position,
                 std::vector<Increment>& out) {
  std::vector<std::pair<std::int64_t, std::int64_t>> hull{{0, 0}};
  for (const auto& point : points) {
    while (hull.size() >= 2) {
      const auto& a = hull[hull.size() - 2];
      const auto& b = hull.back();
      if (Int128{b.second - a.second} * (point.first - b.first) <
          Int128{point.second - b.second} * (b.first - a.first))
        break;
      hull.pop_back();
    }
    hull.push_back(point);
  }
  for (std::size_t i = 1; i < hull.size(); ++i) {
    const std::int64_t weight = hull[i].first - hull[i - 1].first;
    const std::int64_t reduced = hull[i].second - hull[i - 1].second;
    out.push_back({static_cast<double>(reduced) / static_cast<double>(weight), weight, reduced, position});
  }
}

// Stands for the slack that may stay unused, among the positions of open classes.
constexpr std::uint32_t kSparePosition = std::numeric_limits<std::uint32_t>::max();

// The linear relaxation of the classes not yet taken, as a function of the slack that they must bring back to
// between zero and what may stay unused: a lower bound on the reduced costs and the price of unused slack
// still to come. Unused slack that is limited is an increment of its own at `kSparePosition`. Piecewise
// linear, convex, zero at slack zero. Values are computed in double and lowered by kSafety, far more than
// their rounding.
class RemainderBound {
 public:
  static constexpr double kSafety = 1.0 - 0x1p-30;

  // Increments of classes for which `rest` says yes; those beyond `gap` are not needed. `beyond`: the price
  // of slack that no increment can use.
  template <class Rest>
  void build(std::span<const Increment> up, std::span<const Increment> down, double beyond, std::int64_t gap,
             Rest rest) {
    collect(up, gap, rest, up_);
    if (!up_.truncated) up_.segments.back().slope = beyond;
    collect(down, gap, rest, down_);
    up_at_ = up_.segments.size() - 1;
    down_at_ = 0;
  }

  // Bound at `slack`. Successive calls must not ascend in slack. Above every gap where the bound is infinite.
  double operator()(std::int64_t slack) {
    if (slack >= 0) {
      while (slack < up_.segments[up_at_].start) --up_at_;
      return evaluate(up_, up_at_, slack);
    }
    const std::int64_t excess = -slack;
    while (down_at_ + 1 < down_.segments.size() && excess >= down_.segments[down_at_ + 1].start) ++down_at_;
    return evaluate(down_, down_at_, excess);
  }

 private:
  struct Segment {
    std::int64_t start;
    std::int64_t value;
    double slope;
  };
  struct Arm {
    std::vector<Segment> segments;
    bool truncated = false;
  };

  template <class Rest>
  static void collect(std::span<const Increment> increments, std::int64_t gap, Rest rest, Arm& arm) {
    arm.segments.clear();
    arm.truncated = false;
    std::int64_t start = 0;
    std::int64_t value = 0;
    for (const Increment& increment : increments) {
      if (increment.position != kSparePosition && !rest(increment.position)) continue;
      if (value > gap) {
        arm.truncated = true;
        break;
      }
      arm.segments.push_back({start, value, increment.slope});
      start += increment.weight;
      value += increment.reduced;
    }
    arm.segments.push_back({start, value, std::numeric_limits<double>::infinity()});
  }

  static double evaluate(const Arm& arm, std::size_t at, std::int64_t distance) {
    const Segment& segment = arm.segments[at];
    const std::int64_t beyond = distance - segment.start;
    if (beyond == 0) return static_cast<double>(segment.value) * kSafety;
    return (static_cast<double>(segment.value) + segment.slope * static_cast<double>(beyond)) * kSafety;
  }

  Arm up_;
  Arm down_;
  std::size_t up_at_ = 0;
  std::size_t down_at_ = 0;
};

std::int64_t floor_to_multiple(std::int64_t value, std::int64_t step) {
  const std::int64_t remainder = value % step;
  return value - (remainder < 0 ? remainder + step : remainder);
}

class Search {
 public:
  Search(std::span<const Items> classes, const Dual& dual, std::int64_t gap, const CoreLimits& limits,
         std::int64_t spare)
      : classes_(classes),
        dual_(dual),
        gap_(gap),
        slack_(dual.slack),
        any_spare_(spare >= kAnySpare),
        spare_(spare),
        limits_(limits) {}

  CoreResult run(std::span<const std::uint32_t> order) {
    result_.choice = dual_.base;
    prepare(order);
    if (gap_ < 0) {
      result_.choice.clear();
      return result_;
    }
    std::uint32_t front = 0;
    auto back = static_cast<std::uint32_t>(open_.size());
    while (front < back && result_.stop == CoreStop::Complete) {
      if (front_.states.empty() || back_.states.empty()) break;
      const bool at_front = front_.states.size() <= back_.states.size();
      if (at_front) {
        bound_.build(up_, down_, unused_price(), gap_, [&](std::uint32_t p) { return p > front; });
        extend(front_, front++);
      } else {
        --back;
        bound_.build(up_, down_, unused_price(), gap_, [&](std::uint32_t p) { return p < back; });
        extend(back_, back);
      }
    }
    join();
    return result_;
  }

 private:
  // Fixes items, finds the open classes, tightens the slack to what their weights
  // can use, and sorts the hulls.
  void prepare(std::span<const std::uint32_t> order) {
    const std::vector<std::vector<ReducedItem>> reduced = fix_by_reduced_cost(classes_, dual_, gap_);
    std::int64_t step = 0;
    for (const auto& items : reduced)
      for (const ReducedItem& item : items) step = std::gcd(step, item.weight);
    // Every choice within the gap weighs a multiple of `step` more or less than the base.
    std::int64_t usable = 0;
    if (step > 0) {
      usable = floor_to_multiple(slack_, step);
    } else if (slack_ < 0) {
      gap_ = -1;
      return;
    }
    const std::int64_t unusable = slack_ - usable;
    const Int128 lost = Int128{dual_.multiplier} * unusable;
    lost_ = lost > gap_ ? gap_ + 1 : static_cast<std::int64_t>(lost);
    gap_ -= lost_;
    if (!any_spare_) {
      spare_ -= unusable;
      if (spare_ < 0) gap_ = -1;
    }
    if (gap_ < 0) return;
    slack_ = usable;
    if (!any_spare_) {
      // More unused slack would cost more than the gap.
      if (dual_.multiplier > 0) spare_ = std::min(spare_, gap_ / dual_.multiplier);
      up_.push_back(
          {static_cast<double>(dual_.multiplier), spare_, dual_.multiplier * spare_, kSparePosition});
    }
    for (const std::uint32_t c : order) {
      if (reduced[c].size() < 2) continue;
      const auto position = static_cast<std::uint32_t>(open_.size());
      open_.push_back({c, reduced[c]});
      std::vector<std::pair<std::int64_t, std::int64_t>> points;
      for (const ReducedItem& item : reduced[c])
        if (item.weight > 0) points.emplace_back(item.weight, item.reduced);
      append_hull(points, position, up_);
      points.clear();
      for (auto item = reduced[c].rbegin(); item != reduced[c].rend(); ++item)
        if (item->weight < 0) points.emplace_back(-item->weight, item->reduced);
      append_hull(points, position, down_);
    }
    const auto by_slope = [](const Increment& a, const Increment& b) {
      return a.slope != b.slope ? a.slope < b.slope : a.position < b.position;
    };
    std::ranges::stable_sort(up_, by_slope);
    std::ranges::stable_sort(down_, by_slope);
    result_.open_classes = static_cast<std::uint32_t>(open_.size());
  }

  // Per unit of slack that the classes to come cannot use.
  double unused_price() const {
    return any_spare_ ? static_cast<double>(dual_.multiplier) : std::numeric_limits<double>::infinity();
  }

  // Adds the class at `position` to `side`: merges one shifted copy of the list per item, in order of weight,
  // dropping dominated states and those that cannot end within the gap. Where slack must be used, a lighter
  // state is no substitute for a heavier one: only states of equal weight dominate each other.
  void extend(Side& side, std::uint32_t position) {
    const std::vector<ReducedItem>& items = open_[position].items;
    next_.clear();
    parents_.clear();
    options_.clear();
    struct Stream {
      std::int64_t weight;
      std::int64_t cost;
      std::size_t at;
    };
    std::vector<Stream> streams;
    streams.reserve(items.size());
    for (const ReducedItem& item : items)
      streams.push_back({item.weight + side.states[0].weight, item.cost + side.states[0].cost, 0});
    const std::size_t count = side.states.size();
    const std::uint64_t most = room();
    const double gap = static_cast<double>(gap_);
    std::int64_t least_cost = std::numeric_limits<std::int64_t>::max();
    std::size_t live = streams.size();
    std::vector<std::uint32_t> ids(streams.size());
    std::iota(ids.begin(), ids.end(), 0U);
    while (live > 0) {
      std::size_t pick = 0;
      for (std::size_t i = 1; i < live; ++i)
        if (streams[i].weight < streams[pick].weight ||
            (streams[i].weight == streams[pick].weight && streams[i].cost < streams[pick].cost))
          pick = i;
      Stream& stream = streams[pick];
      if (any_spare_ ? stream.cost < least_cost : next_.empty() || stream.weight != next_.back().weight) {
        const std::int64_t reduced = stream.cost + dual_.multiplier * stream.weight;
        if (reduced <= gap_ &&
            static_cast<double>(reduced) * RemainderBound::kSafety + bound_(slack_ - stream.weight) <= gap) {
          if (next_.size() >= most) {
            result_.stop = CoreStop::States;
            break;
          }
          least_cost = stream.cost;
          next_.push_back({stream.weight, stream.cost});
          parents_.push_back(static_cast<std::uint32_t>(stream.at));
          options_.push_back(static_cast<std::uint8_t>(ids[pick]));
        }
      }
      if (++stream.at == count) {
        streams.erase(streams.begin() + static_cast<std::ptrdiff_t>(pick));
        ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(pick));
        --live;
        continue;
      }
      stream.weight = items[ids[pick]].weight + side.states[stream.at].weight;
      stream.cost = items[ids[pick]].cost + side.states[stream.at].cost;
    }
    side.states.swap(next_);
    side.layers.push_back({position, parents_, options_});
    layer_bytes_ += side.layers.back().bytes();
    result_.states += side.states.size();
    account();
  }

  // How many states the next layer may have.
  std::uint64_t room() const {
    const std::uint64_t alive = front_.states.size() + back_.states.size();
    const std::uint64_t memory = memory_bytes();
    if (alive >= limits_.max_states || memory >= limits_.max_memory_bytes) return 0;
    return std::min(limits_.max_states - alive, (limits_.max_memory_bytes - memory) / kGrowthBytes);
  }

  std::uint64_t memory_bytes() const {
    return (front_.states.capacity() + back_.states.capacity() + next_.capacity()) * sizeof(State) +
           parents_.capacity() * sizeof(parents_[0]) + options_.capacity() * sizeof(options_[0]) +
           layer_bytes_;
  }

  void account() {
    const std::uint64_t alive = front_.states.size() + back_.states.size();
    result_.peak_states = std::max(result_.peak_states, alive);
    result_.peak_memory_bytes = std::max(result_.peak_memory_bytes, memory_bytes());
    if (Clock::now() > limits_.deadline || (limits_.cancel != nullptr && limits_.cancel->cancelled()))
      result_.stop = CoreStop::Time;
  }

  // The cheapest pair of a front and a back state that leaves between zero and `spare_` of the slack. Both
  // lists ascend in weight, so the partners of a state slide down the back list: `partners` holds those that
  // may still be the cheapest, ascending in cost and descending in weight. An incomplete search leaves the
  // classes between at their base.
  void join() {
    std::size_t best_front = 0;
    std::size_t best_back = 0;
    std::int64_t best_cost = std::numeric_limits<std::int64_t>::max();
    std::int64_t best_weight = 0;
    const std::vector<State>& backs = back_.states;
    std::deque<std::uint32_t> partners;
    std::size_t entered = backs.size();  // back states from here on have been partners
    for (std::size_t f = 0; f < front_.states.size(); ++f) {
      const State& state = front_.states[f];
      const Int128 most = Int128{slack_} - state.weight;
      while (!partners.empty() && backs[partners.front()].weight > most) partners.pop_front();
      // Without a limit to what stays unused costs descend: the heaviest that fits is the cheapest.
      while (entered > 0 && (any_spare_ ? partners.empty() : backs[entered - 1].weight >= most - spare_)) {
        --entered;
        if (backs[entered].weight > most) continue;
        while (!partners.empty() && backs[partners.back()].cost >= backs[entered].cost) partners.pop_back();
        partners.push_back(static_cast<std::uint32_t>(entered));
      }
      if (partners.empty()) continue;
      const State& other = backs[partners.front()];
      const std::int64_t cost = state.cost + other.cost;
      const std::int64_t weight = state.weight + other.weight;
      if (cost < best_cost || (cost == best_cost && weight < best_weight)) {
        best_cost = cost;
        best_weight = weight;
        best_front = f;
        best_back = partners.front();
      }
    }
    if (best_cost == std::numeric_limits<std::int64_t>::max()) {
      result_.choice.clear();
      return;
    }
    result_.found = true;
    result_.gap = best_cost + dual_.multiplier * slack_ + lost_;
    result_.weight = best_weight;
    trace(front_, best_front);
    trace(back_, best_back);
  }

  void trace(const Side& side, std::size_t state) {
    for (auto layer = side.layers.rbegin(); layer != side.layers.rend(); ++layer) {
      const OpenClass& open = open_[layer->position];
      result_.choice[open.index] = open.items[layer->options[state]].item;
      state = layer->parents[state];
    }
  }

  struct OpenClass {
    std::uint32_t index;
    std::vector<ReducedItem> items;
  };

  std::span<const Items> classes_;
  const Dual& dual_;
  std::int64_t gap_;
  std::int64_t slack_;
  std::int64_t lost_ = 0;  // scaled cost of slack that no choice within the gap can use
  bool any_spare_;         // all of the slack may stay unused
  std::int64_t spare_;     // otherwise: this much of it
  const CoreLimits& limits_;
  std::vector<OpenClass> open_;
  std::vector<Increment> up_;
  std::vector<Increment> down_;
  RemainderBound bound_;
  Side front_;
  Side back_;
  std::vector<State> next_;  // the layer in the making
  std::vector<std::uint32_t> parents_;
  std::vector<std::uint8_t> options_;
  std::uint64_t layer_bytes_ = 0;
  CoreResult result_;
};

}  // namespace

CoreResult search_core(std::span<const Items> classes, const Dual& dual, std::int64_t gap,
                       std::span<const std::uint32_t> order, const CoreLimits& limits, std::int64_t spare) {
  return Search(classes, dual, gap, limits, spare).run(order);
}

GapResult close_gap(std::span<const Items> classes, const Dual& dual, std::vector<std::uint32_t> choice,
                    std::int64_t best, const GapSchedule& schedule, std::span<const std::uint32_t> order,
                    const CoreLimits& limits, std::int64_t spare) {
  GapResult result;
  result.choice = std::move(choice);
  result.best = best;
  std::int64_t gap = std::min(schedule.first, best);
  while (true) {
    if (schedule.relative_gap > 0 && !result.choice.empty() &&
        static_cast<double>(result.best - result.proven) <=
            schedule.relative_gap * static_cast<double>(dual.bound + result.best)) {
      result.stop = GapStop::GapReached;
      return result;
    }
    CoreResult found = search_core(classes, dual, gap, order, limits, spare);
    result.states += found.states;
    result.peak_states = std::max(result.peak_states, found.peak_states);
    result.peak_memory_bytes = std::max(result.peak_memory_bytes, found.peak_memory_bytes);
    result.open_classes = std::max(result.open_classes, found.open_classes);
    // At equal cost the search's choice is the lighter one.
    if (found.found && found.gap <= result.best) {
      result.best = found.gap;
      result.choice = std::move(found.choice);
    }
    if (found.stop != CoreStop::Complete) {
      result.stop = found.stop == CoreStop::Time ? GapStop::Time : GapStop::States;
      return result;
    }
    if (result.best <= gap) {
      result.proven = result.best;
      result.stop = GapStop::Optimal;
      return result;
    }
    result.proven = gap + 1;
    const double wider = static_cast<double>(gap) * schedule.growth + 1;
    gap = wider < static_cast<double>(result.best) ? std::max(gap + 1, static_cast<std::int64_t>(wider))
                                                   : result.best;
  }
}

}  // namespace quantfit::optimizer::mckp

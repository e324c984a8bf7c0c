// Super-blocks of the codebook formats: search for vectors, choice of scales, and the bytes of a block.
//
// A super-block of 256 weights lies in the lanes as 16 chunks of 16 weights: lane l holds one chunk, and
// sixteen registers hold its weights. A format with a scale per 16 weights has one scale per lane; one with a
// scale per 32 has its two chunks in lanes l and l + 8. So scales are chosen for all sub-blocks at once and
// nothing but the choice of the super-block scale sums over lanes.
//
// Search. With scale s and codebook vector g the cost of a group is sum w (|x| - s g)^2, a sum of the costs
// of the two halves of the vector (codebook_search.h). Two tables per group hold the costs of all 81 or 64
// half patterns; the best vector for a first half is the cheapest second half in its list: one minimum per
// codebook entry, and exact. The id of the second half rides in the low bits of its cost. Where the number of
// minus signs must be even and is not, one weight of the group gets the wrong sign: the flip costs 4 s w |x|
// g, the cheapest of the half is added to either half, and the search takes both into account.
//
// Scales. For a fixed vector the cost is C - 2 s A + s^2 B. Each search at some scale gives a point
// (A, B) per sub-block, and the minimum over points bounds the cost at every scale from above. The
// super-block scale and the sub-block codes are chosen against these bounds, searched exactly, added
// as points, and chosen again.
//
// Included once per target, as lanes-inl.h.

#if defined(QUANTFIT_CODEBOOK_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTFIT_CODEBOOK_BLOCKS_INL_H_
#undef QUANTFIT_CODEBOOK_BLOCKS_INL_H_
#else
#define QUANTFIT_CODEBOOK_BLOCKS_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "core/format.h"
#include "kernels/blocks.h"
#include "kernels/codebook_search.h"
#include "kernels/error_metric.h"
#include "kernels/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantfit::kernels::HWY_NAMESPACE::codebook {

inline constexpr int kIdBits = SplitCodebook::kIdBits;
inline constexpr int kIdMask = (1 << kIdBits) - 1;
inline constexpr int kMaxPoints = 40;

// How much is searched.
struct Plan {
  float guess_ratio;  // between scales tried with plain rounding
  int starts;         // scales searched per sub-block before the super-block scale is chosen
  float start_ratio;  // between them
  float unit_ratio;   // between candidates for the super-block scale
  int rounds;         // exact searches at chosen scales
  int sweeps;         // searches at the row's true multipliers, at most
  float least_gain;   // what a sweep must promise, relative to the variance term of the block
  bool all_codes;  // every code of a sub-block against every candidate, not only the two next to its optimum
  int shift_searches;  // IQ1: 0 takes the shifts from plain rounding, 1 chooses them in the first searches, 2
                       // in all
};

// ---- Formats

struct Iq2Common {
  static constexpr int kGroup = 8;
  static constexpr int kLevels = 3;
  static constexpr bool kSigned = false;
  static constexpr bool kWide = false;
  static constexpr int kCodes = 16;
  static constexpr float kUnit = 0.125F;  // sub-block scale = d * kUnit * (2 code + 1)
  static constexpr float kLevel[8] = {8, 25, 43};
  static constexpr float kLowest = 1.0F / 45;  // guesses of the scale over the root mean square
  static constexpr float kHighest = 1.0F / 8;
};

struct SpecIQ2_XXS : Iq2Common {
  using Block = BlockIQ2_XXS;
  static constexpr Format kFormat = Format::IQ2_XXS;
  static constexpr bool kParity = true;
  static constexpr bool kWide = true;
  static constexpr float kShrinkage = 0.10F;    // typical relative error
  static constexpr float kEnlargement = 1.06F;  // with error feedback: codebook_feedback-inl.h
  static const SplitCodebook& book() { return iq2xxs_split(); }
  static const FlatCodebook& flat() { return iq2xxs_flat(); }
};
struct SpecIQ2_XS : Iq2Common {
  using Block = BlockIQ2_XS;
  static constexpr Format kFormat = Format::IQ2_XS;
  static constexpr bool kParity = true;
  static constexpr float kShrinkage = 0.075F;
  static constexpr float kEnlargement = 1.045F;
  static const SplitCodebook& book() { return iq2xs_split(); }
  static const FlatCodebook& flat() { return iq2xs_flat(); }
};
struct SpecIQ2_S : Iq2Common {
  using Block = BlockIQ2_S;
  static constexpr Format kFormat = Format::IQ2_S;
  static constexpr bool kParity = false;
  static constexpr float kShrinkage = 0.06F;
  static constexpr float kEnlargement = 1.028F;
  static const SplitCodebook& book() { return iq2s_split(); }
  static const FlatCodebook& flat() { return iq2s_flat(); }
};
struct SpecIQ3_XXS {
  using Block = BlockIQ3_XXS;
  static constexpr Format kFormat = Format::IQ3_XXS;
  static constexpr int kGroup = 4;
  static constexpr int kLevels = 8;
  static constexpr bool kParity = true;
  static constexpr bool kSigned = false;
  static constexpr bool kWide = true;
  static constexpr int kCodes = 16;
  static constexpr float kUnit = 0.25F;
  static constexpr float kLevel[8] = {4, 12, 20, 28, 36, 44, 52, 62};
  static constexpr float kLowest = 1.0F / 50;
  static constexpr float kHighest = 1.0F / 6;
  static constexpr float kShrinkage = 0.035F;
  static constexpr float kEnlargement = 1.015F;
  static const SplitCodebook& book() { return iq3xxs_split(); }
  static const FlatCodebook& flat() { return iq3xxs_flat(); }
};
struct SpecIQ3_S {
  using Block = BlockIQ3_S;
  static constexpr Format kFormat = Format::IQ3_S;
  static constexpr int kGroup = 4;
  static constexpr int kLevels = 8;
  static constexpr bool kParity = false;
  static constexpr bool kSigned = false;
  static constexpr bool kWide = true;
  static constexpr int kCodes = 16;
  static constexpr float kUnit = 1.0F;
  static constexpr float kLevel[8] = {1, 3, 5, 7, 9, 11, 13, 15};
  static constexpr float kLowest = 1.0F / 13;
  static constexpr float kHighest = 1.0F / 1.5F;
  static constexpr float kShrinkage = 0.02F;
  static constexpr float kEnlargement = 1.008F;
  static const SplitCodebook& book() { return iq3s_split(); }
  static const FlatCodebook& flat() { return iq3s_flat(); }
};
struct Iq1Common {
  static constexpr int kGroup = 8;
  static constexpr int kLevels = 3;
  static constexpr bool kParity = false;
  static constexpr bool kSigned = true;
  static constexpr bool kWide = false;
  static constexpr int kCodes = 8;
  static constexpr float kUnit = 1.0F;
  static constexpr float kLevel[8] = {-1, 0, 1};
  static constexpr float kLowest = 0.7F;
  static constexpr float kHighest = 3.0F;
  static const SplitCodebook& book() { return iq1s_split(); }
  static const FlatCodebook& flat() { return iq1s_flat(); }
};
struct SpecIQ1_S : Iq1Common {
  using Block = BlockIQ1_S;
  static constexpr Format kFormat = Format::IQ1_S;
  static constexpr bool kWide = true;
  static constexpr float kShrinkage = 0.20F;
  static constexpr float kEnlargement = 1.16F;
};
struct SpecIQ1_M : Iq1Common {
  using Block = BlockIQ1_M;
  static constexpr Format kFormat = Format::IQ1_M;
  static constexpr float kShrinkage = 0.18F;
  static constexpr float kEnlargement = 1.11F;
};

// ---- One super-block in lanes

// Runs of eight weights are what shares a sign rule and a shift: two per lane.
inline constexpr int kRuns = 2;

// The weights to approximate, normalized so that the largest of the block lies in [1, 2).
struct Targets {
  F x[16];            // magnitudes, or signed for formats with a signed grid
  F w[16];            // weights of the squared errors
  I negative[kRuns];  // bit k: weight k of the run is negative
  F odd[kRuns];       // 1 where the run has an odd number of negatives, else 0
  F energy;           // sum w x^2 of the sub-block (kWide: the same in both its lanes)
};

template <class Spec>
struct Choice {
  static constexpr int kSets = 16 / Spec::kGroup;
  I first[kSets];  // pattern ids
  I second[kSets];
  F shift[kRuns];  // signed grids: +-1/8
};

// Costs of all half patterns, two registers for each: those of two groups, or those of one group without a
// sign flip and with the cheapest flip of the half.
inline constexpr int kStride = SplitCodebook::kStride;
struct Tables {
  HWY_ALIGN float first[SplitCodebook::kMaxPatterns * kStride];
  HWY_ALIGN float second[SplitCodebook::kMaxNodes * kStride];
};

// Sum over the lanes of a sub-block.
template <class Spec>
HWY_INLINE F over_sub_block(F lane) {
  if constexpr (Spec::kWide) {
    return lane + swap_halves(lane);
  } else {
    return lane;
  }
}

// `table` gets the costs of all patterns of the elements x, w (kGroup / 2 registers each); with kPayload
// their ids in the low bits. Price: 4 s w x where a flip is asked for.
template <class Spec, bool kPayload>
HWY_NOINLINE void fill_half(const F* x, const F* w, F s, F shift, const F* price, float* table) {
  constexpr int kHalf = Spec::kGroup / 2;
  constexpr int kLevels = Spec::kLevels;
  constexpr int kSide = kHalf == 4 ? 9 : 8;  // patterns are pairs of `kSide` sub-patterns
  F side[2][kSide];
  F flip[2][kSide];
  F cost[kHalf][kLevels];
  F charge[kHalf][kLevels];
  for (int l = 0; l < kLevels; ++l) {
    const F level = Spec::kSigned ? s * (set(Spec::kLevel[l]) + shift) : s * set(Spec::kLevel[l]);
    for (int k = 0; k < kHalf; ++k) {
      const F t = x[k] - level;
      cost[k][l] = (w[k] * t) * t;
      if constexpr (Spec::kParity) charge[k][l] = price[k] * set(Spec::kLevel[l]);
    }
  }
  if constexpr (kHalf == 4) {
    for (int h = 0; h < 2; ++h)
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) {
          side[h][3 * a + b] = cost[2 * h][a] + cost[2 * h + 1][b];
          if constexpr (Spec::kParity) flip[h][3 * a + b] = min(charge[2 * h][a], charge[2 * h + 1][b]);
        }
  } else {
    for (int h = 0; h < 2; ++h)
      for (int a = 0; a < 8; ++a) {
        side[h][a] = cost[h][a];
        if constexpr (Spec::kParity) flip[h][a] = charge[h][a];
      }
  }
  const I kept = set(~kIdMask);
  for (int a = 0; a < kSide; ++a)
    for (int b = 0; b < kSide; ++b) {
      const int id = a * kSide + b;
      F total = side[0][a] + side[1][b];
      if constexpr (Spec::kParity) {
        F flipped = total + min(flip[0][a], flip[1][b]);
        if constexpr (kPayload) flipped = insert_bits(flipped, kept, set(std::int32_t{id}));
        store(flipped, table + kStride * id + 16);
      }
      if constexpr (kPayload) total = insert_bits(total, kept, set(std::int32_t{id}));
      store(total, table + kStride * id);
    }
}

// The nodes that are minima of others.
HWY_INLINE void join_nodes(const SplitCodebook& book, float* second) {
  const SplitCodebook::Join* join = book.joins.data();
  for (const SplitCodebook::Join* end = join + book.join_count; join != end; ++join) {
    const float* a = second + join->a;
    const float* b = second + join->b;
    float* to = second + join->to;
    const F m0 = min_nonnegative(load(a), load(b));
    const F m1 = min_nonnegative(load(a + 16), load(b + 16));
    store(m0, to);
    store(m1, to + 16);
  }
}

// Minima over one list of second halves.
HWY_INLINE void list_minima(const std::uint16_t* list, std::size_t length, const float* second, F& m0,
                            F& m1) {
  m0 = min_nonnegative(load(second + list[0]), load(second + list[1]));
  m1 = min_nonnegative(load(second + list[0] + 16), load(second + list[1] + 16));
  for (std::size_t i = 2; i < length; i += 2) {
    m0 = min_nonnegative(m0, min_nonnegative(load(second + list[i]), load(second + list[i + 1])));
    m1 = min_nonnegative(m1, min_nonnegative(load(second + list[i] + 16), load(second + list[i + 1] + 16)));
  }
}

// The best vector of a group per lane.
struct Best {
  F cost;
  F second;  // cost of the second half with its id in the low bits
  I first;
  // A default constructor would not inherit the target's instruction set.
  static HWY_INLINE Best none() { return {set(3.0e38F), zero(), set(std::int32_t{0})}; }
  HWY_INLINE void offer(F candidate, F candidate_second, I candidate_first) {
    const M better = candidate < cost;
    cost = min_nonnegative(cost, candidate);
    second = select(better, candidate_second, second);
    first = select(better, candidate_first, first);
  }
  HWY_INLINE I second_id() const { return bits_of(second) & set(kIdMask); }
};

// Two groups without a rule for the signs.
inline HWY_NOINLINE void search_plain(const SplitCodebook& book, Tables& tables, Best& out0, Best& out1) {
  join_nodes(book, tables.second);
  Best best0 = Best::none();
  Best best1 = Best::none();
  const std::uint16_t* list = book.nodes.data();
  for (std::size_t i = 0; i < book.list_count; list += book.length[i++]) {
    F m0, m1;
    list_minima(list, book.length[i], tables.second, m0, m1);
    const float* first = tables.first + book.first_offset[i];
    const I id = set(book.first[i]);
    best0.offer(load(first) + m0, m0, id);
    best1.offer(load(first + 16) + m1, m1, id);
  }
  out0 = best0;
  out1 = best1;
}

// One group with one wrong sign (or where the flip's price is zero: without), and, where asked for, without.
template <bool kBoth>
HWY_NOINLINE void search_flipped(const SplitCodebook& book, Tables& tables, Best& out_plain,
                                 Best& out_flipped) {
  join_nodes(book, tables.second);
  Best best_plain = Best::none();
  Best best_flipped = Best::none();
  const std::uint16_t* list = book.nodes.data();
  for (std::size_t i = 0; i < book.list_count; list += book.length[i++]) {
    F plain, flipped;
    list_minima(list, book.length[i], tables.second, plain, flipped);
    const float* first = tables.first + book.first_offset[i];
    const I id = set(book.first[i]);
    const F head = load(first);
    const F t0 = head + flipped;
    const F t1 = load(first + 16) + plain;
    best_flipped.offer(min(t0, t1), select(t1 < t0, plain, flipped), id);
    if constexpr (kBoth) best_plain.offer(head + plain, plain, id);
  }
  out_flipped = best_flipped;
  if constexpr (kBoth) out_plain = best_plain;
}

// The best vectors of all groups at scale s (one per lane). Signed grids: the shifts are chosen as well or,
// unless `free_shifts`, those of `out` are kept.
template <class Spec>
HWY_NOINLINE void search(const Targets& t, F s, bool free_shifts, Tables& tables, Choice<Spec>& out) {
  constexpr int kHalf = Spec::kGroup / 2;
  const SplitCodebook& book = Spec::book();
  const F none = zero();
  if constexpr (Spec::kSigned) {
    F cost[2][kRuns];
    Best best[2][kRuns];
    if (!free_shifts) {
      for (int r = 0; r < kRuns; ++r) {
        const F* x = t.x + 8 * r;
        const F* w = t.w + 8 * r;
        fill_half<Spec, false>(x, w, s, out.shift[r], nullptr, tables.first + 16 * r);
        fill_half<Spec, true>(x + kHalf, w + kHalf, s, out.shift[r], nullptr, tables.second + 16 * r);
      }
      search_plain(book, tables, best[0][0], best[0][1]);
      for (int r = 0; r < kRuns; ++r) {
        out.first[r] = best[0][r].first;
        out.second[r] = best[0][r].second_id();
      }
      return;
    }
    for (int sign = 0; sign < 2; ++sign) {
      const F shift = set(sign == 0 ? 0.125F : -0.125F);
      for (int r = 0; r < kRuns; ++r) {
        fill_half<Spec, false>(t.x + 8 * r, t.w + 8 * r, s, shift, nullptr, tables.first + 16 * r);
        fill_half<Spec, true>(t.x + 8 * r + kHalf, t.w + 8 * r + kHalf, s, shift, nullptr,
                              tables.second + 16 * r);
      }
      search_plain(book, tables, best[sign][0], best[sign][1]);
      for (int r = 0; r < kRuns; ++r) cost[sign][r] = best[sign][r].cost;
      if constexpr (Spec::kWide) {  // one shift for the whole sub-block
        const F total = over_sub_block<Spec>(cost[sign][0] + cost[sign][1]);
        cost[sign][0] = cost[sign][1] = total;
      }
    }
    for (int r = 0; r < kRuns; ++r) {
      const M minus = cost[1][r] < cost[0][r];
      out.first[r] = select(minus, best[1][r].first, best[0][r].first);
      out.second[r] = select(minus, best[1][r].second_id(), best[0][r].second_id());
      out.shift[r] = select(minus, set(-0.125F), set(0.125F));
    }
  } else if constexpr (!Spec::kParity) {
    for (int n = 0; n < Choice<Spec>::kSets; n += 2) {
      for (int g = 0; g < 2; ++g) {
        const int e = (n + g) * Spec::kGroup;
        fill_half<Spec, false>(t.x + e, t.w + e, s, none, nullptr, tables.first + 16 * g);
        fill_half<Spec, true>(t.x + e + kHalf, t.w + e + kHalf, s, none, nullptr, tables.second + 16 * g);
      }
      Best best[2];
      search_plain(book, tables, best[0], best[1]);
      for (int g = 0; g < 2; ++g) {
        out.first[n + g] = best[g].first;
        out.second[n + g] = best[g].second_id();
      }
    }
  } else {
    constexpr bool kBoth = Spec::kGroup == 4;
    Best plain[Choice<Spec>::kSets];
    Best flipped[Choice<Spec>::kSets];
    for (int n = 0; n < Choice<Spec>::kSets; ++n) {
      const int e = n * Spec::kGroup;
      F price[Spec::kGroup];
      F factor = set(4.0F) * s;
      // Eight weights to a group: no price where the signs are fine, and one search answers for both cases.
      if constexpr (!kBoth) factor = factor * t.odd[n];
      for (int k = 0; k < Spec::kGroup; ++k) price[k] = factor * t.w[e + k] * t.x[e + k];
      fill_half<Spec, false>(t.x + e, t.w + e, s, none, price, tables.first);
      fill_half<Spec, true>(t.x + e + kHalf, t.w + e + kHalf, s, none, price + kHalf, tables.second);
      search_flipped<kBoth>(book, tables, plain[n], flipped[n]);
    }
    for (int n = 0; n < Choice<Spec>::kSets; ++n) {
      Best best = flipped[n];
      if constexpr (kBoth) {  // the run is two groups, one of which carries the flip
        const int a = n / 2 * 2;
        const M first = flipped[a].cost + plain[a + 1].cost < plain[a].cost + flipped[a + 1].cost;
        const M here = (set(0.5F) < t.odd[n / 2]) & (n == a ? first : !first);
        best.first = select(here, flipped[n].first, plain[n].first);
        best.second = select(here, flipped[n].second, plain[n].second);
      }
      out.first[n] = best.first;
      out.second[n] = best.second_id();
    }
  }
}

// The grid values of a choice, with their signs where `negative` is given; sums A = sum w x g and B = sum w
// g^2 of each sub-block with the sign flips paid for.
template <class Spec>
HWY_NOINLINE void realize(const Targets& t, const Choice<Spec>& choice, F* grid, I* negative, F& a, F& b) {
  constexpr int kHalf = Spec::kGroup / 2;
  const SplitCodebook& book = Spec::book();
  const I byte = set(std::int32_t{255});
  F sum_a = zero();
  F sum_b = zero();
  for (int r = 0; r < kRuns; ++r) {
    F product[8];
    F cheapest = set(3.0e38F);
    for (int half = 0; half < 8 / kHalf; ++half) {
      const int set_index = r * (8 / Spec::kGroup) + half / 2;
      I digits =
          gather(book.digits.data(), half % 2 == 0 ? choice.first[set_index] : choice.second[set_index]);
      for (int k = 0; k < kHalf; ++k) {
        const int e = 8 * r + half * kHalf + k;
        const F number = to_float(digits & byte);
        digits = shift_right<8>(digits);
        F g;
        if constexpr (Spec::kSigned) {
          g = number + (choice.shift[r] - set(1.0F));
        } else if constexpr (Spec::kFormat == Format::IQ3_S) {
          g = fma(number, set(2.0F), set(1.0F));
        } else if constexpr (Spec::kFormat == Format::IQ3_XXS) {
          g = fma(number, set(8.0F), set(4.0F)) + select(number == set(7.0F), set(2.0F), zero());
        } else {
          g = fma(number, set(17.0F), set(8.0F)) + select(number == set(2.0F), set(1.0F), zero());
        }
        grid[e] = g;
        const F wg = t.w[e] * g;
        sum_b = fma(wg, g, sum_b);
        sum_a = fma(wg, t.x[e], sum_a);
        if constexpr (Spec::kParity) {
          product[half * kHalf + k] = wg * t.x[e];
          cheapest = min(cheapest, product[half * kHalf + k]);
        }
      }
    }
    if constexpr (Spec::kParity) {
      sum_a = fnma(cheapest * set(2.0F), t.odd[r], sum_a);
      if (negative != nullptr) {
        I flip = set(std::int32_t{0});
        for (int k = 8; k-- > 0;) flip = select(product[k] == cheapest, set(std::int32_t{1} << k), flip);
        negative[r] = t.negative[r] ^ select(set(0.5F) < t.odd[r], flip, set(std::int32_t{0}));
      }
    } else if (negative != nullptr) {
      negative[r] = t.negative[r];
    }
  }
  a = over_sub_block<Spec>(sum_a);
  b = over_sub_block<Spec>(sum_b);
}

// 2 x 2 symmetric.
struct Pair {
  double p = 0;
  double q = 0;
};
struct Symmetric {
  double pp = 0;
  double pq = 0;
  double qq = 0;
  [[nodiscard]] Pair times(Pair s) const { return {pp * s.p + pq * s.q, pq * s.p + qq * s.q}; }
  [[nodiscard]] double form(Pair s) const { return pp * s.p * s.p + 2 * pq * s.p * s.q + qq * s.q * s.q; }
};

// (I + M)^-1: what is left to pay of the form s^T s when columns with M = sum (p, q)^T
// (p, q) / v can compensate.
inline Symmetric compensation(const Symmetric& m) {
  const double pp = 1 + m.pp;
  const double qq = 1 + m.qq;
  const double determinant = pp * qq - m.pq * m.pq;
  return {qq / determinant, -m.pq / determinant, pp / determinant};
}

// Columns with hardly any variance around a large mean would seem able to compensate everything
// for nothing; but their own rounding errors count with the square of the mean. So no column is
// taken to be cheaper than that.
HWY_INLINE F inverse_price(F v, F p, F q) {
  return set(1.0F) / max(max(v, set(1e-20F)), max(p * p, q * q));
}

// Everything about one super-block that stays while its scales and codes are chosen.
template <class Spec>
struct BlockState {
  Targets targets;
  F x[16];  // normalized weights
  F w[16];
  F p[16];
  F q[16];
  F inverse[16];  // inverse_price
  F a[kMaxPoints];
  F b[kMaxPoints];
  int points = 0;
  float up = 1;    // 2^k: what was divided by
  float down = 1;  // 2^-k
  bool coupled = false;
  Tables tables;
};

// Loads chunk l of the block into lane l; kWide: chunks 2 l and 2 l + 1 into lanes l and l + 8.
template <class Spec>
HWY_INLINE void load_chunks(const float* from, F* to) {
  HWY_ALIGN std::int32_t offset[16];
  for (int l = 0; l < 16; ++l) offset[l] = 16 * (Spec::kWide ? 2 * (l % 8) + l / 8 : l);
  load_transposed(from, offset, to);
}

// Sets the targets for multipliers `l` of the row sums.
template <class Spec>
HWY_NOINLINE void aim(BlockState<Spec>& block, Pair l) {
  Targets& t = block.targets;
  const F lp = set(static_cast<float>(-l.p));
  const F lq = set(static_cast<float>(-l.q));
  F energy = zero();
  for (int r = 0; r < kRuns; ++r) {
    I negative = set(std::int32_t{0});
    F count = zero();
    for (int k = 0; k < 8; ++k) {
      const int e = 8 * r + k;
      F x = block.x[e];
      if (block.coupled) x = fma(fma(lp, block.p[e], lq * block.q[e]), block.inverse[e], x);
      energy = fma(t.w[e] * x, x, energy);
      if constexpr (Spec::kSigned) {
        t.x[e] = x;
      } else {
        const M minus = x < zero();
        negative = negative | select(minus, set(std::int32_t{1} << k), set(std::int32_t{0}));
        if constexpr (Spec::kParity) count = select(minus, set(1.0F) - count, count);
        t.x[e] = abs(x);
      }
    }
    t.negative[r] = negative;
    t.odd[r] = count;
  }
  t.energy = over_sub_block<Spec>(energy);
}

// The unit scale (d * kUnit, normalized) that the block's half will really hold.
template <class Spec>
HWY_INLINE float rounded_unit(const BlockState<Spec>& block, float unit) {
  const float d = std::min(unit * block.up / Spec::kUnit, 65504.0F);
  return round_to_half(d) * Spec::kUnit * block.down;
}

// Codes of the sub-blocks for `unit` against the points, and the sum of the bounds.
template <class Spec>
HWY_INLINE float codes_for(const BlockState<Spec>& block, float unit, F target, F& codes) {
  const F u = set(unit);
  const F top = set(static_cast<float>(Spec::kCodes - 1));
  const F exact = clamp((target / u - set(1.0F)) * set(0.5F), zero(), top);
  const F c0 = round(exact);
  const F c1 = clamp(c0 + select(exact < c0, set(-1.0F), set(1.0F)), zero(), top);
  const F s0 = u * fma(c0, set(2.0F), set(1.0F));
  const F s1 = u * fma(c1, set(2.0F), set(1.0F));
  F cost0 = set(3.0e38F);
  F cost1 = cost0;
  for (int i = 0; i < block.points; ++i) {
    const F a = block.a[i] * set(-2.0F);
    cost0 = min(cost0, fma(block.b[i], s0, a) * s0);
    cost1 = min(cost1, fma(block.b[i], s1, a) * s1);
  }
  const M second = cost1 < cost0;
  codes = select(second, c1, c0);
  return sum(select(second, cost1, cost0));
}

// The best codes for `unit` among all; returns the sum of the bounds.
template <class Spec>
HWY_NOINLINE float all_codes_for(const BlockState<Spec>& block, float unit, F& codes) {
  F best = set(3.0e38F);
  codes = zero();
  for (int c = 0; c < Spec::kCodes; ++c) {
    const F s = set(unit * static_cast<float>(2 * c + 1));
    F cost = set(3.0e38F);
    for (int i = 0; i < block.points; ++i) cost = min(cost, fma(block.b[i], s, block.a[i] * set(-2.0F)) * s);
    const M better = cost < best;
    best = select(better, cost, best);
    codes = select(better, set(static_cast<float>(c)), codes);
  }
  return sum(best);
}

// Best scale of each sub-block for itself.
template <class Spec>
HWY_INLINE F free_scales(const BlockState<Spec>& block) {
  F best = set(-1.0F);
  F scale = zero();
  for (int i = 0; i < block.points; ++i) {
    const F ratio = block.a[i] / block.b[i];
    const F gain = block.a[i] * ratio;
    const M better = best < gain;
    best = select(better, gain, best);
    scale = select(better, ratio, scale);
  }
  return max(scale, zero());
}

template <class Spec>
HWY_NOINLINE void add_point(BlockState<Spec>& block, F s, bool free_shifts, Choice<Spec>& choice) {
  F grid[16];
  search<Spec>(block.targets, s, free_shifts, block.tables, choice);
  realize<Spec>(block.targets, choice, grid, nullptr, block.a[block.points], block.b[block.points]);
  ++block.points;
}

// Vectors with one level throughout are good for flat sub-blocks, whose best scale may lie far from the
// others'; their points need no search.
template <class Spec>
HWY_INLINE void add_uniform_points(BlockState<Spec>& block) {
  const Targets& t = block.targets;
  const SplitCodebook& book = Spec::book();
  F wx = zero();
  F w = zero();
  for (int r = 0; r < kRuns; ++r) {
    F cheapest = set(3.0e38F);
    for (int k = 0; k < 8; ++k) {
      const F product = t.w[8 * r + k] * t.x[8 * r + k];
      wx = wx + product;
      w = w + t.w[8 * r + k];
      cheapest = min(cheapest, product);
    }
    if constexpr (Spec::kParity) wx = fnma(cheapest * set(2.0F), t.odd[r], wx);
  }
  wx = over_sub_block<Spec>(wx);
  w = over_sub_block<Spec>(w);
  constexpr int kStep =
      Spec::kGroup == 8 ? 40 : 9;  // from the pattern of one level's repetition to the next's
  for (int l = 0; l < Spec::kLevels; ++l) {
    const int pattern = l * kStep;
    if (book.entry[static_cast<std::size_t>((pattern << kIdBits) | pattern)] == 0xFFFF) continue;
    block.a[block.points] = wx * set(Spec::kLevel[l]);
    block.b[block.points] = w * set(Spec::kLevel[l] * Spec::kLevel[l]);
    ++block.points;
  }
}

// What an assignment of one block costs: per run and lane.
struct Costs {
  HWY_ALIGN float variance[kRuns * 16];
  HWY_ALIGN float p[kRuns * 16];
  HWY_ALIGN float q[kRuns * 16];
};

// A choice with its signs, and what it costs at scale s.
template <class Spec>
struct Assignment {
  Choice<Spec> choice;
  I negative[kRuns];
  F value[16];  // signed grid values
};

template <class Spec>
HWY_NOINLINE void assign(BlockState<Spec>& block, F s, bool free_shifts, Assignment<Spec>& out) {
  F a, b;
  search<Spec>(block.targets, s, free_shifts, block.tables, out.choice);
  realize<Spec>(block.targets, out.choice, out.value, out.negative, a, b);
  if constexpr (!Spec::kSigned) {
    const I one = set(std::int32_t{1});
    for (int r = 0; r < kRuns; ++r) {
      I signs = out.negative[r];
      for (int k = 0; k < 8; ++k) {
        const M minus = (signs & one) == one;
        out.value[8 * r + k] = select(minus, -out.value[8 * r + k], out.value[8 * r + k]);
        signs = shift_right<1>(signs);
      }
    }
  }
}

template <class Spec>
HWY_NOINLINE void measure_runs(const BlockState<Spec>& block, F s, const Assignment<Spec>& assignment,
                               Costs& costs) {
  for (int r = 0; r < kRuns; ++r) {
    F variance = zero();
    F p = zero();
    F q = zero();
    for (int k = 0; k < 8; ++k) {
      const int e = 8 * r + k;
      const F error = fma(s, assignment.value[e], -block.x[e]);
      variance = fma(block.w[e] * error, error, variance);
      p = fma(block.p[e], error, p);
      q = fma(block.q[e], error, q);
    }
    store(variance, costs.variance + 16 * r);
    store(p, costs.p + 16 * r);
    store(q, costs.q + 16 * r);
  }
}

// Takes over the runs of `from` in which bit `lane` of `lanes[r]` is set.
template <class Spec>
HWY_NOINLINE void take_over(const std::uint32_t* lanes, const Assignment<Spec>& from, Assignment<Spec>& to) {
  constexpr int kSetsPerRun = 8 / Spec::kGroup;
  for (int r = 0; r < kRuns; ++r) {
    const M taken = mask_of_bits(lanes[r]);
    for (int set_index = r * kSetsPerRun; set_index < (r + 1) * kSetsPerRun; ++set_index) {
      to.choice.first[set_index] = select(taken, from.choice.first[set_index], to.choice.first[set_index]);
      to.choice.second[set_index] = select(taken, from.choice.second[set_index], to.choice.second[set_index]);
    }
    if constexpr (Spec::kSigned) to.choice.shift[r] = select(taken, from.choice.shift[r], to.choice.shift[r]);
    to.negative[r] = select(taken, from.negative[r], to.negative[r]);
    for (int k = 0; k < 8; ++k)
      to.value[8 * r + k] = select(taken, from.value[8 * r + k], to.value[8 * r + k]);
  }
}

// ---- Packing

// One block's fields in the order of the format. Runs of eight are numbered 0..31.
struct Fields {
  std::uint16_t d = 0;          // bits of the half
  std::uint8_t codes[16] = {};  // per sub-block
  std::uint16_t entries[64] = {};
  std::uint8_t negative[32] = {};  // sign bits, or for signed grids 1 where the shift is negative
};

inline void pack(const Fields& f, BlockIQ2_XXS& block) {
  block.d.pattern.set(f.d);
  for (std::size_t g = 0; g < 8; ++g) {
    std::uint32_t word = std::uint32_t{f.codes[g]} << 28;
    for (std::size_t k = 0; k < 4; ++k) {
      block.records[g].index[k] = static_cast<std::uint8_t>(f.entries[4 * g + k]);
      word |= (f.negative[4 * g + k] & 127U) << (7 * k);
    }
    block.records[g].signs_scale.set(word);
  }
}
inline void pack(const Fields& f, BlockIQ2_XS& block) {
  block.d.pattern.set(f.d);
  for (std::size_t n = 0; n < 32; ++n) block.qs[n].set(f.entries[n] | ((f.negative[n] & 127U) << 9));
  for (std::size_t g = 0; g < 8; ++g)
    block.scales[g] = static_cast<std::uint8_t>(f.codes[2 * g] | (f.codes[2 * g + 1] << 4));
}
inline void pack(const Fields& f, BlockIQ2_S& block) {
  block.d.pattern.set(f.d);
  for (std::size_t g = 0; g < 8; ++g) {
    unsigned high = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      block.qs[4 * g + k] = static_cast<std::uint8_t>(f.entries[4 * g + k]);
      block.signs[4 * g + k] = f.negative[4 * g + k];
      high |= (unsigned{f.entries[4 * g + k]} >> 8) << (2 * k);
    }
    block.qh[g] = static_cast<std::uint8_t>(high);
    block.scales[g] = static_cast<std::uint8_t>(f.codes[2 * g] | (f.codes[2 * g + 1] << 4));
  }
}
inline void pack(const Fields& f, BlockIQ3_XXS& block) {
  block.d.pattern.set(f.d);
  for (std::size_t n = 0; n < 64; ++n) block.qs[n] = static_cast<std::uint8_t>(f.entries[n]);
  for (std::size_t g = 0; g < 8; ++g) {
    std::uint32_t word = std::uint32_t{f.codes[g]} << 28;
    for (std::size_t k = 0; k < 4; ++k) word |= (f.negative[4 * g + k] & 127U) << (7 * k);
    block.signs_scale[g].set(word);
  }
}
inline void pack(const Fields& f, BlockIQ3_S& block) {
  block.d.pattern.set(f.d);
  for (std::size_t g = 0; g < 8; ++g) {
    unsigned high = 0;
    for (std::size_t k = 0; k < 8; ++k) {
      block.qs[8 * g + k] = static_cast<std::uint8_t>(f.entries[8 * g + k]);
      high |= (unsigned{f.entries[8 * g + k]} >> 8) << k;
    }
    block.qh[g] = static_cast<std::uint8_t>(high);
  }
  for (std::size_t n = 0; n < 32; ++n) block.signs[n] = f.negative[n];
  for (std::size_t k = 0; k < 4; ++k)
    block.scales[k] = static_cast<std::uint8_t>(f.codes[2 * k] | (f.codes[2 * k + 1] << 4));
}
inline void pack(const Fields& f, BlockIQ1_S& block) {
  block.d.pattern.set(f.d);
  for (std::size_t g = 0; g < 8; ++g) {
    std::uint32_t word = (std::uint32_t{f.codes[g]} << 12) | (std::uint32_t{f.negative[4 * g]} << 15);
    for (std::size_t k = 0; k < 4; ++k) {
      block.qs[4 * g + k] = static_cast<std::uint8_t>(f.entries[4 * g + k]);
      word |= (std::uint32_t{f.entries[4 * g + k]} >> 8) << (3 * k);
    }
    block.qh[g].set(word);
  }
}
inline void pack(const Fields& f, BlockIQ1_M& block) {
  for (std::size_t n = 0; n < 16; ++n) {
    unsigned high = 0;
    for (std::size_t k = 0; k < 2; ++k) {
      block.qs[2 * n + k] = static_cast<std::uint8_t>(f.entries[2 * n + k]);
      high |= ((unsigned{f.entries[2 * n + k]} >> 8) | (unsigned{f.negative[2 * n + k]} << 3)) << (4 * k);
    }
    block.qh[n] = static_cast<std::uint8_t>(high);
  }
  block.set_scales(f.codes, f.d);
}

template <class Spec>
HWY_NOINLINE void fields_of(const Assignment<Spec>& assignment, F codes, Fields& fields) {
  const SplitCodebook& book = Spec::book();
  constexpr int kSets = Choice<Spec>::kSets;
  HWY_ALIGN std::int32_t lanes[16];
  HWY_ALIGN float code_lanes[16];
  for (int n = 0; n < kSets; ++n) {
    store(shift_left<kIdBits>(assignment.choice.first[n]) | assignment.choice.second[n], lanes);
    for (int l = 0; l < 16; ++l) {
      const int chunk = Spec::kWide ? 2 * (l % 8) + l / 8 : l;
      fields.entries[chunk * kSets + n] = book.entry[static_cast<std::size_t>(lanes[l])];
    }
  }
  for (int r = 0; r < kRuns; ++r) {
    I negative = assignment.negative[r];
    if constexpr (Spec::kSigned)
      negative = select(assignment.choice.shift[r] < zero(), set(std::int32_t{1}), set(std::int32_t{0}));
    store(negative, lanes);
    for (int l = 0; l < 16; ++l) {
      const int chunk = Spec::kWide ? 2 * (l % 8) + l / 8 : l;
      fields.negative[chunk * kRuns + r] = static_cast<std::uint8_t>(lanes[l]);
    }
  }
  store(codes, code_lanes);
  for (int l = 0; l < (Spec::kWide ? 8 : 16); ++l) fields.codes[l] = static_cast<std::uint8_t>(code_lanes[l]);
}

// ---- The encoder of a row

// Chosen by measuring error and time: a third of what Default does beyond Fast shows in the error (a few
// percent), and what Max does beyond Default hardly (one percent).
template <class Spec>
Plan plan_for(Effort effort) {
  switch (effort) {
    case Effort::Fast:
      if constexpr (Spec::kSigned) return {1.16F, 0, 1, 1.06F, 0, 1, 0.003F, false, 0};
      return {1.12F, 2, 1.15F, 1.06F, 0, 1, 0.003F, false, 1};
    case Effort::Default:
      if constexpr (Spec::kSigned) return {1.12F, 0, 1, 1.05F, 0, 2, 0.002F, false, 1};
      if constexpr (Spec::kFormat == Format::IQ2_XXS || Spec::kFormat == Format::IQ2_XS)
        return {1.12F, 4, 1.15F, 1.05F, 1, 2, 0.002F, false, 2};
      return {1.12F, 3, 1.16F, 1.05F, 1, 2, 0.002F, false, 2};
    case Effort::Max:
      break;
  }
  return {1.08F, 20, 1.06F, 1.016F, 8, 4, 0, true, 2};
}

// A first guess of the scales: the best of some candidates when every weight is rounded to the nearest level,
// whatever the codebook holds. Signed grids: with the shifts that go with it. The guess becomes a point if
// asked for.
template <class Spec>
HWY_NOINLINE F guess_scales(BlockState<Spec>& block, float ratio, bool as_point, F* shift) {
  const Targets& t = block.targets;
  F weight = zero();
  for (int e = 0; e < 16; ++e) weight = weight + t.w[e];
  const F root = sqrt(t.energy / over_sub_block<Spec>(weight));
  const F reference = max(root, set(1e-4F * max_lane(root)));
  constexpr float kStep =
      Spec::kSigned ? 1.0F : (Spec::kLevel[Spec::kLevels - 1] - Spec::kLevel[0]) / (Spec::kLevels - 1);
  const F top = set(static_cast<float>(Spec::kLevels - 1));
  F best_cost = set(3.0e38F);
  F best = reference;
  for (float multiple = Spec::kLowest; multiple < Spec::kHighest; multiple *= ratio) {
    const F s = reference * set(multiple);
    const F inverse = set(1 / kStep) / s;
    F cost[2][kRuns];
    for (int sign = 0; sign < (Spec::kSigned ? 2 : 1); ++sign) {
      const float base = Spec::kLevel[0] + (Spec::kSigned ? (sign == 0 ? 0.125F : -0.125F) : 0.0F);
      const F offset = set(-base / kStep);
      const F first = s * set(base);
      const F step = s * set(kStep);
      for (int r = 0; r < kRuns; ++r) {
        F total = zero();
        for (int e = 8 * r; e < 8 * r + 8; ++e) {
          const F level = clamp(round(fma(t.x[e], inverse, offset)), zero(), top);
          const F error = t.x[e] - fma(level, step, first);
          total = fma(t.w[e] * error, error, total);
        }
        cost[sign][r] = total;
      }
      if constexpr (Spec::kWide)
        cost[sign][0] = cost[sign][1] = over_sub_block<Spec>(cost[sign][0] + cost[sign][1]);
    }
    F total = cost[0][0];
    if constexpr (Spec::kSigned) total = min(total, cost[1][0]);
    if constexpr (!Spec::kWide) {
      F second = cost[0][1];
      if constexpr (Spec::kSigned) second = min(second, cost[1][1]);
      total = total + second;
    }
    const M better = total < best_cost;
    best_cost = min(best_cost, total);
    best = select(better, s, best);
    if constexpr (Spec::kSigned)
      for (int r = 0; r < kRuns; ++r)
        shift[r] = select(better, select(cost[1][r] < cost[0][r], set(-0.125F), set(0.125F)), shift[r]);
  }
  if (as_point) {
    F sum_a = zero();
    F sum_b = zero();
    const F inverse = set(1 / kStep) / best;
    for (int e = 0; e < 16; ++e) {
      F base = set(Spec::kLevel[0]);
      if constexpr (Spec::kSigned) base = base + shift[e / 8];
      const F number = clamp(round(fma(t.x[e], inverse, base * set(-1 / kStep))), zero(), top);
      const F level = fma(number, set(kStep), base);
      const F wl = t.w[e] * level;
      sum_a = fma(wl, t.x[e], sum_a);
      sum_b = fma(wl, level, sum_b);
    }
    block.a[block.points] = over_sub_block<Spec>(sum_a);
    block.b[block.points] = over_sub_block<Spec>(sum_b);
    ++block.points;
  }
  return best;
}

// Chooses the unit scale and the codes for the block's targets.
template <class Spec>
HWY_NOINLINE void choose_scales(BlockState<Spec>& block, const Plan& plan, float& unit, F& codes,
                                Choice<Spec>& choice) {
  block.points = 0;
  if constexpr (!Spec::kSigned) add_uniform_points<Spec>(block);
  for (F& shift : choice.shift) shift = set(0.125F);
  const F reference = guess_scales(block, plan.guess_ratio, plan.starts == 0, choice.shift);
  float multiplier = 1;
  for (int i = 1; i < plan.starts; ++i) multiplier /= std::sqrt(plan.start_ratio);
  for (int i = 0; i < plan.starts; ++i, multiplier *= plan.start_ratio)
    add_point<Spec>(block, reference * set(multiplier), plan.shift_searches > 0, choice);

  constexpr float kTop = 2 * Spec::kCodes - 1;
  float best_cost = 0;
  unit = 0;
  codes = zero();
  F target = free_scales(block);
  const float largest = max_lane(target);
  for (float candidate = largest / (1.1F * kTop); candidate < largest * (2.4F / kTop);
       candidate *= plan.unit_ratio) {
    const float u = rounded_unit(block, candidate);
    if (!(u > 0)) continue;
    F c;
    const float cost = plan.all_codes ? all_codes_for(block, u, c) : codes_for(block, u, target, c);
    if (cost < best_cost) {
      best_cost = cost;
      unit = u;
      codes = c;
    }
  }
  for (int round_index = 0; round_index < plan.rounds && unit > 0; ++round_index) {
    const F multiple = fma(codes, set(2.0F), set(1.0F));
    add_point<Spec>(block, set(unit) * multiple, plan.shift_searches > 1, choice);
    target = free_scales(block);
    // Least squares for the vectors just found, and the neighbourhood of the scale at hand.
    const F a = block.a[block.points - 1];
    const F b = block.b[block.points - 1];
    const float fitted = sum(a * multiple) / sum(b * multiple * multiple);
    const float before = unit;
    const F codes_before = codes;
    best_cost = 0;
    for (int i = 0; i < 9; ++i) {
      const float u = rounded_unit(block, i < 8 ? before * (0.965F + 0.01F * static_cast<float>(i)) : fitted);
      if (!(u > 0)) continue;
      F c;
      const float cost = plan.all_codes ? all_codes_for(block, u, c) : codes_for(block, u, target, c);
      if (cost < best_cost) {
        best_cost = cost;
        unit = u;
        codes = c;
      }
    }
    all_codes_for(block, unit, codes);
    if (unit == before && all(codes == codes_before)) break;
  }
}

}  // namespace quantfit::kernels::HWY_NAMESPACE::codebook
HWY_AFTER_NAMESPACE();

#endif  // QUANTFIT_CODEBOOK_BLOCKS_INL_H_
